"""Advice from folders to a job file, with phantoms and, where they are, real images."""

import csv
import random
from pathlib import Path

import pytest
import yaml

from client.phantom import make_phantoms
from common.errors import DataError
from common.job import load_job, parse_job
from simulation.advice.advise import advice_for
from simulation.hospitals import find_hospitals

PROJECT = Path(__file__).resolve().parents[3]
TINY = """\
name: tiny
classes: [normal, opacity]
modality: chest-xray
backbone: {name: squeezenet1_1, weights: random}   # a demonstration
image: {size: 64}
method: {name: fedavg, rounds: 5, local_epochs: 2}
"""
NET = """\
name: big
classes: [normal, opacity]
backbone: {name: densenet121, weights: IMAGENET1K_V1}
"""


def write(folder, text):
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def manifests(folder, sites):
    """Hospitals of which there are only manifests: images and share of opacities by name."""
    rng = random.Random(1)
    for name, (images, share) in sites.items():
        (folder / name).mkdir(parents=True)
        with (folder / name / "manifest.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "patient_id"])
            writer.writerows(
                [f"{number}.png", "opacity" if rng.random() < share else "normal", f"{name}-{number}"]
                for number in range(images)
            )
    return find_hospitals([folder])


def test_three_tiny_hospitals(tmp_path):
    hospitals = make_phantoms(tmp_path / "phantoms", hospitals=3, images=10, size_px=64)
    path = write(tmp_path, TINY)
    found = advice_for(path, hospitals, cache_dir=tmp_path, device="cpu")
    job = parse_job(yaml.safe_load(found.recommended.text))
    assert job == found.recommended.job
    assert job.method.name == "analytic"
    assert job.method.ridge == [1.0]
    assert job.features.stages == "last"
    assert "# a demonstration" in found.recommended.text
    assert "method.local_epochs" in found.recommended.removed
    assert all(machine.images_per_s for machine in found.situation.machines.values())


def test_a_gpu_in_the_inventory_and_many_images(tmp_path):
    hospitals = manifests(tmp_path / "sites", {"north": (5000, 0.6), "south": (4000, 0.15)})
    (tmp_path / "gpus.yaml").write_text("default: {device: cuda, gpu_memory_gb: 24, images_per_s: 900}\n")
    found = advice_for(write(tmp_path, NET), hospitals, inventory=tmp_path / "gpus.yaml", cache_dir=tmp_path)
    job = found.recommended.job
    assert job.tune.part == "last-blocks"
    assert (job.method.name, job.method.warm_start) == ("scaffold", "analytic")
    assert job.tune.batch_norm == "local"
    assert "a GPU at every hospital of 24 GB or more" in found.recommended.text


def test_a_job_that_tunes_comes_back_to_the_head_where_no_gpu_is(tmp_path):
    hospitals = manifests(tmp_path / "sites", {"north": (300, 0.6), "south": (300, 0.5)})
    (tmp_path / "cpus.yaml").write_text("default: {device: cpu, images_per_s: 20}\n")
    deep = "tune: {part: last-blocks, blocks: 3, lr: 0.01}\nmethod:\n  name: scaffold\n  warm_start: analytic\n  lr: 1e-1\n"
    found = advice_for(write(tmp_path, NET + deep), hospitals, inventory=tmp_path / "cpus.yaml", cache_dir=tmp_path)
    job = found.recommended.job
    assert (job.tune.part, job.method.name) == ("head", "analytic")
    assert set(found.recommended.removed) == {"tune.blocks", "tune.lr", "method.warm_start", "method.lr"}


def test_advice_taken_is_not_given_again(tmp_path):
    hospitals = manifests(tmp_path / "sites", {"north": (5000, 0.6), "south": (4000, 0.15)})
    (tmp_path / "gpus.yaml").write_text("default: {device: cuda, gpu_memory_gb: 24, images_per_s: 900}\n")
    settings = {"inventory": tmp_path / "gpus.yaml", "cache_dir": tmp_path}
    once = advice_for(write(tmp_path, NET), hospitals, **settings)
    again = advice_for(write(tmp_path, once.recommended.text), hospitals, **settings)
    assert again.recommended.changed == ()
    assert again.recommended.text == once.recommended.text


def test_no_training_image_is_an_error_that_says_so(tmp_path):
    hospitals = manifests(tmp_path / "sites", {"north": (3, 0.0)})
    path = write(tmp_path, "other_labels: skip\n" + NET.replace("normal, opacity", "a, b"))
    with pytest.raises(DataError, match="no hospital has a training image of the classes a, b"):
        advice_for(path, hospitals, cache_dir=tmp_path, device="cpu")


@pytest.mark.slow
def test_backbones_at_hand_are_tried_on_real_images(shared, tmp_path):
    hospitals = find_hospitals([shared / "data" / "chest_xray"], ["nih_clinical_center", "figure1"])
    content = yaml.safe_dump(
        load_job(PROJECT / "configs" / "chest_xray.yaml").model_dump(mode="json", include={"classes", "backbone"})
    )
    path = write(tmp_path, f"name: chest\nother_labels: skip\nmodality: chest-xray\nimage: {{size: 96}}\n{content}")
    found = advice_for(path, hospitals, measured=True, weights_dir=shared / "weights", cache_dir=tmp_path, device="cpu")
    tried = {(one.backbone, one.stages): one for one in found.situation.measured}
    assert set(tried) == {(name, stages) for name in ("mobilenet_v2", "squeezenet1_0") for stages in ("last", "all")}
    assert all(one.score > 0.6 for one in tried.values())
    backbone = next(one for one in found.recommendations if one.key == "backbone.name")
    assert backbone.reason.startswith("measured here: the best of 2 backbones")
    assert backbone.source == "measured here"
    assert found.recommended.job.backbone.weights.sha256
