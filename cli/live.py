"""The live table of a run: it follows rounds.jsonl, so it works the same for every engine."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.job import Job
from server.failures import in_words, of_rounds
from server.numbers import number
from server.summary_table import printable

_EVERY_S = 0.25
_ROWS_SHOWN = 25
_MISSING_SHOWN = 12


@contextmanager
def live_rounds(folder: Path, job: Job, console: Console) -> Iterator[None]:
    """Show the rounds of the run in `folder` while the body runs; on a terminal live, elsewhere once at the end."""
    stop = threading.Event()
    path = folder / "rounds.jsonl"
    follower = threading.Thread(target=_follow, args=(path, job, console, stop), daemon=True)
    if console.is_terminal:
        follower.start()
    try:
        yield
    finally:
        stop.set()
        if console.is_terminal:
            follower.join()
        elif rounds := _read(path):
            console.print(_table(rounds, job))


def _follow(path: Path, job: Job, console: Console, stop: threading.Event) -> None:
    # Nothing is drawn before the first round: until then the hospitals' progress bars have the terminal.
    while not (rounds := _read(path)):
        if stop.wait(_EVERY_S):
            return
    with Live(_table(rounds, job), console=console, auto_refresh=False) as live:
        while not stop.wait(_EVERY_S):
            live.update(_table(_read(path), job), refresh=True)
        live.update(_table(_read(path), job), refresh=True)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _table(rounds: list[dict[str, Any]], job: Job) -> Group:
    """The rounds, and below them which hospitals are missing, where and why."""
    shown = rounds[-_ROWS_SHOWN:]
    table = Table(title="validation after each round", title_justify="left", box=None, header_style="dim")
    for heading in ("round", "AUROC", "accuracy", "log loss", "train loss", "hospitals", "sent", "s"):
        table.add_column(heading, justify="right")
    for one in shown:
        validation = one["validation"] or {}
        answered, dropped = len(one["answered"]), len(one["dropped"])
        table.add_row(
            f"{one['round']}/{job.method.rounds}",
            *(number(validation.get(metric)) for metric in ("auroc", "accuracy", "log_loss")),
            number(one["train_loss"]),
            f"{answered} of {answered + dropped}" + (" lost" if one["lost"] else ""),
            f"{(one['bytes_up'] + one['bytes_down']) / 1000:.0f} kB",
            f"{one['seconds']:.2f}",
        )
    missing = [Text(printable(f"{one['hospital']} {in_words(one)}"), style="yellow") for one in of_rounds(shown)]
    return Group(table, *missing[:_MISSING_SHOWN])
