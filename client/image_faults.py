"""What is wrong with a picture by its grey values alone: blank, overexposed, too dark.

The bounds are absolute, so a hospital all of whose images are dark is told so, too. On 3,906 public chest X-rays of six
sources they name none (`docs/images.md`): the darkest half per cent of brightest pixels there begins at 122, the whitest
picture is white for 17 %.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

_TAIL = 0.005
_WHITE = 254


class GreyValues(NamedTuple):
    """Grey values of a picture, 0 black to 255 white: the half per cent of darkest and of brightest pixels ends there.

    deviation: of the grey values. white: share of pixels that are white, in [0, 1].
    """

    low: int = 0
    high: int = 0
    deviation: float = 0.0
    white: float = 0.0


def grey_of(picture: Image.Image) -> GreyValues:
    """The grey values of an 8-bit picture."""
    counts = np.array(picture.convert("L").histogram(), np.float64)
    shares = counts / counts.sum()
    values = np.arange(256)
    mean = float(shares @ values)
    up_to = np.cumsum(shares)
    return GreyValues(
        low=int(np.searchsorted(up_to, _TAIL)),
        high=int(np.searchsorted(up_to, 1.0 - _TAIL)),
        deviation=float(np.sqrt(shares @ (values - mean) ** 2)),
        white=float(shares[_WHITE:].sum()),
    )


FAULTS: Mapping[str, tuple[str, Callable[[GreyValues], bool]]] = {
    "blank": ("nothing is to be seen: one grey value nearly everywhere", lambda grey: grey.high - grey.low < 10),
    "overexposed": ("more than 30 % of the pixels are white", lambda grey: grey.white > 0.3),
    "dark": ("its brightest pixels do not reach 110 of 255", lambda grey: grey.high < 110),
}
"""Name of a fault, what it means, and how it is told. The first that fits is named."""


def fault_of(grey: GreyValues) -> str | None:
    """The fault of a picture by its grey values; None if it has none of `FAULTS`."""
    return next((name for name, (_, holds) in FAULTS.items() if holds(grey)), None)
