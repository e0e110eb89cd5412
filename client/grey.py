"""From the numbers a scanner stored to brightness: windows, inversion, padding. The network input is made linearly.

A number is stored, has a value (Hounsfield units in CT), and becomes a brightness in [0, 1]. Letters: (H, W) a slice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.windows import Window

Numbers = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Curve = Callable[[Float64], Float64]
_MOST_LEVELS = 2**16


@dataclass(frozen=True)
class Grey:
    """One grey slice as stored, and what its numbers mean.

    stored: (H, W) integers or floats. value: stored numbers to values. own: values to brightness as the file itself wants to
    be shown, None where it does not say. padding: stored numbers from..to that are no picture and become black. inverted:
    whether the greatest value is black (MONOCHROME1).
    """

    stored: Numbers
    value: Curve
    own: Curve | None = None
    padding: tuple[float, float] | None = None
    inverted: bool = False


def linear(window: Window) -> Curve:
    """The window as DICOM draws it. Source: PS3.3 C.11.2.1.2.1, equation for LINEAR."""

    def curve(values: Float64) -> Float64:
        if window.width <= 1:
            return np.asarray(values > window.centre - 0.5, np.float64)
        return np.clip((values - (window.centre - 0.5)) / (window.width - 1) + 0.5, 0.0, 1.0)

    return curve


def linear_exact(window: Window) -> Curve:
    """Source: PS3.3 C.11.2.1.3.2."""
    return lambda values: np.clip((values - window.centre) / window.width + 0.5, 0.0, 1.0)


def sigmoid(window: Window) -> Curve:
    """Source: PS3.3 C.11.2.1.3.1."""
    return lambda values: 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - window.centre) / window.width, -700.0, 700.0)))


def between(low: float, high: float) -> Curve:
    """Black at `low`, white at `high`; all black where they are equal."""
    if not high > low:
        return np.zeros_like
    # Halved, because the range of extreme floats overflows although its ends do not.
    return lambda values: np.asarray(np.clip((values / 2 - low / 2) / (high / 2 - low / 2), 0.0, 1.0), np.float64)


def spread(slices: Iterable[Grey]) -> tuple[float, float]:
    """The least and the greatest value that occurs in slices; padding and what is no number do not count."""
    low, high = np.inf, -np.inf
    for one in slices:
        stored = _occurring(one.stored)
        values = one.value(stored)
        counted = np.isfinite(values) & ~_padded(stored, one.padding)
        low = min(low, float(values.min(where=counted, initial=np.inf)))
        high = max(high, float(values.max(where=counted, initial=-np.inf)))
    return low, high


def shaded(grey: Grey, curve: Curve) -> npt.NDArray[np.uint8]:
    """A slice (H, W) as 8-bit grey, 0 black, with a curve from values to brightness."""

    def shade(stored: Float64) -> npt.NDArray[np.uint8]:
        values = grey.value(stored)
        finite = np.isfinite(values)
        bright = curve(np.where(finite, values, 0.0))
        bright = 1.0 - bright if grey.inverted else bright
        eight_bit: npt.NDArray[np.uint8] = np.rint(bright * 255).astype(np.uint8)
        return np.where(finite & ~_padded(stored, grey.padding), eight_bit, np.uint8(0))

    levels = _levels(grey.stored)
    if levels is None:
        return shade(grey.stored.astype(np.float64))
    # A table of what each stored number becomes: exact, and an eighth of the memory of so many floats.
    low, high = levels
    return shade(np.arange(low, high + 1, dtype=np.float64))[grey.stored.astype(np.int64) - low]


def _levels(stored: Numbers) -> tuple[int, int] | None:
    """The least and the greatest stored number, where all between them fit into a table."""
    if stored.dtype.kind not in "iu" or not stored.size:
        return None
    low, high = int(stored.min()), int(stored.max())
    return (low, high) if high - low < _MOST_LEVELS and abs(high) < 2**62 else None


def _occurring(stored: Numbers) -> Float64:
    levels = _levels(stored)
    if levels is None:
        return stored.astype(np.float64)
    counts = np.bincount((stored.astype(np.int64) - levels[0]).ravel())
    return np.asarray(np.flatnonzero(counts) + levels[0], np.float64)


def _padded(stored: Float64, padding: tuple[float, float] | None) -> npt.NDArray[np.bool_]:
    if padding is None:
        return np.zeros(stored.shape, np.bool_)
    return (stored >= padding[0]) & (stored <= padding[1])
