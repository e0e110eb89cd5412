"""Models: names, sizes, distances and digests by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.head import Float32, Head
from common.model import Model, digest_of_arrays


def f32(*numbers: float) -> Float32:
    return np.array(numbers, np.float32)


HEAD = Head(np.array([[1, 2, 3], [4, 5, 6]], np.float32), f32(7, 8))
MODEL = Model(HEAD, {"b.weight": np.ones((2, 1, 2), np.float32), "a": f32(9)})


def test_the_names_and_the_order_of_the_arrays() -> None:
    assert list(MODEL.arrays()) == ["weight", "bias", "tuned.a", "tuned.b.weight"]
    assert list(Model(HEAD).arrays()) == ["weight", "bias"]


def test_arrays_give_the_model_back_and_others_are_passed_over() -> None:
    others = {"control.weight": HEAD.weight * 9, "control.tuned.a": f32(1), "mean": f32(0), "losses": f32(1)}
    back = Model.from_arrays({**others, **MODEL.arrays()})
    assert list(back.tuned) == ["a", "b.weight"]
    for name, array in MODEL.arrays().items():
        assert back.arrays()[name] is array


def test_the_size_in_bytes() -> None:
    assert Model(HEAD).nbytes == HEAD.nbytes == (6 + 2) * 4
    assert MODEL.nbytes == (6 + 2 + 1 + 4) * 4


def test_distance_by_hand() -> None:
    """3, 4 and 12 apart in the weight, the bias and a tuned array: sqrt(9 + 16 + 144) = 13."""
    zero = Model(Head.zeros(1, 2), {"a": f32(0)})
    moved = Model(Head(np.array([[3, 0]], np.float32), f32(-4)), {"a": f32(12)})
    assert zero.distance(moved) == moved.distance(zero) == 13.0
    assert moved.distance(moved) == 0.0
    assert Model(zero.head).distance(Model(moved.head)) == 5.0 == zero.head.distance(moved.head)


def test_distance_of_large_models_does_not_overflow() -> None:
    one, other = (Model(Head.zeros(1, 1), {"a": f32(number)}) for number in (3e38, -3e38))
    assert one.distance(other) == pytest.approx(6e38)


@given(st.permutations(["a", "b", "c.weight"]), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_digest_ignores_the_order_and_the_layout(names: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in ("a", "b", "c.weight")}
    expected = digest_of_arrays(arrays)
    assert digest_of_arrays({name: arrays[name] for name in names}) == expected
    assert digest_of_arrays({name: np.asfortranarray(array) for name, array in arrays.items()}) == expected
    assert digest_of_arrays({name: array.astype(">f4") for name, array in arrays.items()}) == expected


def test_whatever_differs_has_another_digest() -> None:
    zeros = np.zeros((2, 3), np.float32)
    different = [
        {},
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.T},
        {"a": zeros.ravel()},
        {"a": zeros, "b": zeros},
        {"a": np.zeros((4, 3), np.float32)},
        {"a": zeros + np.float32(1e-45)},
        {"a": -zeros},
    ]
    assert len({digest_of_arrays(arrays) for arrays in different}) == len(different)


def test_the_digest_of_these_arrays_never_changes() -> None:
    """Hospitals of two versions compare it."""
    assert digest_of_arrays({"a": f32(1, 2), "b": f32(-0.5)}) == (
        "3c155e174379ae792801c14435bfed1c81510290afb0e59daa740fabbff964f7"
    )
    assert digest_of_arrays({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
