"""What a round trains and sends: the head, and those arrays of the backbone that the job tunes.

Letters: C classes, D features.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from common.head import Float32, Head

TUNED = "tuned."
"""Before the name of a backbone's array in a message or a file."""


@dataclass(frozen=True)
class Model:
    """head (C, D), and `tuned`: arrays of the backbone by their name in its state_dict, float32; empty for `tune: head`."""

    head: Head
    tuned: Mapping[str, Float32] = field(default_factory=dict)

    def arrays(self) -> dict[str, Float32]:
        """All arrays by the names they travel under: weight, bias, tuned.<name>."""
        tuned = {f"{TUNED}{name}": array for name, array in sorted(self.tuned.items())}
        return {"weight": self.head.weight, "bias": self.head.bias, **tuned}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float32]) -> Self:
        """From the arrays of `arrays()`; others are passed over."""
        tuned = {name.removeprefix(TUNED): array for name, array in arrays.items() if name.startswith(TUNED)}
        return cls(Head(arrays["weight"], arrays["bias"]), tuned)

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(array.nbytes for array in self.arrays().values())

    def distance(self, other: "Model") -> float:
        """L2 norm of the difference of all numbers; both have arrays of the same names and shapes."""
        others = other.arrays()
        squares = [
            float(((array.astype(np.float64) - others[name]) ** 2).sum()) for name, array in self.arrays().items()
        ]
        return float(np.sqrt(sum(squares)))


def digest_of_arrays(arrays: Mapping[str, Float32]) -> str:
    """sha256 (64 hex digits) over the names, shapes and values of some float32 arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()
