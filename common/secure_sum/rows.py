"""Strings of bytes and lists of yes and no as arrays of a message, of shapes that the contract can name.

Letters: P participants, B bytes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.packed import AnyArray, Packed
from common.secure_sum.errors import SecureSumError

Bytes = npt.NDArray[np.uint8]


def check_session(packed: Packed, session: str) -> None:
    """Raise SecureSumError if a message is of another session."""
    if packed.fields.get("session") != session:
        raise SecureSumError("a message of another session")


def bytes_in(packed: Packed, name: str, shape: tuple[int, ...]) -> Bytes:
    """An array of bytes of a message.

    Raises:
        SecureSumError: it is missing, or of another dtype or shape.
    """
    array: AnyArray | None = packed.arrays.get(name)
    if array is None or array.dtype != np.uint8 or array.shape != shape:
        got = "none" if array is None else f"{array.dtype} {array.shape}"
        raise SecureSumError(f"array '{name}': expected uint8 {shape}, got {got}")
    return array.astype(np.uint8, copy=False)


def flags_in(packed: Packed, name: str, participants: int) -> tuple[bool, ...]:
    """An array of a 1 or 0 for each participant.

    Raises:
        SecureSumError: it is not.
    """
    array = bytes_in(packed, name, (participants,))
    if (array > 1).any():
        raise SecureSumError(f"array '{name}': expected 1 or 0 for each hospital, got another number")
    return tuple(bool(one) for one in array)


def rows_to_array(rows: Sequence[bytes]) -> Bytes:
    """(P, B) of P strings of B bytes."""
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1).copy()


def array_to_rows(array: Bytes) -> list[bytes]:
    """The strings of bytes that are the rows of (P, B)."""
    return [row.tobytes() for row in array]


def flags_to_array(flags: Sequence[bool]) -> Bytes:
    """(P,) of 1 and 0."""
    return np.array(flags, np.uint8)
