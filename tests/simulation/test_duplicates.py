"""A film that two hospitals have: the run says how many, each hospital learns which, nobody else learns more."""

import csv
import json
import shutil
from contextlib import contextmanager

import pytest
from PIL import Image

from client.check import check_hospitals
from client.duplicate_keys import kept_collisions
from client.images import load_image
from client.records import read_rows
from common.errors import ConfigError
from simulation.run import simulate


@contextmanager
def quiet(title, total):
    yield lambda done: None


@pytest.fixture
def hospitals(phantoms, tmp_path):
    """Two phantom hospitals; the second has two films of the first, one of them turned, smaller and saved again."""
    folders = {}
    for name in ("hospital-a", "hospital-b"):
        rows = read_rows(phantoms[name])[:25]
        (tmp_path / name).mkdir()
        folders[name] = tmp_path / name
        lines = [["path", "label", "patient_id"], *([row.path.resolve(), row.label, row.patient_id] for row in rows)]
        if name == "hospital-b":
            first = read_rows(phantoms["hospital-a"])[:2]
            shutil.copy(first[0].path, tmp_path / name / "same.png")
            turned = load_image(first[1].path).transpose(Image.Transpose.ROTATE_270)
            turned.resize((56, 56), Image.Resampling.BICUBIC).save(tmp_path / name / "turned.png")
            lines += [["same.png", first[0].label, "x1"], ["turned.png", first[1].label, "x2"]]
        with (folders[name] / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)
    return folders


def test_a_shared_film_is_counted_and_named_only_at_the_hospitals(hospitals, job, tmp_path):
    one = job(method="analytic", duplicates="check")
    result = simulate(one, hospitals, tmp_path / "run", cache_dir=tmp_path / "cache", device="cpu")
    (shared,) = result.summary["duplicates"]
    assert shared["hospitals"] == ["hospital-a", "hospital-b"]
    assert shared["exact"] == 1
    assert min(shared["near"]) >= 1
    written = json.dumps(result.summary)
    assert "same.png" not in written
    assert "turned.png" not in written
    checked = check_hospitals(hospitals, None, quiet)
    digests = {image.name: image.digest for image in checked.images}
    kept = kept_collisions(tmp_path / "cache", "hospital-b", one.job_id)
    assert digests["same.png"] in kept["exact"]
    assert digests["turned.png"] in kept["near"]


def test_a_job_that_does_not_ask_has_no_such_figure(job):
    assert job().duplicates == "ignore"


def test_ray_cannot(hospitals, job, tmp_path):
    with pytest.raises(ConfigError, match="engine in-process"):
        simulate(job(duplicates="check"), hospitals, tmp_path / "run", engine="ray")
