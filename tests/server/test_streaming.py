"""Replies are used as they come and let go: memory does not grow with the hospitals, and no order changes a bit."""

import gc
import random
import weakref

import numpy as np
import pytest

from common.metrics import count
from common.wire import REFUSAL
from server import exchange as exchange_module
from server.exchange import Exchange
from server.kept_counts import KeptCounts
from server.rounds import run_job
from simulation.grid import InProcessGrid

NAMES = [f"h-{number:02d}" for number in range(40)]


class Shuffled(InProcessGrid):
    """Answers in another order for every seed, and takes requests in that order."""

    seed = 0

    def pull_messages(self, message_ids):
        ids = list(message_ids)
        random.Random(self.seed).shuffle(ids)
        return super().pull_messages(ids)


def outcome_of(job, hospitals, grid_of, seed=0):
    grid = grid_of(hospitals, Shuffled)
    grid.seed = seed
    return run_job(job, Exchange(grid, poll_s=0.01))


def bits(outcome):
    return [array.tobytes() for array in outcome.model.arrays().values()] + [outcome.pooled.losses.tobytes()]


@pytest.mark.parametrize("method", ["fedavg", "fedadam", "fedavgm", "fedmedian", "analytic"])
def test_the_order_of_arrival_changes_no_bit(method, small_job, scripted, examples, grid_of, monkeypatch):
    monkeypatch.setattr(exchange_module, "_MOST_AT_ONCE", 3)
    rows = [[[5 + k, 6], [3, 2], [2, 2 + k]] for k in range(7)]
    hospitals = {f"h{k}": scripted(step=0.1 * k + 0.013, examples=examples(k, row)) for k, row in enumerate(rows)}
    job = small_job(method={"name": method, **({} if method == "analytic" else {"rounds": 3})})
    found = [bits(outcome_of(job, hospitals, grid_of, seed)) for seed in range(3)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("method", "kinds"), [("fedavg", ("fit", "evaluate")), ("analytic", ("statistics", "evaluate"))]
)
def test_at_most_a_few_replies_are_alive(method, kinds, small_job, scripted, grid_of, monkeypatch):
    monkeypatch.setattr(exchange_module, "_MOST_AT_ONCE", 4)
    alive: dict[int, int] = {}
    made = [0]
    real = exchange_module.from_records

    def watched(records):
        packed = real(records)
        if REFUSAL not in packed.fields and ({"losses", "gram"} & set(packed.arrays)):
            made[0] += 1
            alive[id(packed)] = 1
            weakref.finalize(packed, alive.pop, id(packed))
        most[0] = max(most[0], len(alive))
        return packed

    most = [0]
    monkeypatch.setattr(exchange_module, "from_records", watched)
    hospitals = {name: scripted() for name in NAMES}
    job = small_job(method={"name": method, **({} if method == "analytic" else {"rounds": 2})})
    gc.disable()  # they must go by themselves, not when somebody looks for cycles
    try:
        outcome_of(job, hospitals, grid_of)
    finally:
        gc.enable()
    assert made[0] >= 3 * len(NAMES)
    assert most[0] <= 4 + 2


def test_hospitals_that_drop_out_in_the_middle_are_left_out(small_job, scripted, grid_of):
    """Their updates are in no mean: the rest is what the rest alone would give."""

    def refuse(_kind, records):
        raise RuntimeError("gone")

    def wrong(_kind, records):
        records["arrays"].pop("bias")
        return records

    job = small_job(method={"name": "fedavg", "rounds": 1})
    well = {name: scripted(step=0.01 * place) for place, name in enumerate(NAMES[:10])}
    bad = {"x-1": scripted(step=9.0, tamper=refuse), "x-2": scripted(step=9.0, tamper=wrong)}
    found = outcome_of(job, {**well, **bad}, grid_of)
    alone = outcome_of(job, well, grid_of)
    np.testing.assert_array_equal(found.model.head.weight, alone.model.head.weight)
    assert {one.hospital for one in found.failures if one.phase == "fit"} == {"x-1", "x-2"}


def test_a_round_without_a_quorum_changes_nothing(small_job, scripted, grid_of):
    job = small_job(method={"name": "fedavg", "rounds": 4}, quorum={"min_hospitals": 3, "deadline_s": 5})

    def second_round_fails(_kind, records):
        if records["config"]["round"] == 2:
            raise RuntimeError("gone")
        return records

    hospitals = {name: scripted(step=0.1, tamper=second_round_fails) for name in ("a", "b")} | {"c": scripted(step=0.1)}
    found = outcome_of(job, hospitals, grid_of)
    assert {(one.hospital, one.round) for one in found.failures if one.phase == "fit"} == {("a", 2), ("b", 2)}
    assert found.rounds == 4


def test_counts_are_kept_small_and_come_back_as_they_were():
    rng = np.random.default_rng(0)
    kept, counts = KeptCounts(), {}
    for name in ("b", "a"):
        labels = rng.integers(0, 2, 50)
        counts[name] = count(rng.dirichlet(np.ones(2), 50), labels)
        kept.keep(name, counts[name])
    assert list(kept) == ["a", "b"]
    for name, one in kept.items():
        for field in ("confusion", "histograms", "calibration", "losses"):
            array = getattr(one, field)
            assert array.dtype == np.int64
            np.testing.assert_array_equal(array, getattr(counts[name], field))
    assert max(map(len, kept._kept.values())) < 1500  # 9 kB as they are
