"""Federations of hospitals that tell no small count: they train as others do, and their figures are near the exact ones."""

import hashlib
import json
from functools import reduce
from operator import add

import numpy as np
import pytest

from client import policy as module
from client.phantom import make_phantoms
from client.rounding import auroc_bound
from client.suppression import KEY_FILE
from common.metrics import ClassificationCounts, derive
from simulation.run import simulate

METHODS = {
    "analytic": {
        "method": {"name": "analytic", "ridge": [1.0], "class_weights": "none"},
        "features": {"stages": "last"},
    },
    "fedavg": {"method": {"name": "fedavg", "rounds": 5, "lr": 0.01}},
}
PARTS = {"evaluation": {"test_fraction": 0.4, "validation_fraction": 0.2}}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("many"), hospitals=3, images=240, size_px=64)


@pytest.fixture(scope="module")
def own_cache(hospitals, tmp_path_factory):
    """A feature cache, with the keys by which the hospitals draw: the same in every run of these tests."""
    folder = tmp_path_factory.mktemp("own-cache")
    for name in hospitals:
        (folder / f"state-of-{name}").mkdir()
        (folder / f"state-of-{name}" / KEY_FILE).write_bytes(hashlib.sha256(name.encode()).digest())
    return folder


@pytest.fixture
def run(hospitals, job, own_cache, tmp_path, monkeypatch):
    """A run of hospitals that count in multiples of `base`."""

    def make(method: str, base: int, **more):
        careful = module.OF_SIMULATIONS.model_copy(update={"min_count": base})
        monkeypatch.setattr(module, "OF_SIMULATIONS", careful)
        monkeypatch.setattr("client.app.hospitals", {})
        one = job(name=f"suppressed-{method}", **METHODS[method], **PARTS, **more)
        return simulate(one, hospitals, tmp_path / f"{method}-{base}", cache_dir=own_cache)

    return make


def counts_of(folder) -> dict[str, ClassificationCounts]:
    content = json.loads((folder / "counts.json").read_text())["hospitals"]
    return {
        name: ClassificationCounts(**{part: np.array(numbers) for part, numbers in one.items()})
        for name, one in content.items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_federation_that_tells_no_small_count(method, run):
    exact = run(method, 1)
    before = derive(reduce(add, counts_of(exact.folder).values()))
    for base, room in ((5, 0.04), (10, 0.08)):
        found = run(method, base)
        assert found.summary["failures"] == []
        hospitals = counts_of(found.folder)
        assert all((part % base == 0).all() for one in hospitals.values() for part in (one.confusion, one.histograms))
        pooled = reduce(add, hospitals.values())
        after, share = derive(pooled), pooled.n / before.n
        assert 0.8 < share <= 1
        # Those left out are at most b - 1 of each class of each hospital; the others are off by the bound.
        rounding = len(hospitals) * auroc_bound(pooled, 1, base)
        assert abs(after.auroc - before.auroc) <= 2 * rounding
        for name in ("auroc", "accuracy", "specificity", "brier"):
            assert abs(getattr(after, name) - getattr(before, name)) < room, name
        for name, one in found.summary["hospitals"].items():
            assert one["images"]["train"] == exact.summary["hospitals"][name]["images"]["train"]
            assert all(number % base == 0 for part in ("validation", "test") for number in one["images"][part])


def test_a_hospital_that_tells_no_small_count_tells_no_training_loss(run):
    rounds = [json.loads(line) for line in (run("fedavg", 7).folder / "rounds.jsonl").read_text().splitlines()]
    assert [one["train_loss"] for one in rounds] == [None] * 5
