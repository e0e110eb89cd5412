"""Small counts do not leave: what the numbers are, how far off, and attacks that fail where exact counts give all away."""

import itertools
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.hospital import Hospital
from client.policy import OF_SIMULATIONS
from client.records import Record
from client.rounding import auroc_bound, rounded, rounded_counts
from client.suppression import KEY_FILE, Suppression, hospital_key, told_ranks
from common.errors import DataError
from common.head import softmax
from common.messages import Description, pack_heads, unpack_counts
from common.metrics import ClassificationCounts, count, derive, score_bin, score_centres
from common.ranking import ranking
from common.wire import EVALUATED_PARTS, REFUSAL, Packed
from server.counts_check import counts_problem
from server.guard import Expected, screen

KEY = bytes(32)
CLASSES = ("normal", "opacity", "effusion", "nodule")


def some(seed: int, per_class: list[int], spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) and labels (N,) of a middling head."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(per_class)), per_class)
    logits = rng.normal(0, spread, (len(labels), len(per_class)))
    logits[np.arange(len(labels)), labels] += 1.0
    return softmax(logits), labels


def told(probabilities, labels, base: int, key: bytes = KEY) -> ClassificationCounts:
    classes = CLASSES[: probabilities.shape[1]]
    return Suppression(base, key, classes).count(probabilities, labels, "test")


counts_along = st.lists(st.integers(0, 9), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(counts_along, st.integers(2, 12), st.binary(min_size=32, max_size=32))
def test_rounded_counts_are_multiples_near_the_exact_ones_with_the_same_total(along, base, key):
    exact = np.array(along)
    exact[-1] += -exact.sum() % base
    found = rounded(exact, told_ranks(key, base, "test", "a", int(exact.sum()) // base), base)
    assert found.sum() == exact.sum()
    assert (found % base == 0).all()
    assert (found[exact == 0] == 0).all()
    assert (np.abs(found.cumsum() - exact.cumsum()) < base).all()


def test_over_the_draws_a_rounded_count_is_right_in_the_mean():
    exact = np.array([3, 1, 0, 7, 9])
    keys = [number.to_bytes(32, "big") for number in range(4000)]
    mean = np.mean([rounded(exact, told_ranks(key, 5, "test", "a", 4), 5) for key in keys], axis=0)
    np.testing.assert_allclose(mean, exact, atol=0.2)


def test_counts_by_hand():
    """Scores of the second class; of ten images the second and the ninth in order are told, five times each."""
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95])
    found = rounded_counts(np.stack([1 - scores, scores], 1), np.ones(10, np.int64), {1: np.array([2, 9])}, 5)
    assert found.confusion.tolist() == [[0, 0], [5, 5]]
    assert np.flatnonzero(found.histograms[1, 1]).tolist() == score_bin(np.array([0.2, 0.9])).tolist()
    assert found.histograms[1, 1].max() == 5
    assert found.histograms[0, 0].sum() == 10
    assert found.calibration[:2].sum(axis=1).tolist() == [10, 5]
    assert derive(found).brier == pytest.approx((0.8**2 + 0.1**2) / 2, abs=0.01)
    assert derive(found).log_loss == pytest.approx(-np.log([0.2, 0.9]).mean(), abs=0.02)


sizes = st.lists(st.integers(0, 12), min_size=2, max_size=4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes, st.integers(2, 11), st.integers(0, 1000), st.sampled_from([0.1, 2.0, 30.0, 500.0]))
def test_every_count_is_a_multiple_and_the_guard_finds_no_contradiction(blocks, base, seed, spread):
    per_class = [base * number for number in blocks]
    found = told(*some(seed, per_class, spread), base)
    for numbers in (found.confusion, found.histograms, found.calibration[:2]):
        assert (numbers % base == 0).all()
    assert counts_problem(found, np.array(per_class)) is None
    assert [counts_problem(found + found, 2 * np.array(per_class)), derive(found).n] == [None, sum(per_class)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(2, 11), st.integers(0, 1000))
def test_the_auroc_is_within_the_bound(blocks, base, seed):
    probabilities, labels = some(seed, [base * number for number in blocks])
    exact, found = count(probabilities, labels), told(probabilities, labels, base)
    for label in range(len(blocks)):
        one, other = ranking(exact.histograms[label]), ranking(found.histograms[label])
        assert abs(one.auroc - other.auroc) <= auroc_bound(found, label, base) + 1e-12
    if len(blocks) == 2:
        assert (np.abs(exact.confusion - found.confusion) < base).all()


def test_with_many_images_all_metrics_are_near_the_exact_ones():
    probabilities, labels = some(1, [600, 400])
    exact = derive(count(probabilities, labels))
    for base, room in ((5, 0.012), (10, 0.025)):
        found = derive(told(probabilities, labels, base))
        for name in ("accuracy", "sensitivity", "specificity", "f1", "auroc", "average_precision", "ece", "brier"):
            assert getattr(found, name) == pytest.approx(getattr(exact, name), abs=room), name
        assert found.log_loss == pytest.approx(exact.log_loss, rel=0.05)


def test_centres_lie_in_their_bins():
    inner = slice(243)  # further up a probability is 1 in float64
    np.testing.assert_array_equal(score_bin(score_centres())[inner], np.arange(256)[inner])
    assert (np.diff(score_centres()) >= 0).all()
    assert (score_centres()[[0, -1]] == [0, 1]).all()


def test_two_classes_have_one_order():
    """The histograms of both say the same: other orders of the same images would narrow what is told."""
    found = told(*some(2, [35, 20]), 5)
    np.testing.assert_array_equal(found.histograms[0], found.histograms[1, ::-1, ::-1])
    below = found.histograms[1, :, :128].sum(axis=1)
    np.testing.assert_array_equal(below, found.confusion[:, 0])


def test_nobody_is_counted_where_a_class_has_too_few():
    assert told(np.zeros((0, 2)), np.zeros(0, np.int64), 5).n == 0


# ---------------------------------------------------------------------------------------------------------- who is counted


def records(number: int, part: str = "test", label: int = 0) -> list[Record]:
    return [Record(Path(f"/x/{part}-{label}-{index}.png"), label, f"p{index}", part) for index in range(number)]


def test_of_each_class_and_part_a_multiple_is_counted_and_all_of_training():
    everyone = [*records(13), *records(4, label=1), *records(10, "validation"), *records(3, "train", 1)]
    chosen = Suppression(5, KEY, CLASSES).kept(everyone)
    assert [int(chosen[some].sum()) for some in (slice(13), slice(13, 17), slice(17, 27), slice(27, 30))] == [
        10,
        0,
        10,
        3,
    ]


def test_who_is_counted_is_the_same_each_time_and_only_the_key_says_who():
    everyone = records(13)
    first = Suppression(5, KEY, CLASSES).kept(everyone)
    np.testing.assert_array_equal(Suppression(5, KEY, CLASSES[:2]).kept(everyone[::-1])[::-1], first)
    assert any((Suppression(5, os.urandom(32), CLASSES).kept(everyone) != first).any() for _ in range(20))


def test_the_key_is_made_once_for_its_owner_only(tmp_path):
    key = hospital_key(tmp_path / "state")
    assert (len(key), hospital_key(tmp_path / "state")) == (32, key)
    assert (tmp_path / "state" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert hospital_key(tmp_path / "other") != key
    (tmp_path / "state" / KEY_FILE).write_bytes(b"short")
    with pytest.raises(DataError, match="expected a key of 32 bytes, got 5"):
        hospital_key(tmp_path / "state")


# ----------------------------------------------------------------------------------------------------------------- attacks


def ladder(scores: np.ndarray, at: float, width: float = 0.3) -> list[np.ndarray]:
    """64 nearly equal heads: probabilities that differ by a small shift of the bias, around a threshold."""
    return [
        np.stack([1 - p, p], 1)
        for p in (1 / (1 + np.exp(-(scores - one))) for one in np.linspace(at - width, at + width, 64))
    ]


def everything(counts: ClassificationCounts) -> bytes:
    return b"".join(one.tobytes() for one in (counts.confusion, counts.histograms, counts.calibration, counts.losses))


def worlds(base: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Scores and told ranks of 2 `base` images of one class, by how many of them lie below 0. The told ones are at -1 and 1."""
    found = {}
    for below in range(1, 2 * base):
        first = min(below, base)  # of the first `base` images, those up to the told one
        second = max(below - base, 0)  # of the others, those before the told one
        scores = [
            *np.linspace(-1, -2, first),
            *np.linspace(0.1, 0.2, base - first),
            *np.linspace(-0.2, -0.1, second),
            *np.linspace(1, 2, base - second),
        ]
        found[below] = np.sort(scores), np.array([first, base + second + 1])
    return found


@pytest.mark.parametrize("base", [2, 5, 10])
def test_64_nearly_equal_heads_do_not_say_how_many_lie_below_the_threshold(base):
    """Hospitals with 1 to 2 b - 1 images below give the very same answers to all heads of a request; exact counts differ."""
    labels = np.ones(2 * base, np.int64)
    suppressed, exact = set(), set()
    for below, (scores, ranks) in worlds(base).items():
        assert (scores < 0).sum() == below
        heads = ladder(scores, 0.0)
        suppressed.add(b"".join(everything(rounded_counts(one, labels, {1: ranks}, base)) for one in heads))
        exact.add(b"".join(everything(count(one, labels)) for one in heads))
    assert (len(suppressed), len(exact)) == (1, 2 * base - 1)


def steps_seen(answers: list[ClassificationCounts]) -> list[int]:
    """What a coordinator sees when it moves the threshold past all images of the second class: the changes of one cell."""
    cell = [int(one.confusion[1, 0]) for one in answers]
    return [after - before for before, after in itertools.pairwise(cell) if after != before]


def test_moving_the_threshold_past_everybody_counts_them_only_where_counts_are_exact():
    probabilities, labels = some(3, [30, 20])
    scores = np.log(probabilities[:, 1] / probabilities[:, 0])
    shifts = np.linspace(scores.min() - 1, scores.max() + 1, 4000)
    heads = [np.stack([1 - p, p], 1) for p in (1 / (1 + np.exp(-(scores - one))) for one in shifts)]
    assert steps_seen([count(one, labels) for one in heads]) == [1] * 20
    assert steps_seen([told(one, labels, 5) for one in heads]) == [5] * 4


def test_where_an_answer_jumps_any_number_may_lie_below():
    """At the jump the told image has just passed: it is the first to the b-th of its `base`, and the answers are the same."""
    base, labels = 5, np.ones(5, np.int64)
    seen = set()
    for rank in range(1, base + 1):
        scores = np.array([-3.0] * (rank - 1) + [0.0] + [3.0] * (base - rank))
        heads = ladder(scores, 0.0)
        seen.add(b"".join(everything(rounded_counts(one, labels, {1: np.array([rank])}, base)) for one in heads))
    assert len(seen) == 1


def by_marginals(counts: ClassificationCounts, support: int) -> int:
    """The cell of the confusion matrix that a coordinator works out from all else it is told."""
    guesses = {
        support - int(counts.confusion[1, 0]),
        int(counts.confusion[:, 1].sum() - counts.confusion[0, 1]),
        int(counts.histograms[1, 1, 128:].sum()),
        int(counts.calibration[1].sum() - counts.confusion[0, 0]),
    }
    [guess] = guesses
    return guess


def test_marginals_say_no_more_than_the_cells():
    probabilities, labels = some(5, [30, 20])
    exact = int((probabilities[labels == 1].argmax(axis=1) == 1).sum())
    assert by_marginals(count(probabilities, labels), 20) == exact
    assert exact % 5
    assert by_marginals(told(probabilities, labels, 5), 20) == told(probabilities, labels, 5).confusion[1, 1] != exact


def test_sums_of_losses_and_confidence_follow_from_the_other_counts():
    """Exact sums are ratios of exact counts: with confidences 0.95 and 1 in one bin they give the number of either away."""
    base, sure = 5, np.array([1 - 1e-9, 0.95])
    ranks = {1: np.array([4, 9])}
    same, different = set(), set()
    for certain in range(2, 7):  # the fourth and the ninth from below are among both kinds in the same way
        scores = np.sort(np.repeat(sure, [certain, 10 - certain]))
        probabilities, labels = np.stack([1 - scores, scores], 1), np.ones(10, np.int64)
        same.add(everything(rounded_counts(probabilities, labels, ranks, base)))
        different.add(everything(count(probabilities, labels)))
    assert (len(same), len(different)) == (1, 5)


def test_rounds_that_change_little_give_the_same_answer_or_another_multiple():
    probabilities, labels = some(6, [40, 25])
    logits = np.log(probabilities)
    rng = np.random.default_rng(0)
    answers, cells = [], []
    for _ in range(40):
        logits = logits + rng.normal(0, 0.1, logits.shape)
        answers.append(told(softmax(logits), labels, 5))
        cells.append(int(count(softmax(logits), labels).confusion[1, 0]))
    assert len(set(cells)) > 2
    for before, after in itertools.pairwise(answers):
        assert ((after.confusion - before.confusion) % 5 == 0).all()
        assert ((after.histograms - before.histograms) % 5 == 0).all()


def test_many_unlike_heads_narrow_the_draw_where_the_distribution_is_known():
    """What rounding does not prevent: an average over hundreds of directions. Noise and secure aggregation are for that."""
    rng = np.random.default_rng(0)
    rank = int(told_ranks(KEY, 5, "test", "opacity", 1)[0])
    told_at = [np.sort(rng.uniform(size=5))[rank - 1] for _ in range(2000)]
    assert round(6 * float(np.mean(told_at))) == rank


# ----------------------------------------------------------------------------------------------------------- at a hospital


@pytest.fixture(scope="module")
def careful(phantoms, hospital_with, tmp_path_factory):
    def make(min_count: int, **policy) -> Hospital:
        one = hospital_with(phantoms["hospital-a"], min_count=min_count, **policy)
        state = tmp_path_factory.mktemp("state")
        return Hospital(one._file.model_copy(update={"state": state}))

    return make


PARTED = {
    "evaluation": {"test_fraction": 0.35, "validation_fraction": 0.3, "cross_site": True, "groups": ["sex"]},
    "personalisation": {},
}


@pytest.mark.parametrize("base", [2, 3, 5])
def test_every_reply_of_a_careful_hospital_passes_the_guard(base, careful, job, requests_of):
    one = job(**PARTED, method={"name": "fedavg", "rounds": 3, "warm_start": "analytic"})
    hospital = careful(base)
    asked = requests_of(one, hospital)
    described = hospital.answer("describe", asked.describe())
    told_of = Description.unpack(described)
    assert screen([described], Expected("describe", one)) == described
    assert (told_of.images[1:] % base == 0).all()
    assert (told_of.patients % base == 0).all()
    for number in (told_of.decoded, told_of.cached, told_of.other_labels, told_of.unreadable):
        assert number % base == 0
    expected = {
        "statistics": (asked.statistics(), {"standardisation": asked.standardisation}),
        "fit": (asked.fit(), {}),
        "own": (asked.statistics(), {}),
        "groups": (asked.fit(), {}),
        **{
            f"evaluate {part}": (asked.evaluate(part, heads=64), {"heads": 64, "part": part})
            for part in EVALUATED_PARTS
        },
        **{f"personalise {part}": (asked.personalise(part), {"heads": 3, "part": part}) for part in EVALUATED_PARTS},
    }
    for name, (request, more) in expected.items():
        kind = name.partition(" ")[0]
        reply = hospital.answer(kind, request)
        assert screen([reply], Expected(kind, one, described=told_of, **more)) is reply, (name, dict(reply.fields))
        assert "loss-sum" not in reply.fields
        for counts in unpack_counts(reply.arrays) if "losses" in reply.arrays else []:
            assert all(
                (part % base == 0).all() for part in (counts.confusion, counts.histograms, counts.calibration[:2])
            )


def test_asking_again_after_a_restart_says_nothing_new(careful, job, requests_of):
    hospital = careful(3)
    asked = requests_of(job(**PARTED), hospital)
    first = hospital.answer("evaluate", asked.evaluate())
    again = Hospital(hospital._file).answer("evaluate", asked.evaluate())
    assert all(first.arrays[name].tobytes() == again.arrays[name].tobytes() for name in first.arrays)


def test_a_scan_of_the_bias_of_a_real_hospital(careful, job, requests_of):
    """64 heads that differ in the bias only, past all test patients: exact counts count them one by one."""
    seen = {}
    for base in (1, 5):
        hospital = careful(base)
        asked = requests_of(job(**PARTED), hospital)
        head = asked.head()
        asked.describe()
        hospital.answer("evaluate", asked.evaluate())
        part = hospital._part.prepared.parts["test"]
        logits = head.logits(asked.standardisation.apply(part.features))
        scores = np.sort((logits[:, 1] - logits[:, 0])[part.labels == 1])
        cuts = np.concatenate([scores - 1e-4, scores + 1e-4, scores + 2e-4])
        heads = [type(head)(head.weight, head.bias + np.array([cut, 0], np.float32)) for cut in np.sort(cuts)[:64]]
        request = asked.evaluate(heads=len(heads))
        reply = hospital.answer("evaluate", Packed({**request.arrays, **pack_heads(heads)}, request.fields))
        seen[base] = (len(scores), steps_seen(unpack_counts(reply.arrays)))
    exact, steps = seen[1]
    assert steps == [1] * exact
    kept, steps = seen[5]
    assert (kept, steps) == (exact // 5 * 5, [5] * (exact // 5))


def test_a_class_with_few_training_images_makes_a_careful_hospital_decline(careful, job, caplog):
    request = Packed({}, {"job": job().canonical_json()})
    with caplog.at_level(logging.WARNING):
        assert dict(careful(20).answer("describe", request).fields) == {REFUSAL: "too-few-examples"}
    assert "policy.min_count is 20; leave the class's images out of the manifest" in caplog.text


def test_a_key_that_is_damaged_is_no_reason_to_tell_exact_counts(careful, job):
    hospital, request = careful(5), Packed({}, {"job": job(**PARTED).canonical_json()})
    (hospital._file.state_folder / KEY_FILE).write_bytes(b"")
    assert dict(hospital.answer("describe", request).fields) == {REFUSAL: "data-problem"}


def test_simulated_hospitals_count_exactly():
    assert OF_SIMULATIONS.min_count == 1
