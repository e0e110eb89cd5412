"""Lying updates of a hospital, and what methods make of them; and the table."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.attacks import malicious_hospital as lies
from benchmarks.attacks.malicious_hospital import ATTACKS, Trigger, backdoor_success, federated, method_against_one
from benchmarks.attacks.table import Table
from benchmarks.privacy.private_heads import Part, judged
from common.head import Head
from common.methods import METHODS
from common.model import Model
from server.strategies import STRATEGIES, hospitals_needed


def part(number: int, seed: int) -> Part:
    """Classes that can be told apart by the first two features."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, number)
    features = rng.normal(size=(number, 12))
    features[:, :2] += 3 * labels[:, None] - 1.5
    return Part(features.astype(np.float32), labels, np.array([f"{seed} {one}" for one in range(number)], dtype=object))


@pytest.fixture(scope="module", autouse=True)
def _little_garbage() -> Iterator[None]:
    """Flower's Bulyan collects garbage for every update, through all that torch has loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def trigger() -> Trigger:
    direction = np.zeros(12)
    direction[5] = 8.0
    return Trigger(direction)


def head_by(name: str, attack: str, trigger: Trigger, bound: float = 100.0) -> Head:
    method = method_against_one(name, 8)
    parts = [part(120, seed) for seed in range(max(5, hospitals_needed(method)))]
    return federated(method, parts, ATTACKS[attack], trigger, bound, 0)


def measures(head: Head, trigger: Trigger) -> tuple[float, float]:
    test = part(300, 99)
    return judged(head, [test])[0], backdoor_success(head, test, trigger)


@pytest.mark.parametrize("name", [name for name in METHODS if name in STRATEGIES])
def test_every_method_learns_without_an_attack(name: str, trigger: Trigger) -> None:
    assert measures(head_by(name, "none", trigger), trigger)[0] > 0.95


@pytest.mark.parametrize("attack", ["sign-flipped x10", "labels flipped x10"])
def test_one_hospital_ruins_fedavg_and_not_a_robust_method(attack: str, trigger: Trigger) -> None:
    assert measures(head_by("fedavg", attack, trigger), trigger)[0] < 0.6
    for name in ("fedmedian", "krum"):
        assert measures(head_by(name, attack, trigger), trigger)[0] > 0.95


def test_a_backdoor_gets_into_fedavg_and_not_into_krum(trigger: Trigger) -> None:
    area, success = measures(head_by("fedavg", "backdoor x10", trigger), trigger)
    assert area > 0.7
    assert success > 0.9
    assert measures(head_by("krum", "backdoor x10", trigger), trigger)[1] < 0.1


def test_the_guard_drops_a_long_change_and_lets_one_pass_that_was_cut(trigger: Trigger) -> None:
    bound = 2 * lies.honest_norm([part(120, seed) for seed in range(4)])
    for attack, least, most in (("backdoor x10", 0.0, 0.1), ("backdoor x10, cut to the guard", 0.5, 1.0)):
        assert least <= measures(head_by("fedavg", attack, trigger, bound), trigger)[1] <= most


def test_a_change_is_scaled_and_cut() -> None:
    start, after = Head.zeros(2, 3), Head(np.ones((2, 3), np.float32), np.ones(2, np.float32))
    np.testing.assert_array_equal(lies.scaled(start, after, -10).weight, -10.0)
    assert Model(lies.scaled(start, after, -10, most=2.0)).distance(Model(start)) == pytest.approx(2.0)
    np.testing.assert_array_equal(lies.scaled(start, start, 10, most=1.0).weight, 0.0)


def test_near_the_others_is_half_as_far_as_the_nearest() -> None:
    others = [Head(np.full((1, 1), value, np.float32), np.zeros(1, np.float32)) for value in (0.0, 2.0, 4.0, 6.0)]
    far = Head(np.full((1, 1), 100.0, np.float32), np.zeros(1, np.float32))
    assert lies.near(far, others).weight.item() == pytest.approx(3.5)


def test_poisoned_images_are_those_of_the_ill_labelled_normal(trigger: Trigger) -> None:
    honest = part(50, 0)
    found, ill = lies.poisoned(honest, trigger), honest.of(honest.labels == 1)
    assert found.labels[50:].tolist() == [0] * len(ill.labels)
    np.testing.assert_allclose(found.features[50:, 5], ill.features[:, 5] + 8, rtol=1e-6)
    np.testing.assert_array_equal(found.features[:50], honest.features)


def test_patients_are_dealt_whole() -> None:
    one = part(40, 0)
    doubled = Part(np.repeat(one.features, 2, axis=0), np.repeat(one.labels, 2), np.repeat(one.ids, 2))
    groups = lies.dealt(doubled, 3, 0)
    assert sum(len(group.ids) for group in groups) == 80
    assert not set(groups[0].ids) & set(groups[1].ids)


def test_a_table_as_text_and_as_records() -> None:
    table = Table("T", "S", ("seen", "value"), (("nothing", 0.5), ("all", [0.0, 1.0]), ("kept", "refused")))
    assert table.markdown() == (
        "### T\n\nSource: S.\n\n| seen | value |\n|---|---|\n| nothing | 0.500 |\n| all | 0.500 ± 0.500 |\n| kept | refused |\n"
    )
    assert [one["value"] for one in table.records()] == [
        {"mean": 0.5, "draws": [0.5]},
        {"mean": 0.5, "draws": [0.0, 1.0]},
        "refused",
    ]
