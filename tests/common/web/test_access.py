"""The token, sessions and the brake on guessing."""

import pytest

from common.web.access import SESSION_S, Access


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def access(clock):
    return Access("page", failures=3, clock=clock)


def test_tokens_are_long_and_of_each_start(access):
    assert len(access.token) >= 43
    assert access.token != Access("page").token
    assert access.cookie != Access("page").cookie
    assert access.token not in access.cookie


def test_only_the_token_is_accepted(access):
    assert access.accepts(access.token)
    for wrong in ("", access.token[:-1], access.token + "x", "\udcff"):
        clock_free = Access("page", token=access.token)
        assert not clock_free.accepts(wrong)


def test_after_three_failures_not_even_the_right_token_is_looked_at(access, clock):
    for _ in range(3):
        assert access.wait_s() == 0
        assert not access.accepts("wrong")
    assert access.wait_s() == 60
    assert not access.accepts(access.token)
    clock.now += 59
    assert not access.accepts(access.token)
    clock.now += 1
    assert access.accepts(access.token)


def test_right_tokens_do_not_count(access):
    for _ in range(10):
        assert access.accepts(access.token)


def test_a_session_ends_by_itself_and_when_told(access, clock):
    one, other = access.begin(), access.begin()
    assert access.form_token(one) != access.form_token(other)
    access.end(one)
    assert access.form_token(one) is None
    clock.now += SESSION_S + 1
    assert access.form_token(other) is None
    assert access.form_token(None) is None
    assert access.form_token(access.token) is None


def test_the_oldest_of_many_sessions_ends(access):
    first = access.begin()
    later = [access.begin() for _ in range(50)]
    assert access.form_token(first) is None
    assert all(access.form_token(one) for one in later)
