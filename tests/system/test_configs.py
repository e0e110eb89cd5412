"""Every example under configs/ loads, and its job runs in miniature."""

import json
import re
from pathlib import Path

import pytest

from client.hospital_file import load_hospital_file
from client.phantom import make_phantoms
from common.job import load_job, parse_job
from common.wire import PARTS
from simulation.run import simulate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
JOBS = sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name != "hospital.yaml")


def test_there_are_examples():
    assert {"demo.yaml", "chest_xray.yaml", "chest_xray_three_classes.yaml"} <= set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_the_job_runs_in_miniature(name, cache_dir, tmp_path):
    """The file as it is, but for a small network with random weights, small images, the phantoms' labels and few rounds."""
    content = load_job(CONFIGS / name).model_dump(mode="json")
    third = content["classes"][2:]
    rounds = 1 if content["method"]["name"] == "analytic" else 2
    small = {
        **content,
        "classes": ["normal", "opacity", *third],
        "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 1}},
        "image": {**content["image"], "size": 64},
        "method": {**content["method"], "rounds": rounds},
    }
    hospitals = make_phantoms(tmp_path / "phantoms", hospitals=4, images=24, size_px=64)
    result = simulate(parse_job(small), hospitals, tmp_path / "run", cache_dir=cache_dir)
    assert result.summary["rounds"] == rounds
    assert set(result.summary["missing_classes"]) == (set(hospitals) if third else set())


def test_the_hospital_file_loads():
    file = load_hospital_file(CONFIGS / "hospital.yaml")
    assert file.policy.approve == "manual"


@pytest.mark.slow
def test_real_hospitals_reach_the_published_figures(shared, tmp_path):
    """Four real hospitals with real ImageNet weights; the second run decodes nothing."""
    job = load_job(CONFIGS / "chest_xray.yaml")
    names = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")
    hospitals = {name: shared / "data" / "chest_xray" / name for name in names}
    settings = {"weights_dir": shared / "weights", "cache_dir": tmp_path / "cache"}
    pooled = simulate(job, hospitals, tmp_path / "one", **settings).summary["metrics"]["pooled"]
    assert pooled["auroc"] >= 0.965
    assert pooled["accuracy"] >= 0.9
    again = simulate(job, hospitals, tmp_path / "two", **settings).summary
    assert again["images"]["decoded"] == 0
    # The one round sends the upper half of the Gram matrix and the sums by class, and next to nothing else.
    (line,) = (tmp_path / "two" / "rounds.jsonl").read_text().splitlines()
    width = job.num_features + 1
    sums = (width * (width + 1) // 2 + width * job.num_classes) * 4
    assert json.loads(line)["bytes_up"] / len(hospitals) < 1.05 * sums


@pytest.mark.slow
def test_hospitals_with_one_class_take_part(shared, tmp_path):
    job = load_job(CONFIGS / "chest_xray_three_classes.yaml")
    folders = sorted((shared / "data" / "chest_xray").iterdir())
    hospitals = {folder.name: folder for folder in folders if folder.is_dir()}
    assert len(hospitals) == 6
    result = simulate(job, hospitals, tmp_path / "run", weights_dir=shared / "weights", cache_dir=tmp_path / "cache")
    summary = result.summary
    assert summary["missing_classes"]["hannover_mhh"] == ["normal", "pneumonia"]
    assert summary["missing_classes"]["literature"] == ["normal", "pneumonia"]
    assert summary["metrics"]["hospitals"]["hannover_mhh"]["auroc"] is None
    assert summary["metrics"]["pooled"]["n"] == sum(
        sum(one["images"][PARTS[2]]) for one in summary["hospitals"].values()
    )
    assert summary["metrics"]["pooled"]["auroc"] >= 0.98
    page = re.sub(r"<[^>]+>", "", (tmp_path / "run" / "report.html").read_text())
    assert "hannover_mhh has no image of normal, pneumonia" in page
    # The head, and what an image is held against: 64 directions as float16.
    spread = 64 * job.num_features * 2
    assert (tmp_path / "run" / "model.safetensors").stat().st_size < spread + 60_000
