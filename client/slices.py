"""What has slices: a DICOM file, a series, a NIfTI volume. Which of them are looked at, and as what."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from client.grey import Grey, between, linear, shaded, spread
from common.errors import DataError
from common.job import Job
from common.modalities import DICOM_CODES, MODALITIES, OTHER
from common.windows import Window, window_of

MAX_PIXELS = 89_478_485
"""Width times height that is still read: Pillow's own limit, above any radiograph or fundus photograph."""

MAX_VOXELS = 3 * MAX_PIXELS
"""Voxels of a volume that is read whole: a CT of 512 x 512 x 1,024."""

MAX_SLICES = 20_000
"""Frames of a file, or files of a series."""


@dataclass(frozen=True)
class Reading:
    """How a job wants images to be read. window: None for each file's own. slices: how many, 0 for all. modality: of the job."""

    window: Window | None = None
    slices: int = 1
    modality: str = OTHER

    @property
    def codes(self) -> tuple[str, ...]:
        """What a DICOM file may have as Modality; empty: anything."""
        return MODALITIES[self.modality].dicom


AS_IT_IS = Reading()
"""The middle slice, with the file's own window, of any modality."""


def reading_of(job: Job) -> Reading:
    """How a job wants images to be read."""
    return Reading(window_of(job.image.window), job.image.slice_count, job.modality)


@dataclass(frozen=True)
class Slices:
    """An opened file or series. Nothing is decoded before `at` is called with the number of a slice, from 0.

    size_px: width and height of a slice. bits: per sample. at: a grey slice, or the picture where it is one in colour; raises
    a `DataError` that repeats nothing of the file. headers: the DICOM data sets of its files, none for other formats.
    """

    count: int
    size_px: tuple[int, int]
    bits: int
    at: Callable[[int], Grey | Image.Image]
    headers: Sequence[Any] = ()

    def pictures(self, reading: Reading) -> Iterator[Image.Image]:
        """The chosen slices as 8-bit grey or RGB.

        A slice that has neither the job's window nor one of its own is shown from the least to the greatest value of the
        chosen ones; they are decoded twice then, so that only one is in memory.
        """
        numbers = chosen(self.count, reading.slices)
        single = self.at(numbers[0]) if len(numbers) == 1 else None
        found = None
        for number in numbers:
            one = self.at(number) if single is None else single
            if isinstance(one, Image.Image):
                yield one
                continue
            curve = linear(reading.window) if reading.window else one.own
            if curve is None:
                found = found or spread(self._grey(numbers) if single is None else [one])
                curve = between(*found)
            yield Image.fromarray(shaded(one, curve))

    def _grey(self, numbers: list[int]) -> Iterator[Grey]:
        for number in numbers:
            one = self.at(number)
            if isinstance(one, Grey):
                yield one


def chosen(count: int, slices: int) -> list[int]:
    """Numbers of `slices` out of `count`, evenly spaced: the middles of so many equal pieces. 0, or more than there are: all."""
    if slices == 0 or slices >= count:
        return list(range(count))
    return [(2 * piece + 1) * count // (2 * slices) for piece in range(slices)]


def require_modality(where: object, modality: str | None, reading: Reading) -> None:
    """Refuse a DICOM file whose Modality is none of the job's; one that has none is let through.

    Raises:
        DataError: it is of another modality.
    """
    if not reading.codes or not modality or modality in reading.codes:
        return
    # Only a code of the standard is repeated: anybody may have written anything there.
    found = modality if modality in DICOM_CODES else "a code that is none of these"
    raise DataError(
        f"{where}: expected an image of modality {reading.modality} (Modality {', '.join(reading.codes)}), found {found}; "
        "take it out of the data, or correct `modality` in the job"
    )
