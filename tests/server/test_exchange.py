"""Questions with a deadline: the grace period, late and lost hospitals, and a Flower that does not answer."""

import time

import pytest
from flwr.common.constant import ErrorCode

from common.flower_records import to_records
from common.wire import REFUSAL, Packed
from server.exchange import BUSY, CLOCKS_APART_S, NO_ANSWER, NOT_CONNECTED, NOT_TAKEN, TOO_LATE, UNREACHABLE
from server.pending import FLOWER_ERRORS, NODE_UNAVAILABLE

A, B, C = 2, 3, 4
"""The nodes of three hospitals."""


@pytest.fixture
def request_of(small_job):
    """The describe request of a job."""
    return Packed({}, {"job": small_job().canonical_json()})


@pytest.fixture
def three(deployed, scripted):
    """An Exchange with three hospitals, and its Grid."""
    return deployed({"a": scripted(), "b": scripted(), "c": scripted()})


def timed(call):
    start = time.monotonic()
    return call(), time.monotonic() - start


def test_it_ends_when_all_have_answered(three, request_of):
    exchange, grid = three
    grid.delays["c", "describe"] = 0.2
    asked, seconds = timed(lambda: exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=2))
    assert sorted(asked.answers) == [A, B, C]
    assert asked.failures == {}
    assert 0.2 <= seconds < 10


def test_a_hospital_that_is_late_within_the_grace_period_counts(three, request_of):
    exchange, grid = three
    grid.delays["c", "describe"] = 0.2
    asked = exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=2, grace_s=20)
    assert sorted(asked.answers) == [A, B, C]


def test_after_the_grace_period_it_goes_on_without_the_late_one(three, request_of):
    exchange, grid = three
    grid.delays["c", "describe"] = 60
    asked, seconds = timed(lambda: exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=2, grace_s=0.1))
    assert sorted(asked.answers) == [A, B]
    assert asked.failures == {C: TOO_LATE}
    assert 0.1 <= seconds < 10


def test_the_grace_period_begins_with_the_last_answer_that_is_needed(three, request_of):
    exchange, grid = three
    grid.delays |= {("b", "describe"): 0.3, ("c", "describe"): 60}
    asked, seconds = timed(lambda: exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=2, grace_s=0.2))
    assert sorted(asked.answers) == [A, B]
    assert 0.5 <= seconds < 10


@pytest.mark.parametrize("code", [2, 8])
def test_errors_are_no_usable_answers(code, three, request_of):
    """Two of three are needed; one failed, so the grace period never begins before the third."""
    exchange, grid = three
    grid.errors["a", "describe"] = code
    grid.delays["c", "describe"] = 0.3
    asked = exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=2, grace_s=0.01)
    assert sorted(asked.answers) == [B, C]
    assert asked.failures == {A: f"{FLOWER_ERRORS[code]} (Flower error code {code})"}


def test_refusals_are_no_usable_answers(deployed, scripted, request_of):
    refusing = scripted(tamper=lambda *_: to_records(Packed({}, {REFUSAL: "against-policy"})), kinds=("describe",))
    exchange, grid = deployed({"a": refusing, "b": scripted(), "c": scripted()})
    grid.delays["c", "describe"] = 0.3
    asked = exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=2, grace_s=0.01)
    assert sorted(asked.answers) == [A, B, C]
    assert asked.answers[A][0].fields[REFUSAL] == "against-policy"


def test_who_has_not_answered_at_the_deadline_is_named(three, request_of):
    exchange, grid = three
    grid.delays["b", "describe"] = 60
    asked = exchange.ask("describe", request_of, [A, B, C], 1, 0.2, needed=2)
    assert sorted(asked.answers) == [A, C]
    assert asked.failures == {B: NO_ANSWER}


def test_flower_s_error_codes_are_those_of_the_installed_flower():
    known = {value for name, value in vars(ErrorCode).items() if name.isupper()}
    assert set(FLOWER_ERRORS) == known - {ErrorCode.UNKNOWN}
    assert ErrorCode.NODE_UNAVAILABLE == NODE_UNAVAILABLE


def test_an_error_made_by_the_superlink_belongs_to_the_hospital_that_was_asked(three, request_of):
    """It comes from node 1; what it replies to says whom it is about. Its text is nowhere."""
    exchange, grid = three
    grid.errors["b", "describe"] = 3
    asked = exchange.ask("describe", request_of, [A, B, C], 1, 30)
    assert asked.failures == {B: "the request was void, or the answer to it incomplete (Flower error code 3)"}


def test_who_is_not_connected_is_not_waited_for_when_enough_have_answered(three, request_of):
    exchange, grid = three
    grid.away = {"b"}
    asked, seconds = timed(lambda: exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=2))
    assert asked.failures == {B: NOT_CONNECTED}
    assert [name for name, _, _ in grid.pushed] == ["a", "c"]
    assert seconds < 10


def test_who_is_not_connected_is_waited_for_while_too_few_have_answered(three, request_of, monkeypatch):
    exchange, grid = three
    grid.away = {"b"}
    monkeypatch.setattr("server.exchange._CONNECTED_EVERY_S", 0.05)
    looks = iter(range(3))

    def get_nodes():
        if next(looks, None) is None:
            grid.away.clear()
        return type(grid).get_nodes(grid)

    monkeypatch.setattr(grid, "get_nodes", get_nodes)
    asked = exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=3)
    assert sorted(asked.answers) == [A, B, C]
    assert [name for name, _, _ in grid.pushed] == ["a", "c", "b"]


def test_a_hospital_that_is_lost_while_it_works_costs_its_own_answer(three, request_of):
    exchange, grid = three
    grid.delays |= {("b", "describe"): 60, ("c", "describe"): 0.2}
    pull = grid.pull_messages

    def lose_b(ids):
        grid.away = {"b"}
        return pull(ids)

    grid.pull_messages = lose_b
    asked, seconds = timed(lambda: exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=2))
    assert sorted(asked.answers) == [A, C]
    assert asked.failures == {B: "the hospital is not connected any more (no heartbeat; Flower error code 5)"}
    assert seconds < 10


def test_a_hospital_that_is_lost_and_comes_back_is_asked_again(three, request_of, monkeypatch):
    """As all are, when the SuperLink was away for longer than a heartbeat."""
    exchange, grid = three
    monkeypatch.setattr("server.exchange._CONNECTED_EVERY_S", 0.05)
    pull, nodes, looks = grid.pull_messages, grid.get_nodes, []

    def lose_all(ids):
        grid.away = {"a", "b", "c"} if not looks[1:] else set()
        return pull(ids)

    def come_back():
        looks.append(1)
        if len(looks) == 4:
            grid.away.clear()
        return nodes()

    monkeypatch.setattr(grid, "pull_messages", lose_all)
    monkeypatch.setattr(grid, "get_nodes", come_back)
    asked = exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=3)
    assert sorted(asked.answers) == [A, B, C]
    assert asked.failures == {}
    assert [name for name, _, _ in grid.pushed] == ["a", "b", "c"] * 2


def test_a_node_that_flower_does_not_know_costs_its_own_answer(three, request_of):
    exchange, grid = three
    nodes = grid.get_nodes
    stranger = 99
    grid.get_nodes = lambda: [*nodes(), type(nodes()[0])(node_id=stranger, name="x")]
    asked = exchange.ask("describe", request_of, [A, stranger, C], 1, 30, needed=2)
    assert sorted(asked.answers) == [A, C]
    assert asked.failures == {stranger: NOT_TAKEN}


@pytest.mark.parametrize("what", ["nodes", "push", "pull"])
def test_while_flower_does_not_answer_it_tries_again_and_says_so_once(what, three, request_of, caplog):
    exchange, grid = three
    grid.unreachable[what] = 4
    asked = exchange.ask("describe", request_of, [A, B, C], 1, 30, needed=3)
    assert sorted(asked.answers) == [A, B, C]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "ConnectionError" in told[0]
    assert "SECRET" not in told[0]


def test_a_flower_that_never_answers_is_the_reason_at_the_deadline(three, request_of):
    exchange, grid = three
    grid.unreachable["push"] = 10_000
    asked = exchange.ask("describe", request_of, [A, B], 1, 0.2, needed=2)
    assert asked.failures == {A: UNREACHABLE, B: UNREACHABLE}


def test_a_request_is_void_soon_after_its_deadline(three, request_of):
    exchange, grid = three
    exchange.ask("describe", request_of, [A, B, C], 1, 40)
    assert [ttl for _, _, ttl in grid.pushed] == pytest.approx([40 + CLOCKS_APART_S] * 3, abs=5)


def late(exchange, request_of, number, grace_s=0.01):
    """A question that goes on without the one who is late."""
    return exchange.ask("describe", request_of, [A, B, C], number, 30, needed=2, grace_s=grace_s)


def test_the_late_answer_to_an_earlier_question_is_not_taken_for_the_next(three, request_of):
    """c works at the first question when the second comes, and answers both, in order."""
    exchange, grid = three
    grid.delays["c", "describe"] = 0.4
    assert late(exchange, request_of, 1).failures == {C: TOO_LATE}
    grid.delays.clear()
    second, seconds = timed(lambda: late(exchange, request_of, 2, grace_s=20))
    assert sorted(second.answers) == [A, B, C]
    assert len(second.answers[C]) == 1
    assert seconds >= 0.2


def test_one_request_waits_behind_the_one_a_hospital_works_at_and_no_more(three, request_of):
    exchange, grid = three
    grid.delays["c", "describe"] = 60
    assert [late(exchange, request_of, number).failures for number in (1, 2, 3, 4)] == [
        {C: TOO_LATE},
        {C: TOO_LATE},
        {C: BUSY},
        {C: BUSY},
    ]
    assert [name for name, _, _ in grid.pushed].count("c") == 2


def test_a_hospital_that_catches_up_is_sent_the_question_that_is_open(three, request_of):
    exchange, grid = three
    grid.delays["c", "describe"] = 0.4
    late(exchange, request_of, 1)
    late(exchange, request_of, 2)
    grid.delays.clear()
    third = late(exchange, request_of, 3, grace_s=20)
    assert sorted(third.answers) == [A, B, C]
    assert [name for name, _, _ in grid.pushed].count("c") == 3


def test_a_hospital_that_was_started_again_gets_the_next_question(three, request_of):
    """What it was sent is lost, and Flower never says so. Its next answer shows that nothing holds it up."""
    exchange, grid = three
    grid.delays["c", "describe"] = 60
    assert late(exchange, request_of, 1).failures == {C: TOO_LATE}
    grid.restart("c")
    grid.delays.clear()
    for number in range(2, 6):
        assert sorted(late(exchange, request_of, number, grace_s=20).answers) == [A, B, C]


def test_once_their_deadline_has_passed_old_requests_hold_nothing_up(three, request_of):
    exchange, grid = three
    grid.delays["c", "describe"] = 60
    for number in (1, 2):
        asked = exchange.ask("describe", request_of, [A, B, C], number, 0.1, needed=2)
        assert asked.failures == {C: NO_ANSWER}
    grid.restart("c")
    grid.delays.clear()
    third = exchange.ask("describe", request_of, [A, B, C], 3, 30, needed=2)
    assert sorted(third.answers) == [A, B, C]


def test_in_a_simulation_nobody_is_looked_for_and_nothing_is_asked_twice(scripted, deployed, request_of):
    exchange, grid = deployed({"a": scripted(), "b": scripted()}, retry_s=None)
    grid.errors["b", "describe"] = 5
    grid.unreachable["nodes"] = 1
    asked = exchange.ask("describe", request_of, [A, B], 1, 30, needed=2)
    assert list(asked.answers) == [A]
    assert [name for name, _, _ in grid.pushed] == ["a", "b"]
    assert grid.unreachable["nodes"] == 1
