"""A message as named arrays and named plain fields, and its arrays as bytes.

Nothing else is known here: a courier passes messages on with this alone. What a message may hold is in `common/wire.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import safetensors.numpy

AnyArray = npt.NDArray[np.generic]
Field = str | int | float

REFUSAL = "refused"
"""The only field of a reply that declines; its value is a `RefusalCode`."""


@dataclass(frozen=True)
class Packed:
    """A message as named arrays and named plain fields."""

    arrays: Mapping[str, AnyArray] = field(default_factory=dict)
    fields: Mapping[str, Field] = field(default_factory=dict)


def arrays_to_bytes(arrays: Mapping[str, AnyArray]) -> bytes:
    """Arrays in the safetensors format: names, dtypes, shapes and numbers, and no code.

    Raises:
        ValueError: a dtype that the format has not.
    """
    try:
        return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    except Exception as error:
        raise ValueError("arrays of a dtype that safetensors has not") from error


def arrays_from_bytes(data: bytes) -> dict[str, AnyArray]:
    """The arrays in some safetensors bytes.

    Raises:
        ValueError: they are not in that format.
    """
    try:
        return dict(safetensors.numpy.load(data))
    except Exception as error:  # a hostile header may fail anywhere in the parser
        raise ValueError("expected arrays in the safetensors format") from error
