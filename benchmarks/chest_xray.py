"""How much the federation is worth: federated against each hospital alone and against all images in one place.

    python benchmarks/chest_xray.py SHARED --seeds 10

SHARED holds data/chest_xray and weights/. The job is configs/chest_xray.yaml with other seeds: other patients are held out
each time. Every head is judged on the test patients of all four hospitals together. Prints a Markdown table.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np

from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile, Policy
from client.records import read_rows
from common.head import Head, Standardisation
from common.job import Job, load_job, parse_job
from common.metrics import ClassificationCounts, derive
from common.wire import Packed, pack_heads, pack_standardisation, unpack_counts
from simulation.run import simulate

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")
ALONE = ("nih_clinical_center", "guangzhou_children")
"""The other two have too few images to train on."""


def main() -> None:
    """Run all seeds and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--seeds", type=int, default=10)
    given = arguments.parse_args()
    content = load_job(PROJECT / "configs" / "chest_xray.yaml").model_dump(mode="json")
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        folders = {name: given.shared / "data" / "chest_xray" / name for name in NAMES}
        pooled = {"pooled": _pool(folders, Path(folder) / "pooled")}
        for seed in range(given.seeds):
            job = parse_job({**content, "seed": seed, "quorum": {"min_hospitals": 1, "deadline_s": 600}})
            settings = {"weights_dir": given.shared / "weights", "cache_dir": cache}
            trainings = {
                "federated, four hospitals": folders,
                "all images in one place": pooled,
                **{f"{name} alone": {name: folders[name]} for name in ALONE},
            }
            for title, hospitals in trainings.items():
                result = simulate(job, hospitals, Path(folder) / f"{title}-{seed}", **settings)
                found.setdefault(title, []).append(_judge(result.head, job, folders, **settings))
    print(
        f"\n| trained by | test AUROC: mean (least to greatest of {given.seeds} seeds) | test accuracy |\n|---|---|---|"
    )
    for title, scores in found.items():
        print(f"| {title} | {' | '.join(_cell(np.array(column)) for column in zip(*scores, strict=True))} |")


def _cell(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def _pool(folders: dict[str, Path], folder: Path) -> Path:
    """One hospital with the images of all."""
    folder.mkdir()
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient_id"])
        for source in folders.values():
            writer.writerows([row.path.resolve(), row.label, row.patient_id] for row in read_rows(source))
    return folder


def _judge(head: Head, job: Job, folders: dict[str, Path], weights_dir: Path, cache_dir: Path) -> tuple[float, float]:
    """AUROC and accuracy of a head on raw features on the test patients of all hospitals."""
    total = ClassificationCounts.zeros(job.num_classes)
    for name, folder in folders.items():
        file = HospitalFile(
            name=name, data=Data(folder=folder), cache=cache_dir, weights_dir=weights_dir, policy=Policy(approve="auto")
        )
        hospital = Hospital(file)
        request = {"job": job.canonical_json()}
        described = hospital.answer("describe", Packed({}, request))
        arrays = {**pack_heads([head]), **pack_standardisation(Standardisation.identity(head.weight.shape[1]))}
        fields = {**request, "fingerprint": described.fields["fingerprint"], "part": "test"}
        total = total + unpack_counts(hospital.answer("evaluate", Packed(arrays, fields)).arrays)[0]
    metrics = derive(total)
    return float(metrics.auroc or 0.0), float(metrics.accuracy or 0.0)


if __name__ == "__main__":
    main()
