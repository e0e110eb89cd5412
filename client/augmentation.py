"""Views: augmented copies of a training image that are the same every time, so that their features can be cached."""

import numpy as np
from PIL import Image

MAX_ROTATION_DEG = 7.0
MIN_CROP = 0.88


def view_of(image: Image.Image, image_sha256: bytes, view: int) -> Image.Image:
    """View number `view` of an image: 0 is the image itself, others are mirrored at random, turned and cropped a little.

    The randomness comes from the image's digest and the view's number alone.
    """
    if view == 0:
        return image
    rng = np.random.default_rng([int.from_bytes(image_sha256[:8], "big"), view])
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG), Image.Resampling.BILINEAR)
    share = rng.uniform(MIN_CROP, 1.0)
    width, height = max(1, round(share * image.width)), max(1, round(share * image.height))
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))
