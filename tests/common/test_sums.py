"""The sums of the closed-form head: by hand, whatever the split, on the wire, and what no examples can have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.sums import Sums


def drawn(seed: int, n: int, width: int = 6, classes: int = 3) -> tuple[Any, Any]:
    """n examples of Gaussian features of unlike means and deviations."""
    rng = np.random.default_rng(seed)
    spread, centre = 10.0 ** rng.uniform(-1, 1, width), rng.normal(size=width)
    features = (spread * (rng.normal(size=(n, width)) + centre)).astype(np.float32)
    return features, rng.integers(0, classes, n)


def split(labels: Any, how: str, seed: int) -> list[Any]:
    """Indices of each hospital's examples; together they are all of them."""
    n, rng = len(labels), np.random.default_rng(seed)
    by_hospital = {
        "random": rng.integers(0, 4, n),
        "one class each": labels,
        "one example": np.minimum(np.arange(n), 1),
        "an empty hospital": rng.integers(0, 2, n) * 2,
        "one example each": np.arange(n),
    }[how]
    return [np.flatnonzero(by_hospital == hospital) for hospital in range(int(by_hospital.max()) + 1)]


SPLITS = ("random", "one class each", "one example", "an empty hospital", "one example each")


def added(parts: Sequence[Sums]) -> Sums:
    return sum(parts[1:], parts[0])


def travelled(sums: Sums, dtype: str = "float32") -> Sums:
    return Sums.from_triangle(sums.triangle(dtype), sums.class_sums.astype(dtype))


def test_two_examples_by_hand() -> None:
    """(1, 2) of class 0 and (3, 4) of class 1, each with a 1 at the end."""
    found = Sums.of(np.array([[1, 2], [3, 4]], np.float32), np.array([0, 1]), 2)
    assert found.gram.tolist() == [[10, 14, 4], [14, 20, 6], [4, 6, 2]]
    assert found.class_sums.tolist() == [[1, 3], [2, 4], [1, 1]]
    assert (found.examples, found.class_counts.tolist()) == (2, [1, 1])
    assert found.triangle("float32").tolist() == [10, 14, 4, 20, 6, 2]
    assert (found.gram.dtype, found.class_sums.dtype) == (np.float64, np.float64)


def test_no_examples_give_zeros() -> None:
    found = Sums.of(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), 3)
    assert (found.gram.tolist(), found.class_sums.tolist()) == ([[0.0] * 3] * 3, [[0.0] * 3] * 3)
    assert found.contradiction() is None


def test_many_examples_are_summed_piece_by_piece_to_the_same() -> None:
    features, labels = drawn(0, 2500)
    whole = np.concatenate([features.astype(np.float64), np.ones((2500, 1))], axis=1)
    found = Sums.of(features, labels, 3)
    np.testing.assert_allclose(found.gram, whole.T @ whole, rtol=1e-12)
    np.testing.assert_allclose(found.class_sums, whole.T @ np.eye(3)[labels], rtol=1e-12, atol=1e-9)
    assert found.class_counts.tolist() == np.bincount(labels).tolist()


def test_sums_of_float32_features_are_kept_in_float64() -> None:
    """In float32 the sum would stay at 2^24."""
    features = np.full((3000, 1), 128.0, np.float32)
    features[0] = 2.0**12
    found = Sums.of(features, np.zeros(3000, np.int64), 2)
    assert found.gram[0, 0] == 2.0**24 + 2999 * 2**14
    ones = Sums(np.array([[2.0**24, 0], [0, 1]]), np.zeros((2, 2))) + Sums(np.eye(2), np.zeros((2, 2)))
    assert ones.gram[0, 0] == 2**24 + 1


@pytest.mark.parametrize("how", SPLITS)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 60))
@settings(max_examples=10, deadline=None)
def test_the_sums_of_any_split_add_up_to_the_pooled_ones(how: str, seed: int, n: int) -> None:
    features, labels = drawn(seed, n)
    pooled = Sums.of(features, labels, 3)
    parts = [Sums.of(features[rows], labels[rows], 3) for rows in split(labels, how, seed)]
    room = 1e-12 * pooled.gram.max()
    np.testing.assert_allclose(added(parts).gram, pooled.gram, rtol=1e-12, atol=room)
    np.testing.assert_allclose(added(parts).class_sums, pooled.class_sums, rtol=1e-12, atol=room)
    assert added(parts).class_counts.tolist() == np.bincount(labels, minlength=3).tolist()


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40), width=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_half_of_the_matrix_travels_and_comes_back_whole(seed: int, n: int, width: int) -> None:
    sums = Sums.of(*drawn(seed, n, width), 3)
    assert sums.triangle("float32").shape == ((width + 1) * (width + 2) // 2,)
    exact = travelled(sums, "float64")
    assert np.array_equal(exact.gram, sums.gram)
    assert np.array_equal(exact.class_sums, sums.class_sums)
    rounded = travelled(sums)
    assert np.array_equal(rounded.gram, sums.gram.astype(np.float32))
    assert np.array_equal(rounded.gram, rounded.gram.T)
    assert (rounded.gram.dtype, rounded.class_sums.dtype) == (np.float64, np.float64)
    assert rounded.class_counts.tolist() == sums.class_counts.tolist()


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 200),
    width=st.integers(1, 30),
    kind=st.sampled_from(["plain", "constant", "repeated", "one class", "dead", "tiny", "huge"]),
)
@settings(max_examples=60, deadline=None)
def test_real_sums_never_contradict_themselves_also_after_rounding(seed: int, n: int, width: int, kind: str) -> None:
    features, labels = drawn(seed, n, width)
    if kind == "constant":
        features[:, 0] = 3.7
    elif kind == "repeated":
        features[:, 0] = features[:, -1]
    elif kind == "dead":
        features[:, ::2] = 0
    elif kind in ("tiny", "huge"):
        features *= np.float32(1e-12 if kind == "tiny" else 1e6)
    elif kind == "one class":
        labels[:] = 1
    sums = Sums.of(features, labels, 3)
    assert sums.contradiction() is None
    assert travelled(sums).contradiction() is None


def wide_sums() -> Sums:
    """Fewer examples than features: the matrix has no room to be wrong in."""
    return Sums.of(*drawn(5, 100, width=400), 3)


def test_real_sums_of_more_features_than_examples_do_not_contradict_themselves() -> None:
    assert travelled(wide_sums()).contradiction() is None


def changed(sums: Sums, what: str, at: tuple[int, int], value: float) -> Sums:
    gram, class_sums = sums.gram.copy(), sums.class_sums.copy()
    if what == "gram":
        gram[at] = gram[at[::-1]] = value
    else:
        class_sums[at] = value
    return Sums(gram, class_sums)


def test_tampered_sums_contradict_themselves() -> None:
    """30 examples of (x, -x): each line is something that no 30 examples can have."""
    x = np.arange(30, dtype=np.float32) / 10
    real = Sums.of(np.stack([x, -x], axis=1), np.arange(30) % 3, 3)
    assert real.contradiction() is None
    square = real.gram[0, 0]
    for tampered in (
        changed(real, "gram", (0, 0), -square),
        changed(real, "gram", (0, 0), 0.0),  # no square, but products with others
        changed(real, "gram", (0, 1), -square * 1.01),  # more than |x| |y|
        changed(real, "gram", (0, 1), square),  # a product of the wrong sign, and both with the constant
        changed(real, "gram", (0, 2), 1000.0),  # a mean beyond the deviation
        changed(real, "gram", (2, 2), 20.0),  # fewer examples than the classes have
        changed(real, "classes", (0, 1), square * 30),  # a class mean beyond all
        changed(real, "classes", (2, 0), 11.0),  # a class with one example too many
        changed(real, "classes", (2, 0), -10.0),
        changed(real, "classes", (1, 2), real.class_sums[1, 2] * 2),
        Sums(real.gram - 5 * np.eye(3), real.class_sums),
    ):
        assert tampered.contradiction() in (
            "a sum of squares is negative",
            "no examples have such sums of products",
        )
        assert travelled(tampered).contradiction() is not None


@given(seed=st.integers(0, 2**32 - 1), by=st.floats(0.02, 10))
@settings(max_examples=20, deadline=None)
def test_an_indefinite_matrix_is_found_in_whatever_direction(seed: int, by: float) -> None:
    """A part is taken away in a random direction: more than the examples have there, relative to their sizes."""
    sums = Sums.of(*drawn(seed, 5, width=8), 3)  # 5 examples of 8 features: some directions are empty
    size = np.sqrt(np.diag(sums.gram))
    scaled = sums.gram / size[:, None] / size
    empty = np.linalg.eigh(scaled)[1][:, 0] * size
    assert Sums(sums.gram - by * np.outer(empty, empty), sums.class_sums).contradiction() is not None
