"""What hospitals with one class each do to the closed-form head and to averaging: nothing, and much.

    python benchmarks/one_class_each.py SHARED --seeds 3

SHARED holds data/chest_xray and weights/. The images of all six hospitals, in one place, and dealt to three hospitals that hold
normal, pneumonia or covid19 only; both ways have the same training, validation and test patients. Prints a Markdown table.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np

from client.records import read_rows
from common.config_file import load_yaml
from common.job import parse_job
from simulation.run import simulate

PROJECT = Path(__file__).resolve().parent.parent
METHODS = {
    "analytic": {"name": "analytic"},
    "fedavg, 20 rounds": {"name": "fedavg", "rounds": 20},
    "scaffold, 20 rounds": {"name": "scaffold", "rounds": 20, "lr": 0.02},
    "fedavg from the closed-form head, 5 rounds": {"name": "fedavg", "rounds": 5, "warm_start": "analytic"},
}


def main() -> None:
    """Run both ways with each method and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    content = load_yaml(PROJECT / "configs" / "chest_xray_three_classes.yaml")
    content["quorum"] = {"min_hospitals": 1}
    print(
        "| method | in one place: AUROC, accuracy | one class each: AUROC, accuracy | relative difference of the heads |"
    )
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"weights_dir": given.shared / "weights", "cache_dir": given.cache_dir or Path(folder) / "cache"}
        pooled, split = _manifests(given.shared / "data" / "chest_xray", Path(folder), content["classes"])
        for title, method in METHODS.items():
            found, differences = [], []
            for seed in range(3, 3 + given.seeds):
                job = parse_job({**content, "method": method, "seed": seed})
                one = simulate(job, pooled, Path(folder) / f"pooled-{title}-{seed}", **settings)
                each = simulate(job, split, Path(folder) / f"split-{title}-{seed}", **settings)
                metrics = [run.summary["metrics"]["pooled"] for run in (one, each)]
                found.append([metrics[0]["auroc"], metrics[0]["accuracy"], metrics[1]["auroc"], metrics[1]["accuracy"]])
                weights = one.model.head.weight
                differences.append(np.abs(weights - each.model.head.weight).max() / np.abs(weights).max())
            means = np.mean(found, axis=0)
            print(
                f"| {title} | {means[0]:.4f}, {means[1]:.4f} | {means[2]:.4f}, {means[3]:.4f} | {max(differences):.1e} |",
                flush=True,
            )


def _manifests(data: Path, folder: Path, classes: list[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """A hospital with all images, and one hospital for each class."""
    rows = [
        (row.path.resolve(), row.label, f"{hospital.name} {row.patient_id}")
        for hospital in sorted(path for path in data.iterdir() if path.is_dir())
        for row in read_rows(hospital)
    ]
    split = {name: _write(folder / "split" / name, [row for row in rows if row[1] == name]) for name in classes}
    return {"pooled": _write(folder / "pooled", rows)}, split


def _write(folder: Path, rows: list[tuple[Path, str, str]]) -> Path:
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient_id"), *rows])
    return folder


if __name__ == "__main__":
    main()
