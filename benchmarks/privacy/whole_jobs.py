"""Whole private jobs through `simulate` on the chest task, beside what the curve of epsilon_curve.py says of their mode.

    python benchmarks/privacy/whole_jobs.py SHARED [--epsilons 3 8] [--only local]

SHARED holds data/chest_xray and weights/. configs/chest_xray.yaml's four hospitals, seed 3; the curve is the mean of seeds 3 to
7, and its standard deviation over them about 0.01. The noise is that of a run, so that a table does not come again
to the last digit.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

from private_heads import NAMES, PROJECT

from client.records import read_rows
from common.config_file import load_yaml
from common.job import parse_job
from simulation.partition import apply_partition, parse_partition
from simulation.run import simulate

SECURE = {"secure_aggregation": True}
OWN = {"noise": "own"}
MODES = {
    "local DP-SGD, fedavg": ({"name": "fedavg"}, {}, OWN),
    "local DP-SGD, fedavg, secure aggregation": ({"name": "fedavg"}, SECURE, OWN),
    "dp-gd, two of the four make the noise": ({"name": "dp-gd"}, SECURE, {}),
    "dp-gd, noise: own": ({"name": "dp-gd"}, SECURE, OWN),
    "unit: hospital, 4 hospitals": ({"name": "fedavg"}, {}, {"unit": "hospital", "hospitals": 4}),
    "unit: hospital, the same patients in 200 hospitals": (
        {"name": "fedavg"},
        {},
        {"unit": "hospital", "hospitals": 200},
    ),
}
"""Method, further keys of `privacy`, further keys of `differential_privacy`."""

CURVE = {
    "local DP-SGD, fedavg": {0.5: 0.817, 1: 0.887, 3: 0.929, 8: 0.935},
    "local DP-SGD, fedavg, secure aggregation": {0.5: 0.817, 1: 0.887, 3: 0.929, 8: 0.935},
    "dp-gd, two of the four make the noise": {0.5: 0.834, 1: 0.915, 3: 0.946, 8: 0.950},
    "dp-gd, noise: own": {0.5: 0.783, 1: 0.876, 3: 0.937, 8: 0.949},
}


def in_many(hospitals: dict[str, Path], number: int, classes: list[str], folder: Path, seed: int) -> dict[str, Path]:
    """The patients of all hospitals dealt out at random to so many, each with about as many."""
    rows = [
        (row.path.resolve(), row.label, f"{name} {row.patient_id}")
        for name, source in hospitals.items()
        for row in read_rows(source)
        if row.label in classes
    ]
    pool = folder / "pool"
    pool.mkdir()
    with (pool / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient_id"), *rows])
    return apply_partition(pool, parse_partition(f"size:hospitals={number},exponent=0"), folder / "many", seed)


def main() -> None:
    """Run the jobs, and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--epsilons", type=float, nargs="+", default=[3.0, 8.0])
    arguments.add_argument("--seed", type=int, default=3)
    arguments.add_argument("--only", default="", help="modes whose name has this in it")
    arguments.add_argument("--cache-dir", type=Path)
    arguments.add_argument("--method", type=str, nargs="*", default=[], help="options of the method, as lr=0.1")
    given = arguments.parse_args()
    options = {
        key: float(value) if "." in value else int(value) for key, _, value in (o.partition("=") for o in given.method)
    }
    hospitals = {name.replace("_", "-"): given.shared / "data" / "chest_xray" / name for name in NAMES}
    content = load_yaml(PROJECT / "configs" / "chest_xray.yaml")
    print("| mode | epsilon | test AUROC | curve | epsilon accounted | rounds | seconds |")
    print("|---" * 7 + "|")
    for mode, (method, privacy, budget) in MODES.items():
        for epsilon in given.epsilons if given.only in mode else ():
            job = parse_job(
                {
                    **content,
                    "seed": given.seed,
                    "evaluation": {"test_fraction": 0.2},
                    "method": {**method, **options},
                    "privacy": {**privacy, "differential_privacy": {"epsilon": epsilon, **budget}},
                }
            )
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as out:
                chosen, number = hospitals, int(budget.get("hospitals", 0))
                if number > len(hospitals):
                    chosen = in_many(hospitals, number, job.classes, Path(out), given.seed)
                result = simulate(
                    job, chosen, Path(out) / "run", weights_dir=given.shared / "weights", cache_dir=given.cache_dir
                )
            summary = result.summary
            curve = CURVE.get(mode, {}).get(epsilon)
            print(
                f"| {mode} | {epsilon:g} | {summary['metrics']['pooled']['auroc']:.3f} | {curve or '–'} "
                f"| {summary['privacy']['spent']:.3f} | {summary['rounds']} | {time.perf_counter() - start:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
