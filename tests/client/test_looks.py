"""What a check says of DICOM files, and what it remembers of all files: a second one reads only what is new."""

import io
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from client import looks as looks_module
from client.check import check_hospitals
from client.check_table import print_check
from client.looks import Looks, look
from tests.dicom_files import JPEG_2000, recoded, uid, write_dicom, write_series

RNG = np.random.default_rng(1)
PIXELS = [np.asarray(Image.fromarray(RNG.integers(0, 255, (6, 6), np.uint8)).resize((40, 32), 2)) for _ in range(8)]


@contextmanager
def quiet(title, total):
    yield lambda more: None


@pytest.fixture
def opened(monkeypatch):
    """The files that were opened, in order."""
    seen = []

    def spy(path):
        seen.append(path.name)
        return look(path)

    monkeypatch.setattr(looks_module, "look", spy)
    return seen


@pytest.fixture
def folder(tmp_path):
    """Six DICOM films of three patients with little to hide, and one picture."""
    folder = tmp_path / "st-marys"
    for number, pixels in enumerate(PIXELS[:6]):
        write_dicom(
            folder / f"{number}.dcm",
            pixels,
            Modality="DX",
            PatientID=f"P{number // 2}",
            PatientName="Doe^Jane" if number == 0 else "",
            InstitutionName="St Mary's",
            StudyInstanceUID=uid("study", number // 2),
            SeriesInstanceUID=uid("series", number),
            BurnedInAnnotation="YES" if number == 1 else "NO",
            WindowCenter=128,
            WindowWidth=256,
        )
    Image.fromarray(PIXELS[6]).save(folder / "6.png")
    rows = [f"{number}.dcm,normal,," for number in range(6)] + ["6.png,opacity,p6,"]
    (folder / "manifest.csv").write_text("\n".join(["path,label,patient_id,split", *rows]) + "\n")
    return folder


def test_what_headers_say_is_counted_and_no_value_of_them_is_told(folder, tmp_path, job):
    recoded(folder / "5.dcm", folder / "5.dcm", JPEG_2000)
    result = check_hospitals({"a": folder}, job(modality="chest-xray"), quiet, tmp_path / "cache")
    found = result.hospitals["a"].dicom.to_dict()
    assert {name: found[name] for name in ("images", "files", "frames", "patients", "studies", "series")} == {
        "images": 6, "files": 6, "frames": 6, "patients": 3, "studies": 3, "series": 6
    }  # fmt: skip
    assert found["modalities"] == {"DX": 6}
    assert found["windows"] == {"128/256": 6}
    assert found["bits_stored"] == {"8": 6}
    assert found["syntaxes"] == {"Explicit VR Little Endian": 5, "JPEG 2000 Image Compression (Lossless Only)": 1}
    assert found["identifying"] == {"PatientID": 6, "InstitutionName": 6, "PatientName": 1, "StudyDate": 1}
    assert found["burned_in"] == {"NO".lower(): 5, "yes": 1}
    assert any("BurnedInAnnotation is YES in 1" in warning for warning in result.warnings)
    assert any("identifying elements" in warning for warning in result.warnings)
    assert result.errors == ()
    print_check(result, console := Console(file=io.StringIO(), width=300, record=True))
    printed = console.export_text()
    assert "6 of 3 patients, 3 studies, 6 series, 6 files, 6 frames" in printed
    for text in (json.dumps(result.to_dict()), printed):
        assert "Doe" not in text
        assert "Mary's" not in text


def test_another_modality_than_the_jobs_is_an_error(folder, job):
    result = check_hospitals({"a": folder}, job(modality="brain-ct", image={"size": 64, "window": "brain"}), quiet)
    assert result.errors == ("a: DICOM images of another modality than the job's (CT): DX (6)",)


def test_a_series_is_one_image_of_many_files(tmp_path):
    folder = tmp_path / "a"
    write_series(folder / "normal" / "s", [pixels.astype(np.uint16) for pixels in PIXELS[:5]])
    Image.fromarray(PIXELS[6]).save(folder / "normal" / "6.png")
    found = check_hospitals({"a": folder}, None, quiet, tmp_path / "cache").hospitals["a"]
    assert found.classes["normal"].images == 2
    assert (found.dicom.images, found.dicom.files, found.dicom.frames, len(found.dicom.series)) == (1, 5, 5, 1)


def test_hospitals_without_dicom_have_no_dicom_findings(tmp_path):
    (tmp_path / "a" / "normal").mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(tmp_path / "a" / "normal" / "1.png")
    assert check_hospitals({"a": tmp_path / "a"}, None, quiet).hospitals["a"].dicom is None


def test_a_second_check_reads_only_what_is_new_or_changed(folder, tmp_path, opened):
    cache = tmp_path / "cache"
    first = check_hospitals({"a": folder}, None, quiet, cache)
    assert sorted(opened) == [*(f"{number}.dcm" for number in range(6)), "6.png"]
    opened.clear()
    assert check_hospitals({"a": folder}, None, quiet, cache).to_dict() == first.to_dict()
    assert opened == []
    Image.fromarray(PIXELS[7]).save(folder / "6.png")
    changed = check_hospitals({"a": folder}, None, quiet, cache)
    assert opened == ["6.png"]
    (tmp_path / "other").mkdir()
    (cache / "patients.key").rename(tmp_path / "other" / "patients.key")
    assert changed.to_dict() == check_hospitals({"a": folder}, None, quiet, tmp_path / "other").to_dict()


def test_duplicates_are_found_among_what_is_remembered(folder, tmp_path, opened):
    (folder / "manifest.csv").unlink()
    for label in ("normal", "opacity"):
        (folder / label).mkdir()
    for number in range(7):
        name = f"{number}.dcm" if number < 6 else "6.png"
        (folder / name).rename(folder / "normal" / name)
    Image.fromarray(PIXELS[2]).save(folder / "opacity" / "again.png")
    cache = tmp_path / "cache"
    results = [check_hospitals({"a": folder}, None, quiet, where) for where in (cache, cache, None)]
    assert results[0].near_duplicates == (("a/normal/2.dcm", "a/opacity/again.png"),)
    assert results[0].to_dict() == results[1].to_dict()
    assert results[2].near_duplicates == results[0].near_duplicates


def test_an_interrupted_check_goes_on_where_it_was(folder, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(looks_module, "_AT_ONCE", 4)

    @contextmanager
    def impatient(title, total):
        done = 0

        def advance(more):
            nonlocal done
            done += more
            if done == 6:
                raise KeyboardInterrupt

        yield advance

    with pytest.raises(KeyboardInterrupt):
        check_hospitals({"a": folder}, None, impatient, tmp_path / "cache")
    before = set(opened)
    opened.clear()
    check_hospitals({"a": folder}, None, quiet, tmp_path / "cache")
    assert len(before) >= 6
    assert set(opened) <= {"6.png"}


def test_what_is_remembered_is_private_and_names_nothing(folder, tmp_path):
    check_hospitals({"a": folder}, None, quiet, tmp_path / "cache")
    path = tmp_path / "cache" / "looks.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    content = path.read_bytes()
    assert not any(word in content for word in (b"st-marys", b".dcm", b"Doe", b"Mary"))


def test_a_damaged_memory_is_set_aside(folder, tmp_path, opened):
    cache = tmp_path / "cache"
    first = check_hospitals({"a": folder}, None, quiet, cache)
    (cache / "looks.sqlite").write_bytes(b"no database at all, but long enough to be looked at as one" * 50)
    opened.clear()
    assert check_hospitals({"a": folder}, None, quiet, cache).to_dict() == first.to_dict()
    assert len(opened) == 7
    assert (cache / "looks.damaged").exists()


def test_what_cannot_be_read_is_tried_again(tmp_path, opened):
    (tmp_path / "1.png").write_bytes(b"")
    with Looks(tmp_path / "cache") as memory, ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            (found,) = memory.of([tmp_path / "1.png"], pool)
            assert "an empty file" in found.problem
    assert opened == ["1.png", "1.png"]
