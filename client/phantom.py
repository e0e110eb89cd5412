"""Phantom chest X-rays: synthetic hospitals for demonstrations and tests, when no patient's image is at hand.

Every hospital has its own contrast, gamma, exposure, noise, file format and prevalence. Image i of hospital k is the same
however many of either there are: randomness is spawned per hospital and patient.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from client.phantom_image import GOLDEN, Anatomy, draw_anatomy, draw_scanner, expose, render
from common.errors import ConfigError, DataError

RECORD = "phantoms.json"
"""Written first into the folder: the parameters its phantoms were made with."""


def hospital_name(index: int) -> str:
    """hospital-a to hospital-z for `index` 0 to 25, then hospital-027, hospital-028, ..."""
    return f"hospital-{chr(ord('a') + index)}" if index < 26 else f"hospital-{index + 1:03d}"


def make_phantoms(
    folder: Path,
    hospitals: int = 4,
    images: int = 120,
    seed: int = 0,
    size_px: int = 128,
    classes: Sequence[str] = ("normal", "opacity"),
) -> dict[str, Path]:
    """Write `hospitals` folders of synthetic chest X-rays, each with a manifest.csv (path,label,patient_id).

    A folder that already holds the same phantoms is left as it is; an interrupted one is completed. No file that was
    not made here is ever changed or removed.

    Args:
        folder: where the hospitals' folders go; new, empty, or made by an earlier call with the same arguments.
        hospitals: number of hospitals, 1 or more.
        images: images per hospital, 1 or more; about 1.3 per patient.
        seed: 0 or more.
        size_px: height and width of an image, 32 or more.
        classes: names of the labels without and with an opacity.

    Returns:
        Hospital name -> its folder.

    Raises:
        ConfigError: an argument is out of range, or `classes` is not two different names.
        DataError: the folder holds something else, or cannot be written.
    """
    _check_arguments(hospitals, images, seed, size_px, classes)
    # Raise the version when the drawing changes, so that older folders are not taken for new ones.
    parameters = {"version": 1, "hospitals": hospitals, "images": images, "seed": seed, "size_px": size_px}
    folders = {hospital_name(index): folder / hospital_name(index) for index in range(hospitals)}
    try:
        _claim(folder, parameters | {"classes": list(classes)})
        for index, rng in enumerate(np.random.default_rng(seed).spawn(hospitals)):
            # The manifest is written last: where it is, the hospital is complete.
            hospital = folder / hospital_name(index)
            if not (hospital / "manifest.csv").exists():
                _write(hospital, index, images, size_px, classes, rng)
    except OSError as error:
        raise DataError(f"cannot write phantoms to {folder}: {error}; name a folder you may write to") from error
    return folders


def _check_arguments(hospitals: int, images: int, seed: int, size_px: int, classes: Sequence[str]) -> None:
    least = {"hospitals": (hospitals, 1), "images": (images, 1), "seed": (seed, 0), "size_px": (size_px, 32)}
    problems = [f"{name}: expected {low} or more, got {got}" for name, (got, low) in least.items() if got < low]
    if isinstance(classes, str) or len(classes) != 2 or len({name.strip() for name in classes} - {""}) != 2:
        problems.append(f"classes: expected two different names (without and with an opacity), got {classes!r}")
    if problems:
        raise ConfigError("phantoms: " + "; ".join(problems))


def _claim(folder: Path, parameters: dict[str, object]) -> None:
    """Make sure that `folder` is for these phantoms and nothing else."""
    record, wanted = folder / RECORD, json.dumps(parameters)
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        record.write_text(wanted, encoding="utf-8")
    elif not record.exists():
        raise DataError(f"{folder} holds other files (no {RECORD} among them); give phantoms a new or empty folder")
    elif (found := record.read_text(encoding="utf-8", errors="replace")) != wanted:
        raise DataError(f"{folder} holds other phantoms: expected {wanted}, got {found}; give a new or empty folder")


def _write(folder: Path, index: int, images: int, size_px: int, classes: Sequence[str], rng: Generator) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    scanner_rng, patients_rng = rng.spawn(2)
    scanner = draw_scanner(index, scanner_rng)
    prefix = folder.name.removeprefix("hospital-")
    suffix = "jpg" if scanner.file_format == "jpeg" else "png"
    white, kind = (65535, np.uint16) if scanner.file_format == "png16" else (255, np.uint8)
    rows = [("path", "label", "patient_id")]
    for patient, view, opacity, anatomy, image_rng in islice(_exposures(scanner.prevalence, patients_rng), images):
        patient_id = f"{prefix}-{patient:04d}"
        path = f"images/{patient_id}-{view}.{suffix}"
        grey = expose(render(anatomy, opacity, size_px, image_rng), scanner, image_rng)
        # compress_level is for PNG and quality for JPEG; each format passes over the other's.
        Image.fromarray((grey * white + 0.5).astype(kind)).save(folder / path, compress_level=1, quality=90)
        rows.append((path, classes[int(opacity)], patient_id))
    unfinished = folder / "manifest.csv.unfinished"
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    unfinished.replace(folder / "manifest.csv")


def _exposures(prevalence: float, rng: Generator) -> Iterator[tuple[int, int, bool, Anatomy, Generator]]:
    """Patient number, view number, opacity, anatomy and generator of image after image, without end."""
    start = rng.random()
    for patient in count(1):
        patient_rng = rng.spawn(1)[0]
        anatomy = draw_anatomy(patient_rng)
        opacity = (start + patient * GOLDEN) % 1.0 < prevalence
        views = 2 if patient_rng.random() < 0.3 else 1
        for view, image_rng in enumerate(patient_rng.spawn(views), start=1):
            yield patient, view, opacity, anatomy, image_rng
