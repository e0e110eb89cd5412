"""Membership, class proportions and single features from updates of small invented hospitals."""

import numpy as np
import pytest

from benchmarks.attacks.features import cosine, features_in, found_in, gradient, pursuit, refused
from benchmarks.attacks.federation import (
    auroc,
    joined,
    mean_head,
    method_of,
    numbers,
    residuals_of,
    sent,
    summed,
    with_constant,
)
from benchmarks.attacks.label_distribution import calibrated, drawn, from_sum, from_update, shares
from benchmarks.attacks.membership import inside_of, likelihood_ratio, signals, traced
from benchmarks.privacy.private_heads import Part
from common.head import Head

FEATURES = 60
LOCAL = method_of("fedavg").local
FULL_BATCHES = method_of("fedavg", batch_size=1_000_000, weight_decay=0.0).local


def part(number: int, seed: int = 0, share: float = 0.5, classes: int = 2) -> Part:
    rng = np.random.default_rng(seed)
    labels = (rng.random(number) < share).astype(np.int64) if classes == 2 else np.arange(number) % classes
    features = rng.normal(size=(number, FEATURES)) + (labels == 1)[:, None] * rng.normal(size=FEATURES) / 4
    return Part(
        features.astype(np.float32), labels, np.array([f"{seed} p{one}" for one in range(number)], dtype=object)
    )


@pytest.fixture
def start() -> Head:
    return Head.zeros(2, FEATURES)


# Membership


def test_a_plain_update_says_exactly_who_is_in(start: Head) -> None:
    """Fewer candidates than features: the members are solved for. Of who was not in, the answer is 0."""
    candidates, inside = part(40), np.arange(40) % 2 == 0
    reply = sent(start, candidates.of(inside), "one", local=FULL_BATCHES)
    residuals = -residuals_of(start, candidates) * reply.weight_of_one(FULL_BATCHES)
    seen = (residuals, summed(start, [reply]))
    found = traced([seen], with_constant(candidates.features), np.arange(40), 1e-12)
    np.testing.assert_allclose(found, inside, atol=1e-2)


def test_images_of_a_patient_are_solved_for_together(start: Head) -> None:
    candidates, codes = part(30), np.repeat(np.arange(15), 2)
    inside = (np.arange(15) % 3 == 0)[codes]
    residuals = residuals_of(start, candidates)
    total = residuals[inside].T @ with_constant(candidates.features[inside])
    found = traced([(residuals, total)], with_constant(candidates.features), codes, 1e-12)
    np.testing.assert_allclose(found, np.arange(15) % 3 == 0, atol=1e-6)


def test_noise_hides_who_is_in(start: Head) -> None:
    """With noise above all that is there the best guess is one half for everyone."""
    candidates, inside = part(40), np.arange(40) % 2 == 0
    residuals, features = residuals_of(start, candidates), with_constant(candidates.features)
    total = residuals[inside].T @ features[inside]
    noised = total + np.random.default_rng(1).normal(0, 1e3, total.shape)
    found = traced([(residuals, noised)], features, np.arange(40), 1e6)
    np.testing.assert_allclose(found, 0.5, atol=0.1)
    assert auroc(found, inside) < 0.8


def test_the_likelihood_ratio_by_hand() -> None:
    """One patient whose confidence is about 1 in models with it and 0 in those without; the target model says 1."""
    inside = np.array([[True], [True], [False], [True], [False]])
    confidences = np.array([[1.0], [1.1], [0.1], [0.9], [-0.1]])
    # Means 1 and 0, both variances 0.01: (1 - 0)^2 / 2 / 0.01.
    assert likelihood_ratio(confidences, inside, 0) == pytest.approx([50.0])


def test_signals_are_means_over_a_patients_images(start: Head) -> None:
    losses, confidences = signals(start, part(6), np.array([0, 0, 0, 1, 1, 2]))
    np.testing.assert_allclose(losses, np.log(2))
    np.testing.assert_allclose(confidences, 0.0, atol=1e-12)


def test_every_model_has_another_half() -> None:
    inside = inside_of(11, 3)
    assert inside.sum(axis=1).tolist() == [5, 5, 5]
    assert not (inside[0] == inside[1]).all()


def test_auroc_is_that_of_the_order() -> None:
    scores, positive = np.array([-3.0, 10.0, 2.0, 11.0]), np.array([False, False, True, True])
    assert auroc(scores, positive) == pytest.approx(0.75, abs=0.01)


# What a sum shows


def test_the_mean_head_is_fedavgs(start: Head) -> None:
    replies = [sent(start, part(30, seed), f"h{seed}") for seed in (1, 2)]
    expected = np.mean([numbers(one.head) for one in replies], axis=0)
    np.testing.assert_allclose(numbers(mean_head(start, replies)), expected, atol=1e-7)


# Class proportions


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_full_batch_from_zeros_says_the_proportions_exactly(start: Head, share: float) -> None:
    one = drawn(part(400), 100, share, np.random.default_rng(0))
    found = from_update(start, sent(start, one, "one", local=FULL_BATCHES), FULL_BATCHES)
    np.testing.assert_allclose(found, [1 - share, share], atol=1e-4)


def test_a_sum_says_those_of_the_pool(start: Head) -> None:
    parts = [drawn(part(400, seed), 100, share, np.random.default_rng(0)) for seed, share in ((0, 0.2), (1, 0.6))]
    replies = [sent(start, one, f"h{place}", local=FULL_BATCHES) for place, one in enumerate(parts)]
    found = from_sum(summed(start, replies), 200, replies, FULL_BATCHES)
    np.testing.assert_allclose(found, [0.6, 0.4], atol=1e-4)


def test_batches_blur_them_and_own_images_calibrate(start: Head) -> None:
    slope, offset = calibrated(part(600, 5), 200, LOCAL, start)
    one = drawn(part(600), 200, 0.8, np.random.default_rng(0))
    found = slope * from_update(start, sent(start, one, "one"), LOCAL)[1] + offset
    assert found == pytest.approx(0.8, abs=0.12)


def test_proportions_stay_in_range() -> None:
    np.testing.assert_array_equal(shares(np.array([-5.0, 5.0]), 1.0), [0.0, 1.0])


# Features


def test_one_image_is_recovered_to_the_bit_of_float32(start: Head) -> None:
    one = part(1)
    shown = gradient(start, sent(start, one, "one").head, LOCAL, 1)
    assert cosine(features_in(shown, one.features), one.features[0]) == pytest.approx(1.0, abs=1e-6)


def test_one_image_is_recovered_from_any_head() -> None:
    """The weight decay of the start is taken out."""
    rng = np.random.default_rng(0)
    begun = Head((rng.normal(size=(2, FEATURES)) / 20).astype(np.float32), np.ones(2, np.float32))
    one = part(1)
    shown = gradient(begun, sent(begun, one, "one").head, LOCAL, 1)
    expected = residuals_of(begun, one).T @ with_constant(one.features)
    np.testing.assert_allclose(shown, expected, atol=2e-3 * np.abs(expected).max())


def test_of_several_classes_each_image_is_a_row() -> None:
    """One image of each of eight classes: a row is its image, but for the mean of all."""
    begun, images = Head.zeros(8, FEATURES), part(8, classes=8)
    shown = gradient(begun, sent(begun, images, "one").head, LOCAL, 1)
    assert all(cosine(-row[:-1], image) > 0.85 for row, image in zip(shown, images.features, strict=True))


def test_pursuit_finds_all_of_a_few_among_many(start: Head) -> None:
    gallery, own = part(200), [3, 77, 150, 199]
    total = summed(start, [sent(start, gallery.of(np.array(own)), "one")])
    found = pursuit(total, -residuals_of(start, gallery), with_constant(gallery.features), 4)
    assert found == set(own)


def test_in_the_sum_with_larger_hospitals_it_is_not_found(start: Head) -> None:
    gallery = part(200)
    parts = [gallery.of(rows) for rows in (np.array([7]), np.arange(50, 120), np.arange(120, 190))]
    replies = [sent(start, one, f"h{place}") for place, one in enumerate(parts)]
    alone = found_in(summed(start, replies[:1]), start, gallery, np.array([7]))
    among = found_in(summed(start, replies), start, gallery, np.array([7]))
    assert alone == pytest.approx((1.0, 1.0, 1.0))
    assert among[0] < 0.6
    assert among[1:] == (0.0, 0.0)


def test_the_policy_refuses_a_hospital_with_few_images() -> None:
    assert refused(1, 50) == "refused: too-few-examples"
    assert refused(50, 50) == "answered"


def test_parts_are_joined_in_order() -> None:
    both = joined([part(3), part(2, 1)])
    assert both.ids.tolist() == ["0 p0", "0 p1", "0 p2", "1 p0", "1 p1"]
