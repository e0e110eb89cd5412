"""Named arrays as one vector of whole numbers modulo 2^64, and back. Nothing is ever clipped: what does not fit is an error.

A real number is multiplied by 2^f and rounded, f fractional bits; a count is taken as it is. The sum over K hospitals is right if
every number is below 2^63 / K in size after that, so `pack` refuses what is not. Counts are exact. The error of a sum of reals is
at most K / 2 * 2^-f, and 2^-53 of the sum for the way back to float64.

Letters: L numbers of the vector, K hospitals, f fractional bits.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.packed import AnyArray
from common.secure_sum.errors import SecureSumError

Vector = npt.NDArray[np.uint64]
"""Whole numbers modulo 2^64 (L,)."""
_HALF = 2**63


@dataclass(frozen=True)
class Slot:
    """One array of a layout. fraction_bits: f, for reals only; f may be negative, for numbers beyond 2^63 / K."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["count", "real"]
    fraction_bits: int = 0

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    def bound(self, hospitals: int) -> float:
        """Below this every number must be in size, that the sum over so many hospitals is right."""
        return _HALF / hospitals / 2.0**self.fraction_bits

    def error(self, hospitals: int) -> float:
        """The most by which a number of the sum may be wrong, apart from float64's own rounding."""
        return 0.0 if self.kind == "count" else hospitals / 2 / 2.0**self.fraction_bits


@dataclass(frozen=True)
class Layout:
    """A fixed order of arrays. All hospitals of a session have the same one; its digest is in what they sign."""

    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        """Raises ValueError if a layout is not well made, which is a mistake of the program."""
        if len({slot.name for slot in self.slots}) < len(self.slots):
            raise ValueError("two arrays of a layout have the same name")
        if any(slot.kind == "count" and slot.fraction_bits for slot in self.slots):
            raise ValueError("counts are whole numbers: they have no fractional bits")

    @property
    def length(self) -> int:
        """L."""
        return sum(slot.size for slot in self.slots)

    @property
    def digest(self) -> str:
        """sha256 (64 hex digits) over names, shapes, kinds and fractional bits."""
        return hashlib.sha256(json.dumps([asdict(slot) for slot in self.slots]).encode()).hexdigest()

    def pack(self, arrays: Mapping[str, AnyArray], hospitals: int) -> Vector:
        """The vector (L,) of one hospital's arrays, in a sum over at most so many hospitals.

        Raises:
            SecureSumError: an array is missing, of another shape or kind, not finite, or out of range.
        """
        if arrays.keys() != {slot.name for slot in self.slots}:
            raise SecureSumError(f"expected the arrays {', '.join(slot.name for slot in self.slots)}, got others")
        vector = np.empty(self.length, np.uint64)
        start = 0
        for slot in self.slots:
            part = vector[start : start + slot.size]
            part[:] = _whole(np.asarray(arrays[slot.name]), slot, hospitals).ravel().view(np.uint64)
            start += slot.size
        return vector

    def unpack(self, vector: Vector) -> dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]]:
        """The arrays of a sum (L,): counts as int64, reals as float64."""
        arrays: dict[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]] = {}
        start = 0
        for slot in self.slots:
            whole = vector[start : start + slot.size].view(np.int64).reshape(slot.shape)
            arrays[slot.name] = whole.copy() if slot.kind == "count" else whole / 2.0**slot.fraction_bits
            start += slot.size
        return arrays


def within_norm(arrays: Mapping[str, AnyArray], most: float) -> None:
    """Raise SecureSumError unless the L2 norm of all numbers of some arrays is at most `most`; NaN never is.

    The coordinator cannot look at one hospital's update any more, so the hospital does this before it masks.
    """
    norm = np.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in arrays.values()))
    if not norm <= most:
        raise SecureSumError(
            f"{', '.join(arrays)}: the norm is above {most:g} or not finite; nothing was clipped and nothing left the hospital. "
            "Look at the training (learning rate, standardisation), or agree on a job with a greater guard.max_update_norm"
        )


def _whole(array: AnyArray, slot: Slot, hospitals: int) -> npt.NDArray[np.int64]:
    """Of the slot's shape: what of it goes into the sum."""
    if array.shape != slot.shape:
        raise SecureSumError(f"{slot.name}: expected shape {slot.shape}, got {array.shape}")
    kinds = "iu" if slot.kind == "count" else "f"
    if array.dtype.kind not in kinds:
        wanted = "whole numbers" if slot.kind == "count" else "floating point"
        raise SecureSumError(f"{slot.name}: expected {wanted}, got {array.dtype}")
    if slot.kind == "real":
        if not np.isfinite(array).all():
            raise SecureSumError(
                f"{slot.name}: expected finite numbers, got NaN or infinity; nothing left the hospital"
            )
        with np.errstate(over="ignore"):  # infinity is out of range
            array = np.rint(array.astype(np.float64) * 2.0**slot.fraction_bits)
    # As floats, since the least int64 has no size as an int64; rounding them to float64 keeps the order.
    if array.size and max(float(array.max()), -float(array.min())) >= _HALF / hospitals:
        raise SecureSumError(_beyond(slot, hospitals))
    return array.astype(np.int64)


def _beyond(slot: Slot, hospitals: int) -> str:
    bound = f"{slot.bound(hospitals):.3g}"
    wrong = f"{slot.name}: a number is not below {bound} in size, the range of a sum over {hospitals} hospitals"
    if slot.kind == "count":
        return (
            f"{wrong}; nothing was clipped and nothing left the hospital. No true count is so great: look at the data"
        )
    return (
        f"{wrong} with {slot.fraction_bits} fractional bits; nothing was clipped and nothing left the hospital. "
        "Look at the data (are the features standardised?), or take fewer fractional bits"
    )
