"""The benchmark of the data checks on phantoms: all that is planted is named, and what else is named is counted."""

import csv

import numpy as np
import pytest
from PIL import Image

from benchmarks.data_quality import Roles, look, named_otherwise, plant, verdicts
from client.images import load_image
from client.records import read_rows
from simulation.pooling import Machine

ROLES = Roles(flipped="hospital-a", turned="hospital-a", dark="hospital-c", receiver="hospital-b", faulty="hospital-b")


@pytest.fixture(scope="module")
def marked(phantoms, tmp_path_factory):
    """Phantoms on which even a random network sees the classes: opacities are stripes over the right half."""
    out = tmp_path_factory.mktemp("marked")
    stripes = np.zeros((64, 64), bool)
    stripes[::4, 32:] = True
    for name, folder in phantoms.items():
        rows = [["path", "label", "patient_id"]]
        (out / name).mkdir()
        for row in read_rows(folder):
            pixels = np.asarray(load_image(row.path).convert("L")).copy()
            if row.label == "opacity":
                pixels[stripes] = 255 - pixels[stripes] // 2
            Image.fromarray(pixels).save(out / name / f"{row.path.stem}.png")
            rows.append([f"{row.path.stem}.png", row.label, row.patient_id])
        with (out / name / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    return {name: out / name for name in phantoms}


def test_everything_planted_is_named_and_little_else(marked, job, cache_dir, tmp_path):
    one = job(method="analytic", duplicates="check")
    machine = Machine(cache_dir=cache_dir, device="cpu")
    changed, planted = plant(marked, tmp_path, ROLES, one.classes, 4, seed=1)
    assert {name: len(read_rows(folder)) for name, folder in changed.items()} == {
        "hospital-a": 42,
        "hospital-b": 42,
        "hospital-c": 40,
    }
    found = look(changed, one, machine)
    for kind, (number, seen) in verdicts(found, planted, changed, marked).items():
        if kind != "drift of the darkened hospital":  # a third of the federation is never far from its mean
            assert seen == number > 0, (kind, named_otherwise(found))
    faults = [fault for name in ("hospital-a", "hospital-b") for fault in found.check.hospitals[name].faults]
    assert sorted(faults) == ["blank", "overexposed"]
    drift = {name: max(closer.drift.by_stage.values()) for name, closer in found.closer.items()}
    assert drift["hospital-c"] > 1.4 * max(drift["hospital-a"], drift["hospital-b"])
    assert not found.closer["hospital-a"].drift.far
    assert sum(len(closer.turned) for closer in found.closer.values()) <= 6  # three are planted
    assert (
        len(found.closer["hospital-a"].labels) <= 13
    )  # four are planted, and five pictures of it are not as they were
    assert "hospital-c" in named_otherwise(found)["drift"]
