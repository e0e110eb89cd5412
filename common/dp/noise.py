"""Gaussian noise that may protect patients: from the operating system's secure generator, on a grid, in shares.

Two ways in which noise gives patients away although the formulas are right, and what is done about them:
  - a generator made for simulations can be predicted from what it gave; here every bit is `os.urandom`'s;
  - a floating-point Gaussian cannot reach every number, and which ones it reaches depends on what it was added to (Mironov
    2012, CCS, doi 10.1145/2382196.2382264). Here values are first rounded to a grid of whole units, and whole units of exactly
    drawn discrete Gaussian noise are added: there is no floating point in the draw or in the sum, and a sum of secure
    aggregation takes whole units as they are.

The grid is 2^20 times finer than the deviation of one hospital's share, so the discrete Gaussian has the privacy of the
continuous one up to a part in 10^4 of delta, and a sum of shares differs from one draw by less than exp(-2^40). Rounding moves
a hospital's sum by at most half a unit in each number; `sigma_with_rounding` pays for it.
Source: Canonne, Kamath and Steinke 2020, arXiv 2004.00010, algorithms 1 to 3; Kairouz, Liu and Steinke 2021, arXiv 2102.06387,
for sums of discrete Gaussians under secure aggregation.
"""

import math
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.head import Float64
from common.metrics import Int64

Entropy = Callable[[int], bytes]
"""Gives so many random bytes: `os.urandom`, and nothing else where patients are to be protected."""

GRID_BITS = 20
"""One share's deviation is 2^20 units."""

_AT_ONCE = 1 << 18

UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]


def share_scale(sigma: float, honest: int) -> float:
    """The deviation of the noise that each hospital adds, so that `honest` of them already make sigma together.

    honest: hospitals that add their noise and do not tell it, at least 1. Of a secure sum that opens with t hospitals or more, of
    which c may tell theirs, it is t - c; a hospital that looks at the result knows its own noise, so to protect patients from
    one of the hospitals as well, c counts it: t - 1 where nobody colludes. With K hospitals in the sum the noise has deviation
    sigma x sqrt(K / honest). honest = 1 trusts nobody: each hospital's noise is enough alone, even without a secure sum.
    """
    return sigma / math.sqrt(honest)


def sigma_with_rounding(sensitivity: float, multiplier: float, numbers: int, honest: int) -> float:
    """The sigma for a sum of so many numbers, with the sensitivity that it has after rounding to the grid of a share.

    Sums of neighbours, each rounded, differ by at most sensitivity + unit x sqrt(numbers), and the unit is
    sigma / sqrt(honest) / 2^20: solved for sigma = multiplier x that.
    """
    return multiplier * sensitivity / (1.0 - multiplier * math.sqrt(numbers / honest) / 2.0**GRID_BITS)


def unit_of(scale: float) -> float:
    """The spacing of the grid for shares of deviation `scale`: the same at every hospital."""
    return scale / 2.0**GRID_BITS


def noised(values: Float64, scale: float, entropy: Entropy = os.urandom) -> Int64:
    """A hospital's values (any shape) on the grid, with noise of deviation `scale` > 0, in whole units: they may be summed.

    Raises:
        DataError: a value is not finite, or so great that a sum of whole units might not fit into 64 bits.
    """
    whole = np.rint(values / unit_of(scale))
    if not (np.abs(whole) < 2.0**52).all():  # NaN is not
        raise DataError(
            f"values to be noised: not finite, or beyond 2^32 times the noise of {scale:g}; nothing left the hospital"
        )
    units = whole.astype(np.int64)
    return np.asarray(units + discrete_gaussian(units.size, entropy).reshape(units.shape), np.int64)


def from_units(units: Int64, scale: float) -> Float64:
    """Numbers from (sums of) whole units."""
    return np.asarray(units * unit_of(scale), np.float64)


def discrete_gaussian(number: int, entropy: Entropy = os.urandom) -> Int64:
    """Independent draws (number,) of the discrete Gaussian with deviation t = 2^20, exactly: P(x) ~ exp(-x² / 2 t²).

    A draw of the discrete Laplace distribution with scale t is kept with probability exp(-(|x| - t)² / 2 t²).
    """
    found, missing = [np.zeros(0, np.int64)], number
    while missing > 0:
        drawn = _discrete_laplace(min(_AT_ONCE, 64 + int(2.3 * missing)), entropy)
        gaps = ((np.abs(drawn) - (1 << GRID_BITS)) ** 2).astype(np.uint64)
        kept = drawn[_exp_minus(gaps, 2 * GRID_BITS + 1, entropy)][:missing]
        found.append(kept)
        missing -= len(kept)
    return np.concatenate(found)


def _discrete_laplace(number: int, entropy: Entropy) -> Int64:
    """At most `number` draws with P(x) ~ exp(-|x| / 2^20)."""
    low = _words(number, entropy) >> np.uint64(64 - GRID_BITS)
    low = low[_exp_minus(low, GRID_BITS, entropy)]
    high = np.zeros(len(low), np.uint64)
    going = np.arange(len(low))
    while len(going):
        going = going[_exp_minus_one(len(going), entropy)]
        high[going] += np.uint64(1)
    size = (low + (high << np.uint64(GRID_BITS))).astype(np.int64)
    negative = (_words(len(size), entropy) & np.uint64(1)).astype(bool)
    signed = np.where(negative, -size, size)
    return np.asarray(signed[~(negative & (size == 0))], np.int64)


def _exp_minus(numerators: UInt64, bits: int, entropy: Entropy) -> Bool:
    """True with probability exp(-numerator / 2^bits), exactly; numerators (n,) may be greater than 2^bits."""
    whole, rest = numerators >> np.uint64(bits), numerators & np.uint64((1 << bits) - 1)
    true = _exp_minus_fraction(rest, bits, entropy)
    going = np.flatnonzero(true & (whole > 0))
    while len(going):
        true[going] = _exp_minus_one(len(going), entropy)
        whole[going] -= np.uint64(1)
        going = going[true[going] & (whole[going] > 0)]
    return true


def _exp_minus_one(number: int, entropy: Entropy) -> Bool:
    """Draws (number,) that are true with probability exp(-1)."""
    return _exp_minus_fraction(None, 0, entropy, number)


def _exp_minus_fraction(numerators: UInt64 | None, bits: int, entropy: Entropy, number: int = 0) -> Bool:
    """True with probability exp(-g), g = numerator / 2^bits below 1, or g = 1 if there are no numerators.

    Events of probability g/1, g/2, g/3, ... are tried until one fails; it is an odd one with probability exp(-g).
    """
    number = number if numerators is None else len(numerators)
    odd = np.zeros(number, bool)
    going, k = np.arange(number), 1
    while len(going):
        happens = _one_in(k, len(going), entropy)
        if numerators is not None:
            happens &= (_words(len(going), entropy) >> np.uint64(64 - bits)) < numerators[going]
        odd[going[~happens]] = k % 2 == 1
        going, k = going[happens], k + 1
    return odd


def _one_in(k: int, number: int, entropy: Entropy) -> Bool:
    """Draws (number,) that are true with probability 1/k, k below 2^32."""
    if k == 1:
        return np.ones(number, bool)
    words = np.frombuffer(entropy(4 * number), np.uint32).astype(np.uint64)
    limit = np.uint64((1 << 32) // k * k)
    while (beyond := np.flatnonzero(words >= limit)).size:
        words[beyond] = np.frombuffer(entropy(4 * len(beyond)), np.uint32)
    return np.asarray(words % np.uint64(k) == 0)


def _words(number: int, entropy: Entropy) -> UInt64:
    return np.frombuffer(entropy(8 * number), np.uint64)
