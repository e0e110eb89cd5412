"""A sum of arrays whose bits do not depend on the order of the summands, in memory that does not depend on how many there are.

Each number is cut into pieces at fixed places of its binary expansion, and the pieces of one place are added up: whole
multiples of one unit, so that no addition rounds. What is left is rounded once, when the sum is read.

Source: Demmel and Nguyen 2015, IEEE Trans. Comput. 64:2060, section 4 (bins at fixed exponents).
"""

import math

import numpy as np
import numpy.typing as npt

from common.head import Float64

_WIDTH = 28
"""Bits of one piece: 2**25 summands fit into the 53 bits of a float64 before an addition could round."""

_LOWEST = -4
"""Units below 2**(28 * -4) = 2**-112 are left out of every summand alike."""


class ExactSum:
    """The sum of float64 arrays of one shape; at most 2**25 of them, of finite numbers below 2**900."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._pieces: dict[int, Float64] = {}

    def add(self, array: npt.NDArray[np.generic]) -> None:
        """Add an array of the shape; it is not kept."""
        rest = np.array(array, np.float64)
        if rest.shape != self._shape:
            raise ValueError(f"expected an array of shape {self._shape}, got {rest.shape}")
        largest = float(np.abs(rest).max(initial=0.0))
        place = _place_of(largest)
        while place >= _LOWEST and largest:
            unit = math.ldexp(1.0, _WIDTH * place)
            piece = np.rint(rest / unit)
            piece *= unit
            rest -= piece
            if place in self._pieces:
                self._pieces[place] += piece
            elif piece.any():
                self._pieces[place] = piece
            largest = float(np.abs(rest).max(initial=0.0))
            place -= 1

    def total(self) -> Float64:
        """The sum so far; zeros before the first summand."""
        found = np.zeros(self._shape)
        # From the smallest pieces on, always in the same order.
        for place in sorted(self._pieces):
            found += self._pieces[place]
        return found


def _place_of(largest: float) -> int:
    """The place of the unit whose multiples below 2**28 or so reach the largest number."""
    return math.frexp(largest)[1] // _WIDTH
