"""What a person would say of an image before reading it: too small, flat, overexposed, blurred, coloured, a strip.

Nothing here knows a diagnosis. A finding either is worth a word, or makes the model's answer worthless: then the
image is referred.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from common.modalities import MODALITIES

Float32 = npt.NDArray[np.float32]

LEAST_CONTRAST, FAIR_CONTRAST = 16.0, 40.0
"""Grey values (of 255) between the 1st and the 99th hundredth."""

MOST_COLOUR = 10.0
"""Mean difference of the strongest and the weakest channel (of 255) of a grey image: compression and a stamp make some."""

MOST_WHITE, MOST_BLACK = 0.4, 0.8
"""Shares of pixels that are fully white, fully black; collimators and borders are black."""

LEAST_DETAIL = 0.002
"""Mean difference of an image and its smoothed copy (3 x 3), as a share of its contrast, both 256 pixels wide at most.

Of 300 chest X-rays none had less than 0.003; blurred by 3 pixels (Gaussian, of 224) 98 of 100 had less than 0.002."""

MOST_ASPECT = 3.0
_LOOKED_AT_PX, _SMOOTHED_PX = 256, 1


@dataclass(frozen=True)
class Finding:
    """words: for people. refer: whether the image must not be diagnosed by the model."""

    words: str
    refer: bool


def quality_findings(image: Image.Image, size_px: int, modality: str) -> tuple[Finding, ...]:
    """What is wrong with an image (mode L or RGB) for a network that sees `size_px` pixels."""
    found = [_size(image, size_px), _aspect(image)]
    small = image.copy()
    small.thumbnail((_LOOKED_AT_PX, _LOOKED_AT_PX))
    grey = np.asarray(small.convert("L"), np.float32)
    low, high = (float(value) for value in np.percentile(grey, (1, 99)))
    contrast = high - low
    found.append(_contrast(contrast))
    if contrast >= LEAST_CONTRAST:
        found += [_exposure(grey), _detail(small, grey, contrast), _colour(small, modality)]
    return tuple(finding for finding in found if finding is not None)


def _size(image: Image.Image, size_px: int) -> Finding | None:
    longer = max(image.size)
    if longer >= size_px:
        return None
    words = f"only {image.width} x {image.height} pixels, blown up to the {size_px} that the network sees"
    return Finding(words, refer=longer < size_px / 2)


def _aspect(image: Image.Image) -> Finding | None:
    if max(image.size) <= MOST_ASPECT * min(image.size):
        return None
    return Finding(f"a strip of {image.width} x {image.height} pixels, of which the network sees little", refer=True)


def _contrast(contrast: float) -> Finding | None:
    if contrast >= FAIR_CONTRAST:
        return None
    return Finding(f"hardly any contrast: {contrast:.0f} of 255 grey values are used", refer=contrast < LEAST_CONTRAST)


def _exposure(grey: Float32) -> Finding | None:
    white, black = float((grey >= 254).mean()), float((grey <= 1).mean())
    if white > MOST_WHITE:
        return Finding(f"{white:.0%} of the image is fully white", refer=False)
    return Finding(f"{black:.0%} of the image is fully black", refer=False) if black > MOST_BLACK else None


def _detail(small: Image.Image, grey: Float32, contrast: float) -> Finding | None:
    smoothed = np.asarray(small.convert("L").filter(ImageFilter.BoxBlur(_SMOOTHED_PX)), np.float32)
    detail = float(np.abs(grey - smoothed).mean()) / contrast
    return Finding("blurred: no fine detail", refer=True) if detail < LEAST_DETAIL else None


def _colour(small: Image.Image, modality: str) -> Finding | None:
    if small.mode != "RGB" or not MODALITIES[modality].grey:
        return None
    channels = np.asarray(small, np.float32)
    colour = float((channels.max(axis=2) - channels.min(axis=2)).mean())
    return Finding(f"a colour image; {modality} is grey", refer=True) if colour > MOST_COLOUR else None
