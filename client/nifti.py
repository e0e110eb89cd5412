"""A NIfTI volume as axial slices, drawn as radiologists look at them: front up, the patient's right on the left.

Source: the NIfTI-1 standard (nifti1.h); orientations as in nibabel's manual, "Coordinate systems and affines".
"""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from client.grey import Curve, Grey, between
from client.slices import MAX_PIXELS, MAX_VOXELS, Slices
from common.errors import DataError

_KINDS = "iuf"


def open_nifti(path: Path) -> Slices:
    """The axial slices of a NIfTI file, from the feet up; of several points in time the first.

    Raises:
        DataError: it is no NIfTI file, is damaged, or too large. It repeats nothing of the header.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        volume = nibabel.load(path)
        return _slices(path, volume)
    except (DataError, MemoryError):
        raise
    except ImageFileError:
        raise _no_nifti(path) from None
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"cannot read {path}: {error.strerror}; correct the path or restore the file") from error
        raise _no_nifti(path) if _start(path)[:2] != b"\x1f\x8b" else _damaged(path, error) from None
    except Exception as error:
        # A damaged header makes nibabel raise nearly anything, with its content in the text.
        raise _damaged(path, error) from None


def _slices(path: Path, volume: Any) -> Slices:
    import nibabel

    shape = tuple(int(side) for side in volume.shape)
    shape = (*shape, 1, 1)[:3] if len(shape) < 3 else shape
    if min(shape, default=0) < 1 or math.prod(shape[:3]) > MAX_VOXELS:
        raise DataError(
            f"{path}: expected 1 to {MAX_VOXELS:,} voxels, found another number; resample it, or take it out of the data"
        )
    kind = volume.get_data_dtype()
    if kind.kind not in _KINDS:
        raise DataError(
            f"{path}: expected grey numbers, found colour or complex ones; convert it, or take it out of the data"
        )
    orientation = nibabel.orientations.io_orientation(volume.affine)  # type: ignore[no-untyped-call]
    axes = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]
    flips = [orientation[axis, 1] < 0 for axis in axes]
    stored = _stored(volume, shape)
    width, height, count = (shape[axis] for axis in axes)
    if width * height > MAX_PIXELS:
        raise DataError(f"{path}: expected at most {MAX_PIXELS:,} pixels in a slice, found more; resample it")
    slope, intercept = (float(number) for number in (volume.dataobj.slope, volume.dataobj.inter))
    own = _own(volume.header, kind, (slope, intercept))

    def at(index: int) -> Grey:
        try:
            number = count - 1 - index if flips[2] else index
            flat = np.asarray(np.take(stored, number, axis=axes[2]))
            # What is left of the axes is (first, second) of the file; the picture wants rows front to back.
            picture = flat.T if axes[0] < axes[1] else flat
            picture = picture if flips[1] else picture[::-1]
            picture = picture if flips[0] else picture[:, ::-1]
            return Grey(np.ascontiguousarray(picture), lambda numbers: numbers * slope + intercept, own)
        except (OSError, EOFError, ValueError) as error:
            raise _damaged(path, error) from None

    return Slices(count, (width, height), 8 * kind.itemsize, at)


def _stored(volume: Any, shape: tuple[int, ...]) -> Any:
    """The numbers (X, Y, Z) as stored: mapped into memory, or, of a compressed file, read whole."""
    stored = volume.dataobj.get_unscaled()
    first = stored[(slice(None),) * 3 + (0,) * (len(shape) - 3)] if stored.ndim > 3 else stored
    return first.reshape(shape[:3])


def _own(header: Any, kind: Any, scaling: tuple[float, float]) -> Curve | None:
    """The file's own window (cal_min to cal_max), or 8 bits as they are."""
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if math.isfinite(low) and math.isfinite(high) and high > low:
        return between(low, high)
    return (lambda values: values / 255) if kind == np.uint8 and scaling == (1.0, 0.0) else None


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _no_nifti(path: Path) -> DataError:
    start = _start(path)
    found = f"a file that begins with {start!r}" if start else "an empty file"
    return DataError(
        f"{path}: expected the content of one of NIfTI files, found {found}; export it again, or take it out of the data"
    )


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: expected a whole NIfTI volume, found a damaged or incomplete one ({type(error).__name__}); "
        "export it again, or take it out of the data"
    )
