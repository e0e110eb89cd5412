"""The closed-form heads that a job's options allow, and which of two heads is better."""

from typing import Any

import numpy as np
import pytest

from common.candidates import (
    TEMPERATURES,
    Candidate,
    best_temperature,
    by_sums_alone,
    candidates,
    divided,
    improves,
    subsets_of,
)
from common.head import Head
from common.job import Job, parse_job
from common.methods import RIDGE
from common.metrics import Metrics, count, derive
from common.projection import projection_of
from common.ridge import Ridge
from common.sums import Sums
from common.wire import MAX_HEADS

SUBSETS = {"name": "analytic", "stage_subsets": True}


def job(method: Any = SUBSETS, stages: Any = ("features.3", "features.6"), **changes: Any) -> Job:
    """mobilenet_v2: features.3 has 24 channels, features.6 32; mean and maximum of both make 112 features."""
    features = {"stages": list(stages), "pool": ["mean", "max"], **changes}
    backbone = {"name": "mobilenet_v2", "weights": "random"}
    content = {
        "name": "j",
        "classes": ["a", "b"],
        "backbone": backbone,
        "features": features,
        "method": method,
        "seed": 3,
    }
    return parse_job(content)


def drawn(width: int, n: int = 80) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    return (rng.normal(size=(n, width)) + 0.5 * labels[:, None] * rng.normal(size=width)).astype(np.float32), labels


def test_the_subsets_of_stages_by_hand() -> None:
    """Slices: 0:24 mean and 24:48 maximum of the first stage, 48:80 and 80:112 of the second."""
    found = subsets_of(job())
    assert list(found) == ["all", "all by mean", "features.6 alone"]
    assert found["all"] is None
    means, last = found["all by mean"], found["features.6 alone"]
    assert means is not None
    assert last is not None
    assert means.tolist() == [*range(24), *range(48, 80)]
    assert last.tolist() == list(range(48, 80))


@pytest.mark.parametrize(
    ("one", "names"),
    [
        (job(pool=["mean"]), ["all", "features.6 alone"]),
        (job(pool=["max"]), ["all"]),
        (job(stages=["features.3"]), ["all"]),
        (job("analytic"), ["all"]),
        (job({"name": "analytic", "stage_subsets": False}), ["all"]),
        (job({"name": "fedavg", "warm_start": "analytic"}), ["all"]),
    ],
)
def test_which_subsets_there_are(one: Job, names: list[str]) -> None:
    assert list(subsets_of(one)) == names


def test_a_vector_without_positions_counts_as_its_mean() -> None:
    backbone = {"name": "vit_b_16", "weights": "random"}
    vit = parse_job({"name": "j", "classes": ["a", "b"], "backbone": backbone, "method": SUBSETS})
    last = subsets_of(vit)["output alone"]
    assert last is not None
    assert len(last) == 768
    assert last[-1] == vit.num_features - 1


def test_every_subset_strength_and_balance_is_tried_once() -> None:
    one = job()
    sums = Sums.of(*drawn(112), 2)
    found = candidates(one, sums)
    assert len(found) == 3 * 8 * 2 <= MAX_HEADS
    tried = {(candidate.stages, candidate.strength, candidate.balanced) for candidate in found}
    assert tried == {
        (name, strength, balanced) for name in subsets_of(one) for strength in RIDGE for balanced in (0, 1)
    }
    ridges = {name: Ridge(sums, columns) for name, columns in subsets_of(one).items()}
    for candidate in found:
        columns = subsets_of(one)[candidate.stages]
        head = ridges[candidate.stages].logits(candidate.strength, candidate.balanced)
        assert candidate.error == ridges[candidate.stages].error_left_out(candidate.strength)
        assert np.array_equal(candidate.head.weight, head.weight)
        assert np.array_equal(candidate.head.bias, head.bias)
        assert candidate.head.weight.shape == (2, 112)
        assert not np.delete(candidate.head.weight, np.arange(112) if columns is None else columns, axis=1).any()
        assert candidate.head.weight.any()


@pytest.mark.parametrize(("strengths", "subsets"), [(8, 3), (10, 3), (11, 2), (16, 2)])
def test_never_more_heads_than_one_message_holds(strengths: int, subsets: int) -> None:
    """2 x strengths for each subset, 64 at most; the subset of all features is always among them."""
    one = job({**SUBSETS, "ridge": [0.1 * (1 + at) for at in range(strengths)]})
    found = candidates(one, Sums.of(*drawn(112), 2))
    assert len(found) == 2 * strengths * subsets <= MAX_HEADS
    assert {candidate.stages for candidate in found} == set(list(subsets_of(one))[:subsets])


@pytest.mark.parametrize(
    ("class_weights", "balanced"), [("none", {False}), ("balanced", {True}), ("choose", {False, True})]
)
def test_balancing_as_the_job_says(class_weights: str, balanced: set[bool]) -> None:
    found = candidates(job({"name": "analytic", "class_weights": class_weights}), Sums.of(*drawn(112), 2))
    assert {candidate.balanced for candidate in found} == balanced


def test_a_warm_start_has_the_default_strengths_and_the_balance_of_its_method() -> None:
    warm = {"name": "fedavg", "warm_start": "analytic", "class_weights": "balanced"}
    found = candidates(job(warm), Sums.of(*drawn(112), 2))
    assert [candidate.strength for candidate in found] == list(RIDGE)
    assert all(candidate.balanced for candidate in found)


def test_a_projected_head_is_the_head_of_projected_features() -> None:
    one = job({"name": "analytic", "stage_subsets": False, "projection": 16, "ridge": [0.01, 0.1]})
    features, labels = drawn(112)
    matrix = projection_of(one)
    projected = (features @ matrix).astype(np.float32)
    sums = Sums.of(projected, labels, 2)
    found = candidates(one, sums)
    assert len(found) == 4
    for candidate in found:
        assert candidate.head.weight.shape == (2, 112)
        head = Ridge(sums).logits(candidate.strength, candidate.balanced)
        expected = head.logits(projected)
        np.testing.assert_allclose(
            candidate.head.logits(features), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )
        assert np.array_equal(candidate.head.bias, head.bias)


def test_without_validation_the_least_error_left_out_decides_and_the_first_of_equals() -> None:
    head = Head.zeros(2, 2)
    told = [("all", 0.1, False, 0.3), ("all", 1.0, False, 0.2), ("all", 1.0, True, 0.2), ("last", 1.0, False, 0.25)]
    found = [Candidate(stages, strength, balanced, head, error) for stages, strength, balanced, error in told]
    assert by_sums_alone(found) is found[1]
    assert by_sums_alone(found[2:]) is found[2]


def test_the_temperatures_are_powers_of_two_by_quarters_about_one() -> None:
    assert len(TEMPERATURES) == 33
    assert (TEMPERATURES[0], TEMPERATURES[16], TEMPERATURES[-1]) == (1 / 16, 1.0, 16.0)
    np.testing.assert_allclose(np.diff(np.log2(TEMPERATURES)), 0.25, rtol=1e-12)
    assert len(TEMPERATURES) <= MAX_HEADS


def test_a_divided_head_has_divided_logits() -> None:
    head = Head(np.array([[2, -4]], np.float32), np.array([6], np.float32))
    half = divided(head, 2.0)
    assert (half.weight.tolist(), half.bias.tolist()) == ([[1.0, -2.0]], [3.0])
    assert (half.weight.dtype, half.bias.dtype) == (np.float32, np.float32)


def metrics(auroc: float | None = None, log_loss: float | None = None) -> Metrics:
    empty = dict.fromkeys(Metrics.__dataclass_fields__)
    return Metrics(**{**empty, "n": 9, "auroc": auroc, "log_loss": log_loss})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidate", "incumbent", "better"),
    [
        (metrics(0.9, 0.5), metrics(0.8, 0.1), True),
        (metrics(0.7, 0.1), metrics(0.8, 0.5), False),
        (metrics(0.8, 0.1), metrics(0.8, 0.5), True),  # a tie: log loss decides
        (metrics(0.8, 0.5), metrics(0.8, 0.5), False),  # a full tie: the earlier round stays
        (metrics(None, 0.3), metrics(0.8, 0.5), False),
        (metrics(), metrics(), True),  # no validation patients: the later round
        (None, metrics(0.8, 0.5), False),
        (metrics(0.8, 0.5), None, True),
        (None, None, True),
    ],
)
def test_which_head_is_better(candidate: Metrics | None, incumbent: Metrics | None, better: bool) -> None:
    assert improves(candidate, incumbent, "auroc") is better


def tempered(confident: float, right: int, wrong: int = 0) -> list[Metrics]:
    """The metrics with each temperature of a head that is this sure (probability of two) of patients it gets right or not."""
    score = np.log(confident / (1 - confident))
    logits = np.full(right + wrong, score)
    head = Head(np.array([[0.0], [1.0]], np.float32), np.zeros(2, np.float32))
    labels = np.repeat([1, 0], [right, wrong])
    features = logits[:, None].astype(np.float32)
    return [derive(count(divided(head, one).probabilities(features), labels)) for one in TEMPERATURES]


@pytest.mark.parametrize("confident", [0.6, 0.8, 0.95])
def test_five_patients_all_of_them_right_hardly_move_the_temperature(confident: float) -> None:
    """Without the cost the least temperature of all would fit them best."""
    metrics = tempered(confident, right=5)
    assert min(range(len(metrics)), key=lambda at: metrics[at].log_loss or 0.0) == 0
    assert 0.5 <= TEMPERATURES[best_temperature(metrics)] <= 1.0


@pytest.mark.parametrize(("right", "wrong", "truth"), [(400, 100, 0.8), (300, 200, 0.6), (490, 10, 0.98)])
def test_five_hundred_patients_are_fitted(right: int, wrong: int, truth: float) -> None:
    """A head that is surer than it should be, and one that is less: what it says is then how often it is right."""
    for confident in (0.999, 0.55):
        metrics = tempered(confident, right, wrong)
        temperature = TEMPERATURES[best_temperature(metrics)]
        said = 1 / (1 + ((1 - confident) / confident) ** (1 / temperature))
        assert said == pytest.approx(truth, abs=0.05)


def test_the_cost_of_a_temperature_by_hand() -> None:
    """Two patients. With temperature 2 they lose 2 x 0.5 + 2 x 1 nats, with 1 2 x 1.4; with 1/4 2 x 0 + 2 x 4."""

    def costing(**loss: float) -> int:
        losses = {float(key.removeprefix("t").replace("_", ".")): value for key, value in loss.items()}
        plain = {**dict.fromkeys(Metrics.__dataclass_fields__), "n": 2}
        found = [Metrics(**{**plain, "log_loss": losses.get(one, 99.0)}) for one in TEMPERATURES]  # type: ignore[arg-type]
        return int(best_temperature(found))

    assert TEMPERATURES[costing(t2=0.5, t1=1.4, t0_25=0.0)] == 1.0
    assert TEMPERATURES[costing(t2=0.5, t1=1.6, t0_25=0.0)] == 2.0
    assert TEMPERATURES[costing(t2=3.0, t1=4.6, t0_25=0.4)] == 2.0
    assert TEMPERATURES[costing(t2=3.5, t1=4.6, t0_25=0.4)] == 0.25
