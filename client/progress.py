"""Progress of long work: a bar with rate and time left on a terminal, a line of log now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

Advance = Callable[[int], None]
Watcher = Callable[[str, int, int], None]
_LOG_EVERY_S = 15.0
_watchers: list[Watcher] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """While the body runs, `watcher` is told the title, how much is done and the total of all long work in this process."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Yields a function that is told how many more are done."""
    done = 0
    with _shown(title, total) as show:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            show(more)
            for watcher in _watchers:
                watcher(title, done, total)

        yield advance


@contextmanager
def _shown(title: str, total: int) -> Iterator[Advance]:
    if sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _lines(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, rate="")

        def advance(more: int) -> None:
            done = bar.tasks[0].completed + more
            bar.update(task, advance=more, rate=f"{done / max(time.monotonic() - start, 1e-9):.0f}/s")

        yield advance


def _lines(title: str, total: int) -> Advance:
    start = last = time.monotonic()
    done = 0

    def advance(more: int) -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if now - last >= _LOG_EVERY_S:
            last = now
            rate = done / (now - start)
            log.info("%s: %d of %d, %.0f/s, %.0f s left", title, done, total, rate, (total - done) / rate)

    return advance
