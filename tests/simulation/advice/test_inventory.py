"""The inventory of machines: what a file may say, and what is measured instead."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from simulation.advice.inventory import Inventory, load_inventory, machines, weights_at_hand

HOSPITALS = {"north": Path("north"), "south": Path("south")}


def write(tmp_path, text):
    path = tmp_path / "inventory.yaml"
    path.write_text(text)
    return path


def test_a_stated_machine_is_no_mixture_with_this_one(tmp_path, job):
    path = write(
        tmp_path,
        "hospitals:\n  north: {device: cuda, gpu_memory_gb: 24}\n  south: {images_per_s: 3, network_mbit_per_s: 10}\n",
    )
    found = machines(job(), HOSPITALS, load_inventory(path, HOSPITALS), "cpu", tmp_path)
    north, south = found["north"], found["south"]
    assert (north.device, north.gpu_memory_gb, north.cores, north.images_per_s) == ("cuda", 24, None, None)
    assert north.stated
    assert (south.device, south.images_per_s, south.network_mbit_per_s) == ("cpu", 3, 10)
    assert south.cores >= 1


def test_without_an_inventory_this_machine_is_measured(tmp_path, job):
    found = machines(job(), HOSPITALS, Inventory(), "cpu", tmp_path / "not" / "there")
    assert found["north"] == found["south"]
    assert found["north"].images_per_s > 1
    assert found["north"].disk_free_gb > 0
    assert not found["north"].stated


def test_all_problems_are_named_together(tmp_path):
    path = write(
        tmp_path,
        "default: {device: gpu}\nhospitals:\n  north: {device: cuda}\n  south: {images_per_s: 0, gpu_memory: 3}\n",
    )
    with pytest.raises(ConfigError) as error:
        load_inventory(path, HOSPITALS)
    for said in ("4 problems", "'cpu', 'cuda' or 'mps'", "needs gpu_memory_gb", "images_per_s", "unknown key"):
        assert said in str(error.value)


def test_a_hospital_that_is_not_there_is_named_with_the_nearest(tmp_path):
    path = write(tmp_path, "hospitals:\n  nort: {cores: 4}\n")
    with pytest.raises(ConfigError, match="did you mean 'north'"):
        load_inventory(path, HOSPITALS)


def test_weights_at_hand_are_files_of_backbones_with_their_digests(tmp_path):
    (tmp_path / "resnet18.safetensors").write_bytes(b"abc")
    (tmp_path / "other.safetensors").write_bytes(b"abc")
    (found,) = weights_at_hand(tmp_path)
    assert found.backbone == "resnet18"
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights_at_hand(None) == ()
    with pytest.raises(ConfigError, match="there is no folder"):
        weights_at_hand(tmp_path / "none")
