"""Thresholds, what they tolerate, and terms as a message."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.secure_sum.errors import SecureSumError
from common.secure_sum.messages import SignedKeys, context_of
from common.secure_sum.terms import Terms, default_threshold, least_threshold, tolerated_colluders
from tests.common.secure_sum.sessions import SUBJECT, roster


def test_the_thresholds_of_some_sizes() -> None:
    assert [default_threshold(count) for count in (2, 3, 4, 5, 10, 20)] == [2, 2, 3, 4, 7, 14]
    assert [least_threshold(count) for count in (2, 3, 4, 5, 10, 20)] == [2, 2, 3, 3, 6, 11]
    assert [tolerated_colluders(count, default_threshold(count)) for count in (2, 3, 5, 10, 20)] == [1, 0, 2, 3, 7]
    assert tolerated_colluders(20, 20) == 19


@given(st.integers(2, 255))
def test_two_thirds_and_more_than_half(count: int) -> None:
    threshold = default_threshold(count)
    assert threshold >= least_threshold(count)
    assert 3 * threshold >= 2 * count
    assert 2 * least_threshold(count) > count
    assert tolerated_colluders(count, least_threshold(count)) >= 0


@pytest.mark.parametrize("count", range(2, 9))
def test_two_lists_with_a_threshold_of_honest_answers_each_cannot_be(count: int) -> None:
    """An honest hospital answers one of two lists, colluders both. Up to the tolerated number, one list lacks answers."""
    for threshold in range(least_threshold(count), count + 1):
        colluders = tolerated_colluders(count, threshold)
        honest = count - colluders
        assert not any(
            first + colluders >= threshold and honest - first + colluders >= threshold for first in range(honest + 1)
        ), (count, threshold)
        assert colluders < threshold, "so many shares alone are no secret"


def test_terms_travel() -> None:
    terms = SUBJECT.terms(roster(5), 5)
    assert Terms.unpack(terms.pack()) == terms
    assert (terms.threshold, terms.hospitals, terms.roster, terms.layout) == (
        4,
        5,
        roster(5).digest,
        SUBJECT.layout.digest,
    )
    assert terms.session != SUBJECT.terms(roster(5), 5).session
    assert SUBJECT.terms(roster(5), 5, 3).threshold == 3


def test_terms_that_no_hospital_would_accept_are_not_made() -> None:
    for hospitals, threshold in ((1, None), (256, None), (5, 2), (5, 6)):
        with pytest.raises(SecureSumError, match="expected"):
            SUBJECT.terms(roster(5), hospitals, threshold)


def test_the_digest_tells_all_terms_and_parts_apart() -> None:
    terms = SUBJECT.terms(roster(5), 5)
    others = [
        replace(terms, session="0" * 64),
        replace(terms, job_id="b"),
        replace(terms, purpose="b"),
        replace(terms, roster="0" * 64),
        replace(terms, layout="0" * 64),
        replace(terms, hospitals=6),
        replace(terms, threshold=5),
    ]
    digests = [one.digest() for one in (terms, *others)]
    digests += [terms.digest(*parts) for parts in ((b"",), (b"ab",), (b"a", b"b"), (b"b", b"a"))]
    assert all(one != other for one, other in itertools.combinations(digests, 2))


def test_the_context_is_of_all_that_a_hospital_is_told() -> None:
    terms, keys = SUBJECT.terms(roster(5), 5), [SignedKeys(name, b"e", b"m", b"c", b"s") for name in ("h00", "h01")]
    told = [[replace(keys[0], **{name: b"x"}), keys[1]] for name in ("encryption", "mask", "commitment", "signature")]
    told += [keys, keys[:1], keys[::-1], [replace(keys[0], hospital="h02"), keys[1]]]
    assert len({context_of(terms, one) for one in told}) == len(told)
    assert context_of(replace(terms, purpose="fit:1"), keys) != context_of(terms, keys)
