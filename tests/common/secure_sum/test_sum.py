"""The sums of whole sessions: right whoever is lost in whichever phase, and none below the threshold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.secure_sum.combiner import Combiner
from common.secure_sum.errors import SecureSumError
from common.secure_sum.layout import Layout
from common.secure_sum.terms import Phase, default_threshold
from tests.common.secure_sum.sessions import LAYOUT, SUBJECT, Session, names, plain_sum, roster, session

SIZES = (3, 5, 20)
LOSING = (Phase.KEYS, Phase.SHARES, Phase.MASKED)
"""Phases in which a hospital that is missing is not in the sum."""


def check(made: Session, among: list[str]) -> None:
    total = made.combiner.total
    assert total is not None
    assert list(total.hospitals) == among
    wanted = plain_sum(made, among)
    for slot in LAYOUT.slots:
        found = total.arrays[slot.name]
        assert (found.shape, found.dtype) == (slot.shape, np.int64 if slot.kind == "count" else np.float64)
        if slot.kind == "count":
            assert (found == wanted[slot.name]).all()
        else:
            assert np.abs(found - wanted[slot.name]).max() <= slot.error(len(made.hospitals)) + 1e-9


@pytest.mark.parametrize("count", [2, *SIZES])
def test_the_sum_of_all(count: int, tmp_path: Path) -> None:
    made = session(tmp_path, count).until(None)
    check(made, names(count))
    assert made.combiner.total is not None
    assert (made.combiner.total.lost, made.combiner.total.suspects) == ({}, {})
    assert Phase.CONFIRM not in made.requests, "nobody was lost, so nobody is asked to confirm it"


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("count", SIZES)
def test_as_many_as_tolerated_are_lost_in_one_phase(count: int, phase: Phase, tmp_path: Path) -> None:
    tolerated = count - default_threshold(count)
    lost = set(names(count)[::2][:tolerated])
    missing = {phase: lost}
    if phase is Phase.CONFIRM:  # it is only asked if somebody was lost before
        missing = {Phase.MASKED: {names(count)[-1]}, phase: set(names(count)[: tolerated - 1])}
    made = session(tmp_path, count).until(None, missing)
    gone = set().union(*(missing.get(one, set()) for one in LOSING))
    check(made, [name for name in names(count) if name not in gone])
    assert made.combiner.total is not None
    assert set(made.combiner.total.lost) == gone
    assert (Phase.CONFIRM in made.requests) == (phase in (Phase.MASKED, Phase.CONFIRM))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", SIZES)
def test_as_many_as_tolerated_are_lost_all_over(count: int, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    lost = rng.permutation(names(count))[: count - default_threshold(count)]
    missing: dict[Phase, set[str]] = {}
    for name in lost:
        missing.setdefault(rng.choice(np.array(list(Phase), object)), set()).add(str(name))
    gone = set().union(*(missing.get(one, set()) for one in LOSING))
    made = session(tmp_path, count).until(None, missing)
    check(made, [name for name in names(count) if name not in gone])


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("count", SIZES)
def test_one_more_than_tolerated_stops_the_session(count: int, phase: Phase, tmp_path: Path) -> None:
    least = default_threshold(count)
    missing = {phase: set(names(count)[: count - least + 1])}
    if phase is Phase.CONFIRM:
        missing[Phase.MASKED] = {names(count)[-1]}
        missing[phase] = set(names(count)[: count - least])
    made = session(tmp_path, count)
    with pytest.raises(SecureSumError) as caught:
        made.until(None, missing)
    text = str(caught.value)
    assert f"phase {phase}: {least - 1} of" in text
    assert f"{least} are needed; nothing was revealed" in text
    assert "h00 (" in text
    assert (made.combiner.total, made.combiner.phase, made.combiner.requests()) == (None, None, {})


@pytest.mark.parametrize("count", SIZES)
def test_below_the_threshold_the_coordinator_has_too_few_shares_of_everything(count: int, tmp_path: Path) -> None:
    """All that it can have been given when the last phase fails: t - 1 shares of each seed, and of no key any."""
    least = default_threshold(count)
    made = session(tmp_path, count)
    with pytest.raises(SecureSumError):
        made.until(None, {Phase.UNMASK: set(names(count)[: count - least + 1])})
    given = made.replies[Phase.UNMASK]
    assert len(given) == least - 1
    assert all(not reply.arrays["key-shares"].any() for reply in given.values())
    for phase in LOSING:
        assert not any("seed-shares" in reply.arrays for reply in made.replies[phase].values())


def test_the_order_of_answers_changes_nothing(tmp_path: Path) -> None:
    made = session(tmp_path, 5).until(Phase.MASKED)
    made.step()
    request = made.combiner.requests()
    replies = {name: made.hospitals[name].answer(Phase.UNMASK, request[name]) for name in reversed(names(5))}
    made.combiner.take(replies)
    check(made, names(5))


def test_answers_that_are_not_what_was_asked_for_are_as_none(tmp_path: Path) -> None:
    made = session(tmp_path, 5, threshold=3).until(Phase.MASKED)
    first, second = names(5)[:2]

    def tamper(phase: Phase, name: str, reply: Any) -> Any:
        if phase is Phase.MASKED and name == first:
            return type(reply)({"vector": reply.arrays["vector"][:-1]}, reply.fields)
        if phase is Phase.MASKED and name == second:
            return type(reply)(reply.arrays, {"session": "0" * 64})
        return reply

    made.tamper = tamper
    made.until(None)
    check(made, names(5)[2:])
    assert made.combiner.lost == {
        first: "masked: array 'vector': expected uint64 (20,), got another or none",
        second: "masked: a message of another session",
    }


def test_what_a_combiner_is_given_must_fit() -> None:
    terms = SUBJECT.terms(roster(3), 3)
    for layout, members, asked in ((Layout(()), roster(3), 3), (LAYOUT, roster(5), 3), (LAYOUT, roster(3), 4)):
        with pytest.raises(ValueError, match="another layout or roster, or for fewer"):
            Combiner(terms, layout, members, names(asked))
