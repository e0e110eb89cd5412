"""How much the federation is worth: federated against each hospital alone and against all images in one place.

    python benchmarks/chest_xray.py SHARED --seeds 10

SHARED holds data/chest_xray and weights/. The job is configs/chest_xray.yaml with other seeds: other patients are held out
each time. Every model is judged on the test patients of all four hospitals together. Prints a Markdown table. The same
figures, and those of other methods: consilium compare configs/chest_xray.yaml --rows alone,pooled,job
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from common.config_file import load_yaml
from simulation.comparison.compare import compare
from simulation.comparison.results import Comparison
from simulation.pooling import Machine

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")
ROWS = ("job", "pooled", "alone")


def main() -> None:
    """Run all seeds and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--seeds", type=int, default=10)
    given = arguments.parse_args()
    hospitals = {name: given.shared / "data" / "chest_xray" / name for name in NAMES}
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(given.shared / "weights", Path(folder) / "cache")
        content = load_yaml(PROJECT / "configs" / "chest_xray.yaml")
        out = Path(folder) / "comparison"
        print_table(compare(content, hospitals, out, rows=ROWS, seeds=given.seeds, machine=machine))


def print_table(found: Comparison) -> None:
    """Mean, least and greatest of the seeds for each row."""
    seeds = len(found.seeds)
    print(f"\n| trained by | test AUROC: mean (least to greatest of {seeds} seeds) | test accuracy |\n|---|---|---|")
    for row in found.rows:
        cells = [row.values("auroc"), row.values("accuracy")]
        print(f"| {row.name} | {' | '.join(map(_cell, cells))} |" + (f" {row.reason}" if row.reason else ""))


def _cell(values: list[float] | None) -> str:
    return "–" if values is None else f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
