"""A heat map laid over the image it is of, in the frame of the image: its own width and height, crop and scaling undone."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from client.diagnosis_record import Heatmap
from client.frame import Frame

_OPACITY = 0.55
"""Of the hottest place."""

Pixels = npt.NDArray[np.uint8]


def overlay(image: Image.Image, heatmap: Heatmap, frame: Frame) -> Image.Image:
    """The image (mode RGB) with what speaks for the class in yellow to red, the more the redder; elsewhere as it is.

    What speaks against the class is not shown, and neither are borders that the network had and the image has not.
    """
    positive = np.maximum(frame.over_image(heatmap.grid), 0.0)
    most = float(positive.max())
    heat = (positive / most if most > 0 else positive)[..., None]
    base = np.asarray(image.convert("RGB"), np.float32)
    colour = np.concatenate([np.full_like(heat, 255.0), 230.0 * (1.0 - heat), np.zeros_like(heat)], axis=2)
    mixed = base + (colour - base) * (_OPACITY * heat)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
