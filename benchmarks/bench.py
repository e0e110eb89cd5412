"""All benchmarks, one after the other: `make bench`, and in three minutes with small arguments `make bench-quick`.

    python -m benchmarks.bench                       all of them
    python -m benchmarks.bench --quick               those that have quick arguments
    python -m benchmarks.bench extraction cache      these

`BENCHMARKS` is the table; a benchmark is one row. Each prints its tables, and writes its JSON into --out. The README's
performance table is made of the files in benchmarks/results (`python -m benchmarks.readme_table`).
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config_file import unknown
from common.telemetry import OFF

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
SHARED, OUT = "SHARED", "OUT"
"""Arguments that stand for the folder of data and weights (benchmarks/README.md), and the one for JSON files."""


@dataclass(frozen=True)
class Benchmark:
    """measures: in words. command: arguments of python. quick: the same for `make bench-quick`, None to leave it out there."""

    measures: str
    command: tuple[str, ...]
    quick: tuple[str, ...] | None


BENCHMARKS: Mapping[str, Benchmark] = {
    "extraction": Benchmark(
        "images/s through the backbone, beside the ways that PyTorch has",
        ("-m", "benchmarks.extraction", SHARED, "--out", OUT),
        ("-m", "benchmarks.extraction", SHARED, "--out", OUT, "--images", "64", "--runs", "2", "--no-compile"),
    ),
    "whole_job": Benchmark(
        "a whole job from a cold cache, against extraction alone",
        ("-m", "benchmarks.whole_job", SHARED, "--out", OUT),
        ("-m", "benchmarks.whole_job", SHARED, "--out", OUT, "--images", "150", "--runs", "1"),
    ),
    "cache": Benchmark(
        "the feature cache: cold, warm, and after a change of some images",
        ("-m", "benchmarks.cache", SHARED, "--out", OUT),
        ("-m", "benchmarks.cache", SHARED, "--out", OUT, "--images", "150", "--runs", "1"),
    ),
    "deployment_rounds": Benchmark(
        "seconds a round with real processes, TLS and node keys",
        ("-m", "benchmarks.deployment_rounds", "--hospitals", "3", "--rounds", "8", "--out", OUT),
        None,
    ),
    "engines": Benchmark(
        "rounds a second of the in-process engine, heads one by one and together",
        ("-m", "benchmarks.engines", "--ray", "10", "100", "--out", OUT),
        ("-m", "benchmarks.engines", "--hospitals", "10", "100", "--out", OUT),
    ),
    "engines_goals": Benchmark(
        "1,000 simulated hospitals x 20 rounds, 10,000 x the closed form",
        ("-m", "benchmarks.engines", "--goals", "--out", OUT),
        None,
    ),
    "coordinator": Benchmark(
        "memory and seconds of the coordinator against hospitals and the size of the model",
        ("-m", "benchmarks.coordinator", "--out", OUT),
        None,
    ),
    "recipe": Benchmark(
        "the recipe most people start from (all weights, whole model exchanged) against the head; an hour or more",
        ("-m", "benchmarks.recipe", SHARED, "--out", OUT),
        None,
    ),
    "secure_sum": Benchmark(
        "seconds and bytes of secure aggregation alone",
        ("-m", "benchmarks.privacy.secure_sum", "--out", OUT),
        ("-m", "benchmarks.privacy.secure_sum", "--features", "512", "--hospitals", "3", "5", "--out", OUT),
    ),
}


def main() -> None:
    """Run the benchmarks; exit code 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which ones; all if none is named: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small arguments, three minutes together")
    parser.add_argument(
        "--shared",
        type=Path,
        default=os.environ.get("CONSILIUM_SHARED"),
        help="folder with data/chest_xray and weights/ (default: CONSILIUM_SHARED); without it, what needs it is left out",
    )
    parser.add_argument("--out", type=Path, help="folder for JSON files (default: benchmarks/results, or its quick/)")
    given = parser.parse_args()
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(unknown("benchmark", name, list(BENCHMARKS)))
    out = given.out or (RESULTS / "quick" if given.quick else RESULTS)
    lines = [_run(name, given.quick, given.shared, out) for name in given.names or BENCHMARKS]
    print("\n| benchmark | measures | ended | s |\n|---|---|---|---|")
    for name, (ended, seconds) in zip(given.names or BENCHMARKS, lines, strict=True):
        print(f"| {name} | {BENCHMARKS[name].measures} | {ended} | {seconds:.0f} |")
    sys.exit(1 if any(ended.startswith("failed") for ended, _ in lines) else 0)


def _run(name: str, quick: bool, shared: Path | None, out: Path) -> tuple[str, float]:
    """How one benchmark ended, and after how many seconds."""
    benchmark = BENCHMARKS[name]
    command = benchmark.quick if quick else benchmark.command
    if command is None:
        return "left out: takes longer", 0.0
    if SHARED in command and (shared is None or not (shared / "data" / "chest_xray").is_dir()):
        return "left out: needs --shared", 0.0
    print(f"\n## {name}: {benchmark.measures}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments_of(command, shared, out)], cwd=PROJECT, env=_environment())
    return ("well" if done.returncode == 0 else f"failed, exit code {done.returncode}"), time.perf_counter() - start


def arguments_of(command: Sequence[str], shared: Path | None, out: Path) -> list[str]:
    """A row's arguments with the two folders filled in."""
    folders = {SHARED: str(shared), OUT: str(out.resolve())}
    return [folders.get(word, word) for word in command]


def _environment() -> dict[str, str]:
    """Scripts in sub-folders find the project, and nothing phones home."""
    paths = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, **OFF}


if __name__ == "__main__":
    main()
