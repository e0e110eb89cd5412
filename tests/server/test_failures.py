"""Who was missing: grouped, and in words."""

import json

import pytest

from server.failures import PHASES, Failure, Failures, in_words, of_rounds


def test_the_same_failure_in_several_rounds_is_one_entry():
    failures = Failures([Failure("b", "fit", 1, "late")])
    for number in (2, 4):
        failures.add("fit", number, {"b": "late", "a": "gone"})
    failures.add("fit", 2, {"b": "late"})
    failures.add("test", 4, {"b": "late"})
    grouped = failures.grouped()
    assert grouped == [
        {"hospital": "a", "phase": "fit", "rounds": [2, 4], "reason": "gone"},
        {"hospital": "b", "phase": "fit", "rounds": [1, 2, 4], "reason": "late"},
        {"hospital": "b", "phase": "test", "rounds": [4], "reason": "late"},
    ]
    assert json.loads(json.dumps(grouped)) == grouped
    assert len(failures.found) == 6


@pytest.mark.parametrize(
    ("phase", "rounds", "words"),
    [
        ("fit", [3], "is missing from the training in round 3: late"),
        ("fit", [1, 2, 3, 5, 7, 8], "is missing from the training in rounds 1 to 3, 5, 7 to 8: late"),
        ("describe", [0], "was left out: late"),
        ("describe", [0, 1, 2], "was left out in rounds 1 to 2: late"),
        ("test", [7], "is missing from the test: late"),
    ],
)
def test_a_failure_in_words(phase, rounds, words):
    assert in_words({"hospital": "a", "phase": phase, "rounds": rounds, "reason": "late"}) == words


def test_lines_of_rounds_say_who_was_missing():
    lines = [
        {"round": 1, "dropped": {"b": "late"}, "outside": {"c": "declined: job-not-approved"}},
        {"round": 2, "dropped": {"b": "late"}, "outside": {}},
    ]
    assert [f"{one['hospital']} {in_words(one)}" for one in of_rounds(lines)] == [
        "b is missing from the training in rounds 1 to 2: late",
        "c was left out in round 1: declined: job-not-approved",
    ]


def test_every_phase_has_words():
    assert set(PHASES) >= {"describe", "statistics", "fit", "validation", "test", "cross-site", "personalisation"}
