import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.exact_sum import ExactSum

NUMBERS = st.floats(-(2.0**40), 2.0**40, width=32)


def summed(rows) -> np.ndarray:
    found = ExactSum(np.shape(rows[0]))
    for row in rows:
        found.add(np.asarray(row))
    return found.total()


@given(rows=st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=12), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_order_changes_no_bit_and_the_sum_is_right(rows, data):
    other = data.draw(st.permutations(rows))
    found = summed([np.array(row, np.float32) for row in rows])
    assert found.tobytes() == summed([np.array(row, np.float32) for row in other]).tobytes()
    expected = [math.fsum(np.float32(row[place]) for row in rows) for place in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-30)


def test_what_float64_would_lose_is_kept():
    """1e16 + 1 - 1e16 is 0 in float64, or 1 in another order."""
    assert summed([[1e16], [1.0], [-1e16]]).tolist() == [1.0]
    assert summed([[1e16], [-1e16], [1.0]]).tolist() == [1.0]


def test_of_large_and_small_numbers_each_keeps_its_own():
    found = summed([[3.0e20, 2.0**-60], [0.0, 2.0**-61], [1.0, 0.0]])
    assert found.tolist() == [3.0e20 + 1.0, 2.0**-60 + 2.0**-61]


def test_no_summand_gives_zeros_and_none_is_changed_or_kept():
    assert ExactSum((2,)).total().tolist() == [0.0, 0.0]
    row = np.array([1.5, -2.5])
    found = ExactSum((2,))
    found.add(row)
    row[:] = 7
    assert found.total().tolist() == [1.5, -2.5]


def test_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(1,\)"):
        ExactSum((2,)).add(np.zeros(1))
