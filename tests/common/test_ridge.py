"""The closed-form head against scikit-learn on the pooled examples, and its logits against true probabilities."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as Reference
from sklearn.preprocessing import StandardScaler

from common.head import Standardisation, softmax
from common.methods import RIDGE
from common.ridge import Ridge, Scores
from common.sums import Sums


def drawn(seed: int, n: int, width: int = 12, classes: int = 3) -> tuple[Any, Any]:
    """n examples of Gaussian classes with correlated features, standardised as they are before the sums are taken."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    mixing, means = rng.normal(size=(width, width)), rng.normal(size=(classes, width))
    raw = (means[labels] + rng.normal(size=(n, width)) @ mixing + 3 * rng.normal(size=width)).astype(np.float32)
    wide = raw.astype(np.float64)
    return Standardisation.from_sums(n, wide.sum(axis=0), (wide**2).sum(axis=0)).apply(raw), labels


def reference(features: Any, labels: Any, strength: float, classes: int = 3, weights: Any = None) -> Any:
    """Scores (N, C) of scikit-learn on the pooled examples."""
    wide = StandardScaler().fit_transform(features.astype(np.float64))
    model = Reference(alpha=strength * len(labels)).fit(wide, np.eye(classes)[labels], weights)
    return model.predict(wide)


def scored(scores: Scores, features: Any) -> Any:
    return features.astype(np.float64) @ scores.weight.T + scores.bias


def differ(one: Any, other: Any) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def in_parts(labels: Any, how: str, seed: int) -> list[Any]:
    n, rng = len(labels), np.random.default_rng(seed)
    hospitals = {
        "random": rng.integers(0, 4, n),
        "one class each": labels,
        "one example": np.minimum(np.arange(n), 1),
        "an empty hospital": rng.integers(0, 2, n) * 2,
    }[how]
    return [np.flatnonzero(hospitals == hospital) for hospital in range(int(hospitals.max()) + 1)]


@pytest.mark.parametrize("how", ["random", "one class each", "one example", "an empty hospital"])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(20, 120), strength=st.sampled_from(RIDGE))
@settings(max_examples=10, deadline=None)
def test_any_split_gives_the_head_of_the_pooled_examples_and_that_is_scikit_learns(
    how: str, seed: int, n: int, strength: float
) -> None:
    features, labels = drawn(seed, n)
    parts = [Sums.of(features[rows], labels[rows], 3) for rows in in_parts(labels, how, seed)]
    expected = reference(features, labels, strength)
    pooled = scored(Ridge(Sums.of(features, labels, 3)).scores(strength), features)
    assert differ(pooled, expected) < 1e-10
    exact = sum(parts[1:], parts[0])
    assert differ(scored(Ridge(exact).scores(strength), features), expected) < 1e-10
    sent = [Sums.from_triangle(one.triangle("float32"), one.class_sums.astype(np.float32)) for one in parts]
    assert differ(scored(Ridge(sum(sent[1:], sent[0])).scores(strength), features), expected) < 1e-5


@pytest.mark.parametrize("n", [40, 300])
def test_also_with_more_features_than_examples(n: int) -> None:
    features, labels = drawn(1, n, width=200)
    sums = Sums.of(features, labels, 3)
    rounded = Sums.from_triangle(sums.triangle("float32"), sums.class_sums.astype(np.float32))
    exact, sent = Ridge(sums), Ridge(rounded)
    for strength in RIDGE:
        expected = reference(features, labels, strength)
        assert differ(scored(exact.scores(strength), features), expected) < 1e-10
        assert differ(scored(sent.scores(strength), features), expected) < 1e-5


def test_the_weights_are_scikit_learns_too() -> None:
    features, labels = drawn(2, 80)
    scaler = StandardScaler().fit(features.astype(np.float64))
    model = Reference(alpha=0.1 * 80).fit(scaler.transform(features.astype(np.float64)), np.eye(3)[labels])
    found = Ridge(Sums.of(features, labels, 3)).scores(0.1)
    np.testing.assert_allclose(found.weight * scaler.scale_, model.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.bias, model.intercept_ - found.weight @ scaler.mean_, rtol=1e-9, atol=1e-12)


def test_one_feature_by_hand() -> None:
    """x = -1, 1 of class 0, 1: mean 0, deviation 1. The weight is 0.5 N / (N + strength N), the bias the share."""
    sums = Sums.of(np.array([[-1], [1]], np.float32), np.array([0, 1]), 2)
    found = Ridge(sums).scores(0.25)
    np.testing.assert_allclose(found.weight, [[-0.4], [0.4]], rtol=1e-12)
    np.testing.assert_allclose(found.bias, [0.5, 0.5], rtol=1e-12)


def test_constant_features_are_left_out() -> None:
    features, labels = drawn(3, 50, width=5)
    constant = np.insert(features, 2, 0.0, axis=1)
    constant = np.insert(constant, 0, 7.3, axis=1).astype(np.float32)
    found = Ridge(Sums.of(constant, labels, 3))
    plain = Ridge(Sums.of(features, labels, 3)).scores(0.1)
    assert not found.scores(0.1).weight[:, [0, 3]].any()
    assert not found.logits(0.1).weight[:, [0, 3]].any()
    np.testing.assert_allclose(found.scores(0.1).weight[:, [1, 2, 4, 5, 6]], plain.weight, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.scores(0.1).bias, plain.bias, rtol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), value=st.floats(-100, 100, width=32))
@settings(max_examples=30, deadline=None)
def test_a_constant_feature_is_left_out_also_when_the_sums_were_rounded(seed: int, value: float) -> None:
    """Its variance is rounding then: were it used, an image that differs in it would get any logits at all."""
    features, labels = drawn(seed, 90, width=5)
    features[:, 2] = value
    wide = features.astype(np.float64)
    standardised = Standardisation.from_sums(90, wide.sum(axis=0), (wide**2).sum(axis=0)).apply(features)
    parts = [Sums.of(standardised[rows], labels[rows], 3) for rows in np.array_split(np.arange(90), 3)]
    sent = [Sums.from_triangle(one.triangle("float32"), one.class_sums.astype(np.float32)) for one in parts]
    assert not Ridge(sent[0] + sent[1] + sent[2]).logits(1e-3).weight[:, 2].any()


def test_a_subset_is_the_head_of_those_columns_alone() -> None:
    features, labels = drawn(4, 60, width=7)
    columns = np.array([1, 4, 5])
    found = Ridge(Sums.of(features, labels, 3), columns)
    alone = Ridge(Sums.of(features[:, columns], labels, 3))
    for balanced in (False, True):
        scores, logits = found.scores(0.1, balanced), found.logits(0.1, balanced)
        np.testing.assert_allclose(scores.weight[:, columns], alone.scores(0.1, balanced).weight, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(logits.weight[:, columns], alone.logits(0.1, balanced).weight, rtol=1e-5, atol=1e-6)
        assert not np.delete(scores.weight, columns, axis=1).any()
        assert not np.delete(logits.weight, columns, axis=1).any()


def alike(counts: tuple[int, ...], width: int = 5, seed: int = 0) -> tuple[Any, Any]:
    """Classes of so many times 12 examples, with unlike means and exactly the same covariance inside every class."""
    rng = np.random.default_rng(seed)
    block = rng.normal(size=(12, width))
    white = np.linalg.qr(block - block.mean(axis=0))[0] * np.sqrt(12)
    mixed = white @ rng.normal(size=(width, width))
    means = 2 * rng.normal(size=(len(counts), width))
    features = np.concatenate([np.tile(mixed, (times, 1)) + mean for times, mean in zip(counts, means, strict=True)])
    return features, np.repeat(np.arange(len(counts)), [12 * times for times in counts])


def class_weights(labels: Any) -> Any:
    """N / (C n_c) for each example."""
    counts = np.bincount(labels)
    return (len(labels) / (len(counts) * counts))[labels]


@pytest.mark.parametrize("counts", [(1, 4), (1, 2, 5), (3, 3, 3)])
@pytest.mark.parametrize("strength", [1e-3, 0.1, 3.0])
def test_balanced_is_scikit_learns_sample_weight_where_the_classes_scatter_alike(
    counts: tuple[int, ...], strength: float
) -> None:
    features, labels = alike(counts)
    found = Ridge(Sums.of(features, labels, len(counts))).scores(strength, balanced=True)
    expected = reference(features, labels, strength, len(counts), class_weights(labels))
    assert differ(scored(found, features), expected) < 1e-9
    if len(set(counts)) > 1:
        plain = Ridge(Sums.of(features, labels, len(counts))).scores(strength)
        assert differ(scored(plain, features), expected) > 1e-3


def test_balanced_takes_the_scatter_inside_the_classes_as_one_for_all() -> None:
    """The sums do not hold it class by class: where classes scatter unlike, scikit-learn's is another head."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [150, 30])
    features = rng.normal(size=(180, 4)) * np.where(labels, 3.0, 0.5)[:, None] + 2 * labels[:, None]
    found = Ridge(Sums.of(features, labels, 2)).scores(0.1, balanced=True)
    assert differ(scored(found, features), reference(features, labels, 0.1, 2, class_weights(labels))) > 1e-2
    # What it is, in full: the scatter inside all classes, and that of means that weigh the same around their middle.
    wide = StandardScaler().fit_transform(features)
    means = np.stack([wide[labels == label].mean(axis=0) for label in (0, 1)])
    inside = (wide - means[labels]).T @ (wide - means[labels])
    around = means - means.mean(axis=0)
    weight = np.linalg.solve(inside + 90 * around.T @ around + 18 * np.eye(4), 90 * around.T)
    expected = (wide - means.mean(axis=0)) @ weight + 0.5
    assert differ(scored(found, features), expected) < 1e-9


def posterior(features: Any, means: Any, covariance: Any, priors: Any) -> Any:
    """The true probabilities of Gaussian classes."""
    inverse = np.linalg.inv(covariance)
    return softmax(
        features @ inverse @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, inverse, means) + np.log(priors)
    )


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_probabilities_of_gaussian_classes_are_nearly_the_true_ones(classes: int, balanced: bool) -> None:
    rng = np.random.default_rng(7)
    means = np.array([[0.0, 0.0, 0.0], [1.5, -1.0, 0.5], [-1.0, 1.0, 1.0]])[:classes]
    mixing = np.array([[1.0, 0.4, 0.0], [0.0, 0.8, 0.3], [0.2, 0.0, 1.2]])
    priors = np.array([0.7, 0.2, 0.1])[:classes] / np.array([0.7, 0.2, 0.1])[:classes].sum()
    labels = rng.choice(classes, 40_000, p=priors)
    features = means[labels] + rng.normal(size=(40_000, 3)) @ mixing
    head = Ridge(Sums.of(features.astype(np.float32), labels, classes)).logits(1e-6, balanced)
    true = posterior(features, means, mixing.T @ mixing, np.full(classes, 1 / classes) if balanced else priors)
    error = np.abs(head.probabilities(features.astype(np.float32)) - true)
    assert error.mean() < 0.01
    assert error.max() < 0.05


@pytest.mark.parametrize("balanced", [False, True])
def test_a_class_without_examples_gets_a_low_but_finite_probability(balanced: bool) -> None:
    features, labels = drawn(6, 90, classes=2)
    found = Ridge(Sums.of(features, labels, 3))
    scores = found.scores(0.1, balanced)
    assert not scores.weight[2].any()
    assert scores.bias[2] == 0.0
    head = found.logits(0.1, balanced)
    anywhere = np.concatenate([features, np.random.default_rng(0).normal(size=(200, 12)) * 3]).astype(np.float32)
    probabilities = head.probabilities(anywhere)
    assert np.isfinite(head.logits(anywhere)).all()
    assert probabilities[:, 2].min() > 0
    assert probabilities[:, 2].max() <= 0.5 / 90 * (1 + 1e-5)
    two = Ridge(Sums.of(features, labels, 2)).logits(0.1, balanced)
    np.testing.assert_allclose(head.weight[:2], two.weight, rtol=1e-6)


def test_between_two_classes_far_apart_a_third_without_examples_is_not_chosen() -> None:
    labels = np.repeat([0, 1], 50)
    features = (20.0 * labels[:, None] + np.random.default_rng(0).normal(size=(100, 1))).astype(np.float32)
    head = Ridge(Sums.of(features, labels, 3)).logits(0.001)
    middle = head.probabilities(np.linspace(-10, 30, 401, dtype=np.float32)[:, None])
    assert middle[:, 2].max() <= 0.5 / 100 * (1 + 1e-5)


@pytest.mark.parametrize("balanced", [False, True])
def test_one_class_alone_has_a_head_that_says_so(balanced: bool) -> None:
    features, labels = drawn(8, 40, classes=1)
    found = Ridge(Sums.of(features, labels, 2))
    scores, probabilities = found.scores(0.1, balanced), found.logits(0.1, balanced).probabilities(features)
    np.testing.assert_allclose(scored(scores, features), [[1.0, 0.0]] * 40, atol=1e-9)
    # Half an example against 40.
    np.testing.assert_allclose(probabilities, [[80 / 81, 1 / 81]] * 40, rtol=1e-5)


@pytest.mark.parametrize("balanced", [False, True])
def test_one_example_alone_has_a_head_too(balanced: bool) -> None:
    head = Ridge(Sums.of(np.array([[1, 2]], np.float32), np.array([1]), 2)).logits(0.1, balanced)
    assert not head.weight.any()
    np.testing.assert_allclose(head.bias, [np.log(0.5), 0.0], rtol=1e-6)


def test_a_feature_that_tells_the_classes_apart_fully_gives_finite_numbers() -> None:
    labels = np.repeat([0, 1], 20)
    for strength in RIDGE:
        head = Ridge(Sums.of((2.0 * labels[:, None] - 1).astype(np.float32), labels, 2)).logits(strength)
        assert np.isfinite(head.weight).all()
        assert np.isfinite(head.bias).all()


def left_out(features: Any, labels: Any, strength: float, classes: int = 3) -> Any:
    """Scores (N, C) of each example by scikit-learn without it, with the penalty and the standardisation of all."""
    wide, truth = StandardScaler().fit_transform(features.astype(np.float64)), np.eye(classes)[labels]
    found = []
    for row in range(len(labels)):
        others = np.arange(len(labels)) != row
        model = Reference(alpha=strength * len(labels)).fit(wide[others], truth[others])
        found.append(model.predict(wide[row : row + 1])[0])
    return np.array(found)


@pytest.mark.parametrize("strength", [0.01, 0.1, 1.0])
def test_the_error_left_out_is_its_formula_and_nearly_the_true_one(strength: float) -> None:
    """Golub, Heath and Wahba 1979, equation 1.5, with the hat matrix written out."""
    features, labels = drawn(9, 90)
    wide, truth = StandardScaler().fit_transform(features.astype(np.float64)), np.eye(3)[labels]
    hat = wide @ np.linalg.solve(wide.T @ wide + strength * 90 * np.eye(12), wide.T) + 1 / 90
    residual = ((truth - reference(features, labels, strength)) ** 2).sum() / 90
    # The room for rounding: a millionth of each weight's square.
    residual += 1e-6 * (np.linalg.solve(wide.T @ wide + strength * 90 * np.eye(12), wide.T @ truth) ** 2).sum()
    found = Ridge(Sums.of(features, labels, 3))
    assert found.error_left_out(strength) == pytest.approx(residual / (1 - np.trace(hat) / 90) ** 2, rel=1e-9)
    true = ((truth - left_out(features, labels, strength)) ** 2).sum() / 90
    assert found.error_left_out(strength) == pytest.approx(true, rel=0.05)


def test_with_few_examples_the_probabilities_are_those_of_examples_left_out_not_of_examples_fitted() -> None:
    """60 examples of 40 features without any relation to their class: fitted scores separate them, the truth is 1/2."""
    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(60, 40)).astype(np.float32), np.arange(60) % 2
    ridge = Ridge(Sums.of(features, labels, 2))
    fresh = rng.normal(size=(500, 40)).astype(np.float32)
    head = ridge.logits(0.1)
    confidence = head.probabilities(fresh).max(axis=1).mean()
    fitted = np.linalg.lstsq(np.c_[features, np.ones(60)], np.eye(2)[labels], rcond=None)[0]
    assert (np.argmax(np.c_[features, np.ones(60)] @ fitted, axis=1) == labels).mean() > 0.9
    # The truth is 0.5; a head that took its fitted errors for true ones would be sure.
    assert confidence < 0.75


def test_more_features_than_examples_give_finite_numbers_also_when_nothing_is_left_of_the_errors() -> None:
    features, labels = drawn(11, 20, width=60)
    ridge = Ridge(Sums.of(features, labels, 3))
    for strength in (1e-9, 1e-3, 1.0):
        head = ridge.logits(strength)
        assert np.isfinite(head.weight).all()
        assert np.isfinite(head.bias).all()
        assert np.isfinite(ridge.error_left_out(strength))


@pytest.mark.parametrize(("n", "width"), [(30, 150), (200, 150), (90, 180)])
def test_where_the_examples_are_interpolated_rounded_sums_still_give_nearly_the_same_head(n: int, width: int) -> None:
    """With more features than examples the errors of fitted examples are smaller than the rounding of the sums."""
    features, labels = drawn(1, n, width)
    parts = [Sums.of(features[rows], labels[rows], 3) for rows in np.array_split(np.arange(n), 3)]
    sent = [Sums.from_triangle(one.triangle("float32"), one.class_sums.astype(np.float32)) for one in parts]
    exact, rounded = Ridge(Sums.of(features, labels, 3)), Ridge(sent[0] + sent[1] + sent[2])
    for strength in RIDGE:
        for balanced in (False, True):
            one, other = exact.logits(strength, balanced), rounded.logits(strength, balanced)
            assert np.abs(one.logits(features)).max() < 50
            assert differ(other.logits(features), one.logits(features)) < 0.03
            assert (one.logits(features).argmax(axis=1) == other.logits(features).argmax(axis=1)).all()
        assert rounded.error_left_out(strength) == pytest.approx(exact.error_left_out(strength), rel=0.03)
        assert exact.error_left_out(strength) > 0
