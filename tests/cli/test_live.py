"""The table of a run's rounds, from the lines of rounds.jsonl."""

import io
import json

import pytest
from rich.console import Console

from cli.live import live_rounds
from common.job import parse_job

METRICS = {"auroc": 0.9, "accuracy": 0.8, "log_loss": 0.5}
JOB = parse_job(
    {
        "name": "x",
        "classes": ["a", "b"],
        "backbone": {"name": "mobilenet_v2", "weights": "random"},
        "method": {"name": "fedavg", "rounds": 9},
    }
)


def line(number, **changes):
    found = {"round": number, "lost": False, "answered": ["a", "b"], "train_loss": 0.7, "dropped": {}, "outside": {}}
    return {**found, "bytes_up": 500, "bytes_down": 500, "seconds": 1.0, "validation": METRICS, **changes}


@pytest.fixture
def shown(tmp_path):
    """What is printed of a run with some lines."""

    def make(lines, end="", **options):
        (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + end)
        file = io.StringIO()
        with live_rounds(tmp_path, JOB, Console(file=file, width=120, **options)):
            pass
        return file.getvalue()

    return make


def test_who_is_missing_and_why_is_below_the_rounds(shown):
    late = {"c": "no answer before the deadline"}
    text = shown([line(1), line(2, dropped=late), line(3, dropped=late, outside={"d": "declined: job-not-approved"})])
    *_, c, d = text.splitlines()
    assert "2 of 3" in text
    assert c == "c is missing from the training in rounds 2 to 3: no answer before the deadline"
    assert d == "d was left out in round 3: declined: job-not-approved"


def test_nothing_is_below_when_nobody_is_missing(shown):
    assert shown([line(1), line(2, lost=True)]).splitlines()[-1].split()[:2] == ["2/9", "0.900"]


def test_half_a_line_is_not_read(shown):
    assert "1/9" in shown([line(1)], end='{"round": 2')


def test_a_terminal_shows_the_same(shown):
    assert "c is missing" in shown([line(1, dropped={"c": "late"})], force_terminal=True, color_system=None)


def test_a_name_cannot_steer_the_terminal(shown):
    text = shown([line(1, dropped={"[red]\x1b[2J": "late"})])
    assert "[red]" in text
    assert "\x1b" not in text
