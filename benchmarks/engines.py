"""How many hospitals one machine simulates: rounds per second of the in-process engine, one by one and together, and of Ray.

    python -m benchmarks.engines --hospitals 10 100 1000 --out DIR
    python -m benchmarks.engines --goals --out DIR         1,000 hospitals x 20 rounds; 10,000 x the closed form
    python -m benchmarks.engines --ray 10 --out DIR        minutes: Flower's runtime starts, and each node is a process's work

Hospitals hold features that a program draws (50 training examples each, 1,280 features; 128 for the closed form): what
is measured is what the system adds, with the real messages, policy, guard, counts and run directory. Seconds are of
this process's processors (and on the clock), so that other work on the machine counts less. Overhead: seconds of a
round less those that training the heads takes, by message. Ray hospitals are phantoms with images, whose features are
made in a first run that is not counted.
"""

import argparse
import logging
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.feature_hospitals import job_of, run, seat
from benchmarks.outcome import Headline, Outcome, Table, publish
from client.app import hospitals as here
from client.training import Examples, train_head
from client.training_together import Exercise, train_together
from common.head import Head
from common.job import Job, parse_job
from simulation.together import train_ahead

EXAMPLES, FEATURES, NARROW = 50, 1280, 128
_WARM_UP, _ROUNDS = 2, 7


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, nargs="*", default=[10, 100, 1000], help="numbers of hospitals")
    parser.add_argument("--goals", action="store_true", help="only the two long runs")
    parser.add_argument("--ray", type=int, nargs="*", default=[], help="numbers of phantom hospitals in Ray")
    parser.add_argument("--out", type=Path, help="folder for engines.json")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    if given.goals:
        table, headlines = _goals()
        publish(Outcome("engines_goals", "python -m benchmarks.engines --goals", (table,), headlines), given.out)
        return
    tables = [_training(given.hospitals), _rounds(given.hospitals)]
    if given.ray:
        tables.append(_ray(given.ray))
    publish(Outcome("engines", "python -m benchmarks.engines", tuple(tables)), given.out)


def _training(numbers: list[int]) -> Table:
    """Milliseconds that one head takes, alone and together, without any message."""
    local = job_of({"name": "fedavg"}, FEATURES).method.local
    rows = []
    for number in numbers:
        rng = np.random.default_rng(0)
        some = [
            Exercise(
                Head.zeros(2, FEATURES),
                Examples(rng.standard_normal((EXAMPLES, FEATURES), np.float32), rng.integers(0, 2, EXAMPLES)),
                local,
                seed,
            )
            for seed in range(min(number, 1000))
        ]
        alone = _cpu_s(lambda some=some: [train_head(one.start, one.examples, one.local, one.seed) for one in some])
        both = _cpu_s(lambda some=some: train_together(some))
        rows.append((number, 1e3 * alone / len(some), 1e3 * both / len(some), alone / both))
    return Table(
        f"Training alone: {EXAMPLES} examples, {FEATURES} features, one epoch in batches of 64",
        ("hospitals", "ms a head, one by one", "ms a head, together", "times"),
        tuple(rows),
    )


def _rounds(numbers: list[int]) -> Table:
    """A round of fedavg: the difference of a long and a short run, so that the beginning and the report are not in it."""
    rows = []
    for number in numbers:
        for title, ahead in (("one by one", None), ("together", train_ahead)):
            nodes = _seated(number, EXAMPLES)
            spent = []
            for rounds in (_WARM_UP, _ROUNDS):
                job = job_of({"name": "fedavg", "rounds": rounds}, FEATURES)
                cpu, found = time.process_time(), None
                found = run(job, nodes, ahead=ahead)
                spent.append((time.process_time() - cpu, found.phases["fit"]))
            made = _ROUNDS - _WARM_UP
            cpu_s, clock_s = ((late - early) / made for early, late in zip(*spent, strict=True))
            rows.append((number, title, 1 / cpu_s, 1 / clock_s, 1e3 * cpu_s / number))
    return Table(
        "In-process engine: rounds of fedavg",
        (
            "hospitals",
            "heads are trained",
            "rounds per second of a processor",
            "rounds per second on the clock",
            "ms a message",
        ),
        tuple(rows),
    )


def _goals() -> tuple[Table, tuple[Headline, ...]]:
    rows: list[tuple[Any, ...]] = []
    for number, method, features, title in (
        (1000, {"name": "fedavg", "rounds": 20}, FEATURES, "20 rounds of fedavg"),
        (10_000, {"name": "analytic"}, NARROW, "the closed form"),
    ):
        nodes = _seated(number, EXAMPLES)
        cpu, start = time.process_time(), time.perf_counter()
        found = run(job_of(method, features), nodes, ahead=train_ahead)
        cpu_s, clock_s = time.process_time() - cpu, time.perf_counter() - start
        print(f"{number} hospitals, {title}: {cpu_s:.0f} s of a processor, {clock_s:.0f} s on the clock", flush=True)
        rows.append(
            (number, title, features, cpu_s, clock_s, found.phases["total"], found.phases["describe"], _rss_mb())
        )
    heads = tuple(
        Headline(f"{row[0]:,} simulated hospitals, {row[1]}, {row[2]:,} features", f"{row[3]:.0f} s of one processor")
        for row in rows
    )
    columns = (
        "hospitals",
        "job",
        "features",
        "s of a processor",
        "s on the clock",
        "of which the run",
        "describing",
        "MB",
    )
    return Table("Whole runs, from nothing to the report", columns, tuple(rows)), heads


def _ray(numbers: list[int]) -> Table:
    from client.phantom import make_phantoms
    from simulation.run import simulate

    rows = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            phantoms = make_phantoms(folder / "phantoms", hospitals=number, images=10, size_px=32)
            seconds = {}
            for engine in ("in-process", "ray"):
                for rounds in (0, 2, 5):
                    job = _phantom_job(max(rounds, 1))
                    settings = {"cache_dir": folder / "cache", "device": "cpu"}
                    start = time.perf_counter()
                    found = simulate(job, phantoms, folder / f"{engine}-{rounds}", engine=engine, **settings)
                    seconds[engine, rounds] = time.perf_counter() - start, found.summary["seconds"]["fit"]
            for engine in ("in-process", "ray"):
                fit = seconds[engine, 5][1] - seconds[engine, 2][1]
                rows.append((number, engine, seconds[engine, 5][0], 3 / fit))
    return Table(
        "Phantom hospitals with images, features in their caches, both engines on the clock",
        ("hospitals", "engine", "s for a run of 5 rounds", "rounds per second"),
        tuple(rows),
    )


def _phantom_job(rounds: int) -> Job:
    return parse_job(
        {
            "name": "engines",
            "classes": ["normal", "opacity"],
            "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 1}},
            "image": {"size": 64},
            "method": {"name": "fedavg", "rounds": rounds},
            "evaluation": {"test_fraction": 0.2, "validation_fraction": 0.2},
            "quorum": {"min_hospitals": 2, "deadline_s": 1800},
        }
    )


def _seated(number: int, examples: int) -> dict[str, dict[str, str]]:
    here.clear()
    return seat(number, examples)


def _cpu_s(work: Any) -> float:
    """Median of three runs."""
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return float(np.median(found))


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
