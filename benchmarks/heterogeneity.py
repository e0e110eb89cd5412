"""Unlike hospitals: how many rounds each method needs to be as good as fedavg after all its rounds.

    python benchmarks/heterogeneity.py SHARED --seeds 3

SHARED holds data/chest_xray and weights/. The images of the four hospitals of configs/chest_xray.yaml are dealt anew to five
hospitals by a Dirichlet draw with alpha = 0.1: most of a class is in few hospitals. Features of the last stage, 20 rounds from
zeros. scaffold makes plain steps, so it gets the learning rate that fedavg's momentum amounts to, lr / (1 - momentum).
`--tuned` compares fedavg and FedBN (`tune.batch_norm: local`) with the last two blocks tuned, on the hospitals as they are.
Prints a Markdown table.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.config_file import load_yaml
from common.job import parse_job
from simulation.partition import apply_partition, parse_partition
from simulation.pooling import pool
from simulation.run import simulate

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")
HEAD: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {"method": {"name": "fedavg"}},
    "fedprox": {"method": {"name": "fedprox"}},
    "fedadam": {"method": {"name": "fedadam"}},
    "scaffold": {"method": {"name": "scaffold", "lr": 0.02}},
    "fednova": {"method": {"name": "fednova"}},
    "fedavg, warm start": {"method": {"name": "fedavg", "warm_start": "analytic"}, "features": {"stages": "last"}},
    "analytic, one round": {"method": {"name": "analytic"}, "features": {"stages": "last"}},
}
BLOCKS = {"part": "last-blocks", "blocks": 2, "lr": 0.001, "views": 1}
SIX = {"name": "fedavg", "rounds": 6, "warm_start": "analytic", "lr": 1e-4}
TUNED: Mapping[str, Mapping[str, Any]] = {
    "fedavg, batch norm frozen": {"method": SIX, "tune": BLOCKS},
    "fedavg, batch norm local (FedBN)": {"method": SIX, "tune": {**BLOCKS, "batch_norm": "local"}},
    "scaffold, batch norm frozen": {"method": {**SIX, "name": "scaffold", "lr": 1e-3}, "tune": {**BLOCKS, "lr": 0.01}},
}


def main() -> None:
    """Run all methods and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--tuned", action="store_true")
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    content = load_yaml(PROJECT / "configs" / "chest_xray.yaml")
    content = {
        key: value for key, value in content.items() if key not in ("features", "method", "tune", "personalisation")
    }
    real = {name: given.shared / "data" / "chest_xray" / name for name in NAMES}
    curves: dict[str, list[list[float]]] = {}
    tests: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"weights_dir": given.shared / "weights", "cache_dir": given.cache_dir or Path(folder) / "cache"}
        for seed in range(3, 3 + given.seeds):
            hospitals = real if given.tuned else _dealt(real, content, seed, Path(folder) / f"dealt-{seed}")
            for title, changes in (TUNED if given.tuned else HEAD).items():
                job = parse_job({**content, **changes, "seed": seed, "quorum": {"min_hospitals": 1}})
                run = simulate(job, hospitals, Path(folder) / f"{title}-{seed}", **settings)
                curves.setdefault(title, []).append(_validation(run.folder))
                pooled = run.summary["metrics"]["pooled"]
                tests.setdefault(title, []).append([pooled["auroc"], pooled["accuracy"]])
    print(
        f"| method | test AUROC, accuracy (mean of {given.seeds} seeds) | rounds to the validation accuracy of fedavg's last |"
    )
    print("|---|---|---|")
    first = next(iter(curves.values()))
    for title, some in curves.items():
        needed = [_first_at(curve, goal[-1]) for curve, goal in zip(some, first, strict=True)]
        auroc, accuracy = np.mean(tests[title], axis=0)
        print(f"| {title} | {auroc:.4f}, {accuracy:.4f} | {', '.join(map(str, needed))} |")


def _dealt(real: dict[str, Path], content: dict[str, Any], seed: int, folder: Path) -> dict[str, Path]:
    pooled = pool(real, parse_job({**content, "seed": seed}), folder / "pooled")
    return apply_partition(pooled, parse_partition("dirichlet:hospitals=5,alpha=0.1"), folder / "hospitals", seed)


def _validation(folder: Path) -> list[float]:
    """Validation accuracy after each round."""
    lines = (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["validation"]["accuracy"] for line in lines]


def _first_at(curve: list[float], goal: float) -> int | str:
    """The first round at least as good; rounds are counted from 1, the closed-form start of a method being one of them."""
    return next((number for number, value in enumerate(curve, 1) if value >= goal), "never")


if __name__ == "__main__":
    main()
