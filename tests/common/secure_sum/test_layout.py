"""Numbers into the ring and back: exact, within the stated error, or refused; never clipped."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.secure_sum.errors import SecureSumError
from common.secure_sum.layout import Layout, Slot, within_norm


def one(kind: Any, bits: int = 0, shape: tuple[int, ...] = (4,)) -> Layout:
    return Layout((Slot("x", shape, kind, bits),))


def there_and_back(layout: Layout, parts: list[Any]) -> Any:
    total = np.zeros(layout.length, np.uint64)
    for part in parts:
        total += layout.pack({"x": part}, len(parts))
    return layout.unpack(total)["x"]


def test_by_hand() -> None:
    """1.25 and -0.75 with two fractional bits are 5 and 2^64 - 3; 7 is 7."""
    layout = Layout((Slot("n", (), "count"), Slot("x", (2,), "real", 2)))
    vector = layout.pack({"n": np.array(7), "x": np.array([1.25, -0.75])}, 3)
    assert vector.tolist() == [7, 5, 2**64 - 3]
    back = layout.unpack(vector)
    assert (back["n"].tolist(), back["x"].tolist()) == (7, [1.25, -0.75])
    assert (back["n"].dtype, back["x"].dtype, layout.length) == (np.int64, np.float64, 3)
    assert (layout.slots[1].bound(4), layout.slots[1].error(4)) == (2.0**59, 0.5)


@given(st.lists(st.lists(st.integers(-(2**58), 2**58), min_size=4, max_size=4), min_size=1, max_size=20))
def test_sums_of_counts_are_exact(parts: list[list[int]]) -> None:
    found = there_and_back(one("count"), [np.array(part, np.int64) for part in parts])
    assert found.tolist() == [sum(column) for column in zip(*parts, strict=True)]


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), min_size=1, max_size=20),
    st.integers(0, 38),
    st.sampled_from([np.float32, np.float64]),
)
@settings(deadline=None)
def test_sums_of_reals_are_within_the_stated_error(parts: list[list[float]], bits: int, dtype: Any) -> None:
    layout, arrays = one("real", bits), [np.array(part, dtype) for part in parts]
    found = there_and_back(layout, arrays)
    exact = np.sum(np.stack(arrays).astype(np.longdouble), axis=0)
    assert (np.abs(found - exact) <= layout.slots[0].error(len(parts)) + 2.0**-53 * np.abs(exact)).all()


def test_the_stated_error_is_reached() -> None:
    """Halves are rounded to even: three of 0.5 with no fractional bits are 0 instead of 1.5."""
    assert there_and_back(one("real", shape=()), [np.array(0.5)] * 3) == 0.0
    assert one("real").slots[0].error(3) == 1.5


@pytest.mark.parametrize("hospitals", [1, 2, 3, 20, 255])
@pytest.mark.parametrize("bits", [0, 24, 32])
def test_the_bound_is_where_the_sum_would_wrap(hospitals: int, bits: int) -> None:
    layout = one("real", bits, ())
    bound = layout.slots[0].bound(hospitals)
    greatest = np.nextafter(bound, 0)
    for sign in (1, -1):
        assert there_and_back(layout, [np.array(sign * greatest)] * hospitals) == pytest.approx(
            sign * greatest * hospitals
        )
        with pytest.raises(
            SecureSumError, match=f"x: a number is not below .* over {hospitals} hospitals with {bits} frac"
        ):
            layout.pack({"x": np.array(sign * bound)}, hospitals)


def test_the_bound_of_counts() -> None:
    layout = one("count", shape=())
    for wrong in (2**63 - 1, -(2**63), 2**61):
        with pytest.raises(SecureSumError, match="No true count is so great"):
            layout.pack({"x": np.array(wrong, np.int64)}, 4)
    assert there_and_back(layout, [np.array(2**61 - 2**10, np.int64)] * 4) == 2**63 - 2**12
    with pytest.raises(SecureSumError, match="x: a number"):
        layout.pack({"x": np.array(2**64 - 1, np.uint64)}, 4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(wrong: float) -> None:
    with pytest.raises(SecureSumError, match="x: expected finite numbers"):
        one("real", 24).pack({"x": np.array([1, 2, wrong, 3])}, 3)


def test_a_number_that_overflows_when_it_is_scaled() -> None:
    with pytest.raises(SecureSumError, match=r"nothing was clipped and nothing left the hospital\. Look at the data"):
        one("real", 32).pack({"x": np.array([0, 0, 0, 1.7e308])}, 3)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({}, "expected the arrays x"),
        ({"x": np.zeros(4), "y": np.zeros(4)}, "expected the arrays x"),
        ({"x": np.zeros(5)}, r"x: expected shape \(4,\), got \(5,\)"),
        ({"x": np.zeros(4, np.int64)}, "x: expected floating point, got int64"),
        ({"x": np.zeros(4, complex)}, "x: expected floating point, got complex128"),
    ],
)
def test_arrays_that_are_not_the_layouts(arrays: Mapping[str, Any], match: str) -> None:
    with pytest.raises(SecureSumError, match=match):
        one("real", 24).pack(arrays, 3)


def test_reals_are_no_counts() -> None:
    with pytest.raises(SecureSumError, match="x: expected whole numbers, got float64"):
        one("count").pack({"x": np.zeros(4)}, 3)


def test_layouts_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="the same name"):
        Layout((Slot("x", (), "count"), Slot("x", (), "count")))
    with pytest.raises(ValueError, match="no fractional bits"):
        one("count", 8)


def test_the_digest_is_of_everything_that_matters() -> None:
    different = {
        Layout(slots).digest
        for slots in (
            (Slot("x", (4,), "real", 24),),
            (Slot("x", (4,), "real", 25),),
            (Slot("x", (2, 2), "real", 24),),
            (Slot("y", (4,), "real", 24),),
            (Slot("x", (4,), "count"),),
            (Slot("x", (4,), "real", 24), Slot("y", (), "count")),
            (Slot("y", (), "count"), Slot("x", (4,), "real", 24)),
        )
    }
    assert len(different) == 7
    assert one("real", 24).digest == one("real", 24).digest


def test_numbers_of_an_array_in_another_order_of_memory() -> None:
    layout = one("real", 8, (2, 3))
    array = np.arange(6.0).reshape(3, 2).T
    assert (layout.unpack(layout.pack({"x": array}, 2))["x"] == array).all()


def test_the_norm_before_masking() -> None:
    arrays = {"weight": np.array([[3.0, 0.0]], np.float32), "bias": np.array([4.0], np.float32)}
    within_norm(arrays, 5.0)
    with pytest.raises(SecureSumError, match=r"weight, bias: the norm is above 4.99 .* guard.max_update_norm"):
        within_norm(arrays, 4.99)
    with pytest.raises(SecureSumError, match="not finite"):
        within_norm({"weight": np.array([np.nan], np.float32)}, 1e9)
