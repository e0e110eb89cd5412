"""Curves: they stay in their frame, whatever the values."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.web.curves import Curves

VALUES = st.none() | st.floats(-1e6, 1e6) | st.just(float("nan")) | st.just(float("inf"))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=4), st.dictionaries(st.integers(0, 500), VALUES, max_size=6), max_size=8))
def test_every_point_is_in_the_frame_and_no_name_is_markup(lines):
    drawn = str(Curves("<Title>", lines, [1, 2]).svg())
    assert bool(drawn) == bool(Curves("", lines).defined)
    for points in re.findall(r'points="([^"]*)"', drawn):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert -0.1 <= x <= 520.1
            assert -0.1 <= y <= 240.1
    assert "<Title>" not in drawn
    assert " style=" not in drawn


def test_it_says_its_last_values_in_words():
    drawn = Curves("AUROC", {"run": {1: 0.8, 3: 0.91, 2: 0.85}, "none": {1: None}}).svg()
    assert 'aria-label="AUROC: run 0.910 after round 3"' in drawn
    assert "none" not in drawn


@pytest.mark.parametrize("values", [{1: 0.5}, {1: 0.0, 2: 0.0}, {3: 1.0, 4: 1.0}])
def test_a_single_value_and_a_constant_are_drawn(values):
    assert "polyline" in Curves("AUROC", {"run": values}).svg()
