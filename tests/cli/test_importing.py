"""consilium import, as a person calls it."""

import pytest

import cli.main
from tests.client.dicom_originals import SECRETS, as_bytes, original


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Calls the command; returns exit code and what it said."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["consilium", "import", *map(str, arguments), "--salt", str(tmp_path / "salt")])
        with pytest.raises(SystemExit) as ended:
            cli.main.main()
        said = capsys.readouterr()
        return ended.value.code, " ".join((said.out + said.err).split())

    return run


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "originals" / "IM1"
    path.parent.mkdir()
    path.write_bytes(as_bytes(original()))
    return path


def test_it_says_what_it_did_and_what_to_do_next(call, image, tmp_path):
    out = tmp_path / "out"
    code, said = call(image, "--out", out)
    assert code == 0
    assert "written: 1, already there: 0, refused: 0" in said
    assert "1 images in" in said
    assert "have no label; fill in the column label" in said
    code, said = call(image.parent, "--out", out, "--label", "normal")
    assert code == 0
    assert "written: 0, already there: 1, refused: 0" in said
    assert "data: {manifest:" in said
    assert not any(secret in said for secret in SECRETS)


def test_refusals_have_a_reason_and_exit_codes_of_their_own(call, image, tmp_path):
    scan = image.with_name("US1")
    scan.write_bytes(as_bytes(original(series="1.2.3.4.1.9", Modality="US")))
    code, said = call(scan, "--out", tmp_path / "out")
    assert code == 3
    assert "1 x text burned into the image is likely" in said
    assert "nothing was imported" in said
    assert call(image.parent, "--out", tmp_path / "out")[0] == 1
    assert call(image.parent, "--out", tmp_path / "out", "--allow-burned-in")[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected either SOURCE..., or --dicomweb URL, or --orthanc URL"),
        (["IMAGE", "--orthanc", "https://pacs"], "expected either SOURCE"),
        (["IMAGE", "--query", "Modality=CT"], "--query is for a PACS"),
        (["IMAGE", "--label", "a", "--labels-from", "IMAGE"], "not both"),
        (["--orthanc", "https://pacs"], "say what with --query"),
        (["--orthanc", "http://pacs", "--query", "Modality=CT"], "is not encrypted"),
        (["--dicomweb", "https://a:b@pacs", "--query", "Modality=CT"], "other users of this machine can see it"),
    ],
)
def test_options_that_do_not_go_together(call, image, tmp_path, options, message):
    code, said = call(*[image if one == "IMAGE" else one for one in options], "--out", tmp_path / "out")
    assert code == 2
    assert message in said
    assert not (tmp_path / "out").exists()


def test_images_of_a_pacs_have_no_path(call, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\nx,normal\n")
    code, said = call(
        "--orthanc", "https://pacs", "--query", "Modality=CT", "--out", tmp_path / "out", "--labels-from", labels
    )
    assert code == 2
    assert "have no path" in said
