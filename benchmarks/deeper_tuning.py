"""Does tuning the last blocks from the closed-form head beat the closed-form head, and at what price?

    python benchmarks/deeper_tuning.py SHARED --seeds 3 --lr 0.001 0.003

SHARED holds data/chest_xray and weights/. The job is configs/chest_xray_tuned.yaml with other seeds. For each run the closed-form
start (round 0) and the best round by validation AUROC; test figures are those of the model kept. `--part full` tunes everything.
Prints a Markdown table.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from common.config_file import load_yaml
from common.job import parse_job
from simulation.run import simulate

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")


def main() -> None:
    """Run all combinations and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--first-seed", type=int, default=3)
    arguments.add_argument("--lr", type=float, nargs="+", default=[1e-3])
    arguments.add_argument("--head-lr", type=float, default=1e-4)
    arguments.add_argument("--blocks", type=int, nargs="+", default=[4])
    arguments.add_argument("--views", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=6)
    arguments.add_argument("--part", default="last-blocks")
    arguments.add_argument("--batch-norm", default="frozen")
    arguments.add_argument("--optimizer", default="sgd")
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    hospitals = {name: given.shared / "data" / "chest_xray" / name for name in NAMES}
    content = load_yaml(PROJECT / "configs" / "chest_xray_tuned.yaml")
    print(
        "| tuned | lr | seed | validation AUROC: start, best (round) | test AUROC | test accuracy | s | MB a hospital |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    gains = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {"weights_dir": given.shared / "weights", "cache_dir": given.cache_dir or Path(folder) / "cache"}
        for blocks in given.blocks if given.part == "last-blocks" else [0]:
            for lr in given.lr:
                for seed in range(given.first_seed, given.first_seed + given.seeds):
                    tune = {"part": given.part, "lr": lr, "views": given.views, "batch_norm": given.batch_norm}
                    if blocks:
                        tune["blocks"] = blocks
                    method = {**content["method"], "rounds": given.rounds, "lr": given.head_lr}
                    method["optimizer"] = given.optimizer
                    job = parse_job({**content, "tune": tune, "method": method, "seed": seed})
                    run = simulate(job, hospitals, Path(folder) / f"{blocks}-{lr}-{seed}", **settings)
                    gains.append(_print(run.folder, blocks, lr, seed))
    gained = np.array(gains)
    print(
        f"\ngain in validation AUROC: mean {gained.mean():.4f}, deviation {gained.std(ddof=1) if len(gained) > 1 else 0:.4f}"
    )


def _print(folder: Path, blocks: int, lr: float, seed: int) -> float:
    """One line of the table; returns the gain in validation AUROC over the closed-form start."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    validation = {one["round"]: one["validation"]["auroc"] for one in rounds}
    best, pooled, sent = summary["best_round"], summary["metrics"]["pooled"], summary["communication"]
    megabytes = (sent["bytes_up"] + sent["bytes_down"]) / len(summary["hospitals"]) / 1e6
    print(
        f"| {blocks or 'all'} blocks | {lr:g} | {seed} | {validation[0]:.4f}, {validation[best]:.4f} ({best}) | "
        f"{pooled['auroc']:.4f} | {pooled['accuracy']:.4f} | {summary['seconds']['total']:.0f} | {megabytes:.0f} |",
        flush=True,
    )
    return float(max(validation.values()) - validation[0])


if __name__ == "__main__":
    main()
