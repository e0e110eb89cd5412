"""What the hospitals of a simulation hold, counted for advice; nothing is trained and no network is asked."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median_low

from client.images import load_image
from client.records import Record, Records, Row, assign, read_rows
from common.errors import DataError
from common.job import Job
from simulation.advice.situation import Data, HospitalData

_IMAGES_LOOKED_AT = 9


def census(job: Job, hospitals: Mapping[str, Path]) -> Data:
    """The images of each hospital by part and class, and its patients by part.

    Raises:
        DataError: manifests or labels are wrong (of all hospitals), or no hospital has a training image of the job.
    """
    found, problems = [], []
    for name, folder in hospitals.items():
        try:
            rows = read_rows(folder)
            found.append(_hospital(name, rows, assign(rows, job), job.num_classes))
        except DataError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise DataError("\n".join(problems))
    data = Data(tuple(found))
    if not data.n:
        raise DataError(
            f"no hospital has a training image of the classes {', '.join(job.classes)}; "
            "compare the labels of the manifests with the classes of the job (consilium check DIR --job JOB)"
        )
    return data


def _hospital(name: str, rows: list[Row], records: Records, classes: int) -> HospitalData:
    images = tuple(tuple(int(number) for number in part) for part in records.images(classes))
    patients = tuple(int(number) for number in records.patients())
    return HospitalData(name, images, patients, all(row.part for row in rows), _side_px(records.records))


def _side_px(records: tuple[Record, ...]) -> int | None:
    """Median shorter side of some images, spread over all of them; None if none of them can be read."""
    sides = []
    for record in records[:: max(1, len(records) // _IMAGES_LOOKED_AT)][:_IMAGES_LOOKED_AT]:
        try:
            sides.append(min(load_image(record.path).size))
        except DataError:
            continue
    return median_low(sides) if sides else None
