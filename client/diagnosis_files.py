"""What a diagnosis leaves on the disk, if it is asked to: heat maps as PNG, results as DICOM. All of it is patient data."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from client.diagnosis import Diagnosis, Diagnostician
from client.dicom_results import Algorithm, is_dicom, reference_to, secondary_capture, structured_report
from client.images import shown_picture, stem_of
from client.overlay import overlay
from client.slices import Reading, reading_of
from common.errors import DataError


def write_heatmaps(found: Sequence[Diagnosis], reading: Reading, folder: Path) -> int:
    """A PNG for each image that was read, named after it; of slices one of the middle. Returns how many.

    Raises:
        DataError: the folder cannot be written.
    """
    shown = [one for one in found if one.heatmap is not None and one.frame is not None]
    for one, name in zip(shown, _names(shown), strict=True):
        if one.heatmap is not None and one.frame is not None:
            with _Writing(folder):
                overlay(shown_picture(one.image, reading), one.heatmap, one.frame).save(folder / f"{name}.png")
    return len(shown)


def write_dicom(found: Sequence[Diagnosis], diagnostician: Diagnostician, model: Path, folder: Path) -> tuple[int, int]:
    """A Secondary Capture and a Structured Report of each DICOM image or series; returns how many, and how many are no DICOM.

    Raises:
        DataError: the folder cannot be written, or a file lacks what DICOM demands of its reference.
    """
    manifest, reading = diagnostician.manifest, reading_of(diagnostician.manifest.job)
    algorithm = Algorithm(
        name=f"Consilium {manifest.job.name}"[:64],
        version=manifest.versions.get("consilium", "unknown"),
        digest=hashlib.sha256(model.read_bytes()).hexdigest(),
        point=diagnostician.point,
        lacking=tuple(diagnostician.lacking),
    )
    dicom = [one for one in found if one.probabilities and is_dicom(one.image)]
    for one, name in zip(dicom, _names(dicom), strict=True):
        if one.heatmap is None or one.frame is None:
            continue
        reference, picture = reference_to(one.image, reading), shown_picture(one.image, reading)
        capture = secondary_capture(one, reference, overlay(picture, one.heatmap, one.frame), algorithm)
        with _Writing(folder):
            capture.save_as(folder / f"{name}.overlay.dcm")
            structured_report(one, reference, algorithm).save_as(folder / f"{name}.report.dcm")
    return len(dicom), len(found) - len(dicom)


def _names(found: Sequence[Diagnosis]) -> list[str]:
    """A file name for each image: its own, with a number where several have the same."""
    seen: dict[str, int] = {}
    names = []
    for one in found:
        stem = stem_of(one.image) or "image"
        seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if seen[stem] == 1 else f"{stem}-{seen[stem]}")
    return names


class _Writing:
    """Makes a folder that only its owner can read, and turns what the disk refuses into a DataError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        try:
            if not self._folder.is_dir():
                self._folder.mkdir(parents=True)
                self._folder.chmod(0o700)
        except OSError as error:
            raise self._problem(error) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise self._problem(error) from error

    def _problem(self, error: OSError) -> DataError:
        return DataError(f"cannot write results to {self._folder}: {error.strerror}; name a folder you may write to")
