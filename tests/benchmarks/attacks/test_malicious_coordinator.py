"""Lies to masks alone, which give a hospital's numbers, and to the hospitals of a run, which refuse."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.attacks import malicious_coordinator as lies
from benchmarks.attacks import naive_masks
from benchmarks.attacks.federation import sent
from benchmarks.privacy.private_heads import Part
from common.head import Head

NAMES = ("a", "b", "c", "d")
TARGET = 1


@pytest.fixture
def changes() -> list[np.ndarray]:
    return [np.random.default_rng(place).normal(size=(2, 6)) for place in range(4)]


@pytest.fixture
def start() -> Head:
    return Head.zeros(2, 5)


def test_masks_alone_give_the_sum_and_hide_the_single(changes: list[np.ndarray]) -> None:
    hospitals = naive_masks.hospitals_with(changes)
    np.testing.assert_allclose(naive_masks.total_of(hospitals, range(4)), sum(changes), atol=1e-6)
    vector = hospitals[TARGET].masked(TARGET, [one.point for one in hospitals])
    shown = hospitals[TARGET].layout.unpack(vector)["change"]
    assert np.abs(shown - changes[TARGET]).min() > 1.0


@pytest.mark.parametrize("lie", [naive_masks.by_forged_keys, naive_masks.by_replay, naive_masks.by_shrinking])
def test_masks_alone_give_a_single_to_a_liar(lie, changes: list[np.ndarray]) -> None:
    np.testing.assert_allclose(lie(changes, TARGET), changes[TARGET], atol=1e-6)


def test_a_model_from_which_nothing_moves(start: Head) -> None:
    rng = np.random.default_rng(0)
    part = Part(rng.normal(size=(20, 5)).astype(np.float32), rng.integers(0, 2, 20), np.arange(20).astype(object))
    dead = lies.dead(start)
    assert not sent(dead, part, "a", local=lies.LOCAL).change(dead).any()
    assert sent(start, part, "a", local=lies.LOCAL).change(start).any()


def test_it_singles_a_hospital_out_of_masks_alone(changes: list[np.ndarray]) -> None:
    def changes_of(honest):
        return [one if is_honest else np.zeros_like(one) for one, is_honest in zip(changes, honest, strict=True)]

    np.testing.assert_allclose(naive_masks.by_inconsistent_models(changes_of, 4, TARGET), changes[TARGET], atol=1e-6)


def test_without_a_lie_hospitals_of_a_run_give_the_sum(changes: list[np.ndarray], start: Head, tmp_path: Path) -> None:
    hospitals = lies.Hospitals(NAMES, tmp_path)
    found = hospitals.sum(dict(zip(NAMES, changes, strict=True)), lies.subject_of(1, start), "b")
    np.testing.assert_allclose(found, sum(changes), atol=1e-6)


@pytest.mark.parametrize(
    ("lie", "match"),
    [
        (lies.inconsistent_models, "keys that its node key has not signed for this session"),
        (lies.one_digest_two_models, "the question is not the one that all hospitals of the session have signed"),
        (lies.forged_keys, "keys that its node key has not signed for this session"),
        (lies.replay, "phase masked is out of order, or was answered before"),
        (lies.shrinking, "this hospital has helped to open a sum for 'fit:1'"),
    ],
)
def test_hospitals_of_a_run_refuse_a_lie(lie, match: str, changes: list[np.ndarray], start: Head) -> None:
    said = lies.told(lie, dict(zip(NAMES, changes, strict=True)), start, "b")
    assert str(said).startswith("refused: SecureSumError: ")
    assert match in str(said)


def test_two_rounds_of_one_model_tell_unless_all_must_be_in_the_sum(changes: list[np.ndarray], start: Head) -> None:
    named = dict(zip(NAMES, changes, strict=True))
    assert lies.told(lies.next_round, named, start, "b") == pytest.approx(0.0, abs=1e-6)
    assert "policy is at least 4 hospitals" in str(lies.told(lies.next_round, named, start, "b", least_in_sum=4))
