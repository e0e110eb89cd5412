"""One DICOM file as slices: its frames, decoded one at a time, with what its numbers mean.

Source: DICOM PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT), C.7.6.16 (functional groups).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import RLELossless

from client.dicom_codestream import size_px
from client.dicom_header import read_whole, refusing
from client.grey import Curve, Float64, Grey, Numbers, linear, linear_exact, sigmoid
from client.slices import MAX_PIXELS, MAX_SLICES, Slices
from common.errors import DataError
from common.windows import Window

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_PALETTE = "PALETTE COLOR"
_CURVES: Mapping[str, Any] = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}


def open_dicom(path: Path) -> Slices:
    """The frames of a DICOM file; several are slices in their stored order.

    Raises:
        DataError: it is no DICOM file, has no image, or one of a kind or size that is not read. It repeats no element.
    """
    found = read_whole(path)
    with refusing(path):
        width, height, count = _checked(path, found)
        return Slices(count, (width, height), int(found.BitsStored), lambda index: _frame(path, found, index), (found,))


def frame(path: Path, found: Dataset, index: int) -> Grey | Image.Image:
    """Frame `index` (from 0) of a data set with pixels.

    Raises:
        DataError: it cannot be decoded.
    """
    with refusing(path):
        _checked(path, found)
    return _frame(path, found, index)


def _frame(path: Path, found: Dataset, index: int) -> Grey | Image.Image:
    with refusing(path):
        _require_codestream(path, found, index)
        pixels = _decoded(path, found, index)
        kind = str(found.PhotometricInterpretation)
        if kind in _GREY:
            return _grey(found, index, pixels, kind == "MONOCHROME1")
        if kind == _PALETTE:
            return Image.fromarray(_high_byte(apply_color_lut(pixels, found), 16))
        return Image.fromarray(_high_byte(pixels, int(found.BitsStored)))


def _checked(path: Path, found: Dataset) -> tuple[int, int, int]:
    """Width, height and number of frames, after all that can be said without decoding."""
    missing = [name for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation")
               if found.get(name) in (None, "")]  # fmt: skip
    if not any(name in found for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError(f"{path}: expected an image, found a DICOM file without pixels; take it out of the data")
    if missing:
        raise DataError(f"{path}: expected {', '.join(missing)} in the header, found none; export it again")
    if not getattr(found, "file_meta", {}).get("TransferSyntaxUID"):
        raise DataError(f"{path}: expected a transfer syntax in the meta information, found none; export it again")
    width, height, frames = int(found.Columns), int(found.Rows), int(found.get("NumberOfFrames") or 1)
    samples = int(found.get("SamplesPerPixel") or 1)
    if width * height * samples > 3 * MAX_PIXELS or width * height > MAX_PIXELS or min(width, height) < 1:
        raise DataError(
            f"{path}: expected 1 to {MAX_PIXELS:,} pixels (width times height), found another number; "
            "scale the image down, or take it out of the data"
        )
    if not 1 <= frames <= MAX_SLICES:
        raise DataError(f"{path}: expected 1 to {MAX_SLICES:,} frames, found another number; take it out of the data")
    kind = str(found.PhotometricInterpretation)
    if kind not in (*_GREY, *_COLOUR, _PALETTE) or samples != (3 if kind in _COLOUR else 1):
        raise DataError(
            f"{path}: expected one of the photometric interpretations {', '.join((*_GREY, *_COLOUR, _PALETTE))} with its number "
            "of samples, found another; export it in one of them"
        )
    return width, height, frames


def _decoded(path: Path, found: Dataset, index: int) -> Numbers:
    try:
        return pixel_array(found, index=index)
    except (RuntimeError, NotImplementedError) as error:
        # pydicom's words for "no decoder could do it".
        raise DataError(
            f"{path}: expected a frame that can be decoded here, found a damaged one or another kind of compression (JPEG with "
            f"12 bits and video are not read; {type(error).__name__}); export it uncompressed, or take it out of the data"
        ) from None


def _require_codestream(path: Path, found: Dataset, index: int) -> None:
    """Refuse a compressed frame whose own size is not that of the header."""
    if not found.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    frames = int(found.get("NumberOfFrames") or 1)
    size = size_px(get_frame(found.PixelData, index, number_of_frames=frames))
    if size is not None and size != (int(found.Columns), int(found.Rows)):
        raise DataError(
            f"{path}: expected a compressed image of the width and height in the header, found another size; export it again"
        )


def _grey(found: Dataset, index: int, pixels: Numbers, inverted: bool) -> Grey:
    syntax = found.file_meta.TransferSyntaxUID
    if pixels.dtype.kind in "iu" and (not syntax.is_encapsulated or syntax == RLELossless):
        pixels = _stored_bits(pixels, found)
    value, plain = _value(found, index)
    return Grey(pixels, value, _own(found, index, plain), _padding(found), inverted)


def _stored_bits(pixels: Numbers, found: Dataset) -> Numbers:
    """Only the bits that belong to the sample: old files keep overlays in the others."""
    size, stored = 8 * pixels.dtype.itemsize, int(found.BitsStored)
    high = int(found.get("HighBit", stored - 1))
    if stored >= size or not stored <= high + 1 <= size:
        return pixels
    return np.right_shift(np.left_shift(pixels, size - 1 - high), size - stored)


def _value(found: Dataset, index: int) -> tuple[Curve, bool]:
    """From stored numbers to values, and whether they are the same."""
    if table := found.get("ModalityLUTSequence"):
        return _table(table[0], big_endian=not found.file_meta.TransferSyntaxUID.is_little_endian)[0], False
    place = _of_frame(found, index, "PixelValueTransformationSequence")
    slope, intercept = (_number(place.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    return (lambda stored: stored * slope + intercept), (slope, intercept) == (1.0, 0.0)


def _own(found: Dataset, index: int, plain: bool) -> Curve | None:
    """The file's own way of being shown: its VOI LUT, its first window, or 8 bits and less as they are."""
    place = _of_frame(found, index, "FrameVOILUTSequence")
    if table := place.get("VOILUTSequence"):
        curve, top = _table(table[0], big_endian=not found.file_meta.TransferSyntaxUID.is_little_endian)
        return lambda values: curve(values) / top
    centre, width = _number(place.get("WindowCenter")), _number(place.get("WindowWidth"))
    function = str(place.get("VOILUTFunction") or "LINEAR")
    if centre is not None and width is not None and width >= (1 if function == "LINEAR" else 1e-9):
        curve_of = _CURVES.get(function, linear)
        return curve_of(Window(centre, width))  # type: ignore[no-any-return]
    bits = int(found.BitsStored)
    if plain and bits <= 8 and not found.get("PixelRepresentation"):
        return lambda values: np.clip(values / (2**bits - 1), 0.0, 1.0)
    return None


def _of_frame(found: Dataset, index: int, sequence: str) -> Dataset:
    """Where the elements of a frame's functional group are: with the frame, shared by all, or in the data set itself."""
    groups = found.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*groups[index : index + 1], *(found.get("SharedFunctionalGroupsSequence") or [])[:1]]:
        if group.get(sequence):
            return group[sequence].value[0]  # type: ignore[no-any-return]
    return found


def _table(item: Dataset, big_endian: bool) -> tuple[Curve, float]:
    """A look-up table as a curve, and the greatest number it can give. Source: PS3.3 C.11.1.1.1, C.11.2.1.1."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        narrow = len(data) < 2 * count
        table = np.frombuffer(data, "u1" if narrow else ">u2" if big_endian else "<u2")[:count].astype(np.float64)
    else:
        table = np.asarray(data, np.float64)[:count]
    if len(table) < count:
        raise ValueError("a look-up table is shorter than it says")

    def curve(values: Float64) -> Float64:
        at = np.clip(np.rint(values) - first, 0, count - 1)
        return np.asarray(table[at.astype(np.int64)], np.float64)

    return curve, max(float(2 ** min(bits, 32) - 1), float(table.max()), 1.0)


def _padding(found: Dataset) -> tuple[float, float] | None:
    """Source: PS3.3 C.7.5.1.1.2."""
    one = _number(found.get("PixelPaddingValue"))
    other = _number(found.get("PixelPaddingRangeLimit"))
    if one is None:
        return None
    return (one, one) if other is None else (min(one, other), max(one, other))


def _number(value: Any) -> float | None:
    """The first of the values of an element, if it is a finite number."""
    first = value[0] if isinstance(value, list | tuple) or hasattr(value, "append") else value
    try:
        number = float(first)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _high_byte(pixels: Numbers, bits: int) -> Numbers:
    """(H, W, 3) samples as uint8."""
    return (
        pixels.astype(np.uint8) if pixels.dtype.itemsize == 1 or bits <= 8 else (pixels >> (bits - 8)).astype(np.uint8)
    )
