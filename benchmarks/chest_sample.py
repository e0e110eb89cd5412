"""The chest X-rays of SHARED as the hospitals of a benchmark: all images, or so many of them."""

import csv
import random
from collections.abc import Mapping
from pathlib import Path

from client.manifest import Row, read_manifest
from client.records import MANIFEST
from common.config_file import load_yaml
from common.job import Job, parse_job

PROJECT = Path(__file__).resolve().parent.parent
_SMALL = 100
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")


def job_with(**changes: object) -> Job:
    """The job of configs/chest_xray.yaml with some of its keys replaced."""
    return parse_job({**load_yaml(PROJECT / "configs" / "chest_xray.yaml"), **changes}, "configs/chest_xray.yaml")


def hospitals(shared: Path, folder: Path, images: int | None) -> Mapping[str, Path]:
    """The four hospitals (name -> folder) with `images` images in all, drawn with seed 0; None: all of them.

    Small hospitals keep theirs, or they would have too few to take part, and the large ones share the rest. Their manifests are
    written into `folder`; the images stay where they are.
    """
    rows = {name: read_manifest(shared / "data" / "chest_xray" / name / MANIFEST) for name in NAMES}
    large = {name: listed for name, listed in rows.items() if len(listed) > _SMALL}
    left = None if images is None else max(0, images - sum(len(rows[name]) for name in rows.keys() - large.keys()))
    share = 1.0 if left is None else min(1.0, left / sum(map(len, large.values())))
    found = {}
    for name, listed in rows.items():
        count = round(len(listed) * share) if name in large else len(listed)
        found[name] = folder / name
        found[name].mkdir(parents=True, exist_ok=True)
        _write(found[name] / MANIFEST, random.Random(0).sample(listed, count))
    return found


def _write(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient_id"])
        writer.writerows([row.path, row.label, row.patient_id] for row in rows)


def files(shared: Path, count: int) -> list[Path]:
    """Image files of the two large hospitals, drawn with seed 0."""
    rows = [row for name in NAMES[:2] for row in read_manifest(shared / "data" / "chest_xray" / name / MANIFEST)]
    return [row.path for row in random.Random(0).sample(rows, min(count, len(rows)))]
