"""Views: augmented copies of a training image that are the same every time, so that their features can be cached.

Views have numbers: 0 is the image itself, 1, 2, ... are augmented copies, and -1, -2, -3, ... the mirror images of 0, 1, 2, ...
"""

import numpy as np
from PIL import Image

MAX_ROTATION_DEG = 7.0
MIN_CROP = 0.88
MAX_GAMMA = 1.25
"""Brightness is changed by a power between 1 / MAX_GAMMA and MAX_GAMMA."""


def mirrored(view: int) -> int:
    """The number of a view's mirror image."""
    return -view - 1


def upright(view: int) -> int:
    """The number of the view that is not mirrored: itself, or the one it is the mirror image of."""
    return view if view >= 0 else mirrored(view)


def view_of(image: Image.Image, image_sha256: bytes, view: int) -> Image.Image:
    """View number `view` >= 0 of an 8-bit image: 0 is the image itself, others are turned, cropped, brightened a little.

    The randomness comes from the image's digest and the view's number alone. Mirroring is done on the network input.
    """
    if view == 0:
        return image
    rng = np.random.default_rng([int.from_bytes(image_sha256[:8], "big"), view])
    image = image.rotate(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG), Image.Resampling.BILINEAR)
    share = rng.uniform(MIN_CROP, 1.0)
    width, height = max(1, round(share * image.width)), max(1, round(share * image.height))
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    gamma = MAX_GAMMA ** rng.uniform(-1.0, 1.0)
    curve = [round(255 * (value / 255) ** gamma) for value in range(256)]
    return image.crop((left, top, left + width, top + height)).point(curve * len(image.getbands()))
