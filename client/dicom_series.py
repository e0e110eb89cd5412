"""A folder that holds one series of DICOM files, as slices in the order in which they lie in the patient."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from client.dicom_header import has_magic, read_header, read_whole, refusing
from client.dicom_pixels import frame, open_dicom
from client.slices import MAX_SLICES, Slices
from common.errors import DataError

VOLUMES = frozenset({"CT", "MR", "PT"})
"""Modalities whose series are volumes: in a class folder, a sub-folder of such files is one study."""

_DIRECTORY = "DICOMDIR"


def series_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, by name; hidden files and directories of media are none."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name != _DIRECTORY and path.is_file() and has_magic(path)
    ]


def is_series(folder: Path) -> bool:
    """Whether a folder holds a volume: its first two DICOM files are slices (`VOLUMES`) of one series."""
    files = []
    try:
        for path in sorted(folder.iterdir()):
            if not path.name.startswith(".") and path.name != _DIRECTORY and path.is_file() and has_magic(path):
                files.append(path)
            if len(files) == 2:
                break
        headers = [read_header(path, "SeriesInstanceUID") for path in files]
    except (DataError, PermissionError):
        return False
    uids = {str(header.get("SeriesInstanceUID") or "") for header in headers}
    return len(headers) == 2 and len(uids) == 1 and "" not in uids and headers[0].get("Modality") in VOLUMES


def open_series(folder: Path) -> Slices:
    """The slices of a series; only headers are read until one is asked for.

    Scout images (LOCALIZER) are left out. Slices are sorted by their position along the normal of the first one, or, where
    positions are missing, by InstanceNumber.

    Raises:
        DataError: no DICOM file is there, they belong to several series, or a header cannot be read.
    """
    try:
        files = series_files(folder)
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}; correct the path or restore the folder") from error
    if not files:
        raise DataError(
            f"cannot read {folder}: expected an image file, or a folder with the DICOM files of one series, found a folder "
            "without DICOM files; correct the path"
        )
    if len(files) > MAX_SLICES:
        raise DataError(f"{folder}: expected at most {MAX_SLICES:,} files in a series, found more; correct the path")
    headers = {path: read_header(path) for path in files}
    with refusing(folder):
        kept = [path for path in files if "LOCALIZER" not in (headers[path].get("ImageType") or [])] or files
        uids = {str(headers[path].get("SeriesInstanceUID") or "") for path in kept}
        if len(uids) > 1:
            raise DataError(
                f"{folder}: expected the files of one series, found {len(uids)} series; give each a folder of its own"
            )
        if len(kept) == 1:
            return open_dicom(kept[0])
        ordered = _sorted(kept, headers)
        first = headers[ordered[0]]
        size = (int(first.get("Columns") or 0), int(first.get("Rows") or 0))
        return Slices(
            len(ordered),
            size,
            int(first.get("BitsStored") or 0),
            lambda index: frame(ordered[index], read_whole(ordered[index]), 0),
            [headers[path] for path in ordered],
        )


def _sorted(files: Sequence[Path], headers: dict[Path, Dataset]) -> list[Path]:
    places = [headers[path].get("ImagePositionPatient") for path in files]
    directions = headers[files[0]].get("ImageOrientationPatient")
    if (
        directions is not None
        and len(directions) == 6
        and all(place is not None and len(place) == 3 for place in places)
    ):
        row, column = np.array(directions, np.float64).reshape(2, 3)
        normal = np.cross(row, column)
        along = {path: float(np.array(place, np.float64) @ normal) for path, place in zip(files, places, strict=True)}
        if len(set(along.values())) > 1:
            return sorted(files, key=lambda path: (along[path], path.name))
    return sorted(files, key=lambda path: (int(headers[path].get("InstanceNumber") or 0), path.name))
