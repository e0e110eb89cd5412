"""`consilium check --html` and `--backbone`, in this process: a new one takes seconds to import torch."""

import json

import pytest

from cli.images import check
from common.errors import ConfigError


@pytest.fixture
def job_file(job, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(job().canonical_json(), encoding="utf-8")
    return path


def test_a_page_for_each_hospital(phantoms, job_file, cache_dir, tmp_path, capsys):
    folders = [phantoms[name] for name in ("hospital-a", "hospital-b")]
    check(folders, job=job_file, html=tmp_path / "look.html", output_format="json", cache_dir=cache_dir, device="cpu")
    out, err = capsys.readouterr()
    found = json.loads(out)["through_the_backbone"]
    assert found["hospital-a"]["drift"]["compared_with"] == "the 2 hospitals looked at together"
    assert err.count("page    ") == 2
    for name in ("hospital-a", "hospital-b"):
        assert f"Images of {name}" in (tmp_path / f"look-{name}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("backbone", [None, False])
def test_without_a_job_or_with_no_backbone_it_says_what_was_not_looked_at(
    phantoms, job_file, tmp_path, capsys, backbone
):
    job = None if backbone is None else job_file
    check([phantoms["hospital-a"]], job=job, html=tmp_path / "one.html", backbone=backbone, cache_dir=tmp_path)
    assert "page    " in capsys.readouterr().out
    assert "Not looked at" in (tmp_path / "one.html").read_text(encoding="utf-8")


def test_with_backbone_the_terminal_says_what_to_look_at(phantoms, job_file, cache_dir, capsys):
    check([phantoms["hospital-b"]], job=job_file, backbone=True, cache_dir=cache_dir, device="cpu")
    assert "to look at: hospital-b: not looked at: images that" in " ".join(capsys.readouterr().out.split())


def test_the_backbone_needs_a_job(phantoms):
    with pytest.raises(ConfigError, match="needs --job"):
        check([phantoms["hospital-a"]], backbone=True)


def test_a_page_that_cannot_be_written(phantoms, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--html: cannot write"):
        check([phantoms["hospital-a"]], html=tmp_path / "file" / "page.html", cache_dir=tmp_path)
