"""Where the network's square input lies in an image: crop, borders and scaling, and the way back.

Both frames have their origin in the upper left corner of the upper left pixel; x goes right and y down.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from client.images import Fit

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """Input point (x, y) is the image point (left + x step_x, top + y step_y), in pixels of each.

    width and height: of the image as it was decoded, upright, in pixels. size: side S of the input in pixels. left, top: where
    the input's corner lies in the image, negative where the input has a border. step: image pixels for one input pixel.
    """

    width: int
    height: int
    size: int
    left: float
    top: float
    step_x: float
    step_y: float

    @classmethod
    def of(cls, width: int, height: int, size: int, fit: Fit) -> Self:
        """That of an image of some size under `client.images.to_input`, to the same rounding."""
        if fit == "crop":
            side = min(width, height) * size / round(size * 8 / 7)
            step = side / size
            return cls(width, height, size, (width - side) / 2, (height - side) / 2, step, step)
        if fit == "stretch":
            return cls(width, height, size, 0.0, 0.0, width / size, height / size)
        scale = size / max(width, height)
        inner_w, inner_h = max(1, round(width * scale)), max(1, round(height * scale))
        step_x, step_y = width / inner_w, height / inner_h
        border_x, border_y = (size - inner_w) // 2, (size - inner_h) // 2
        return cls(width, height, size, -border_x * step_x, -border_y * step_y, step_x, step_y)

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """The image point of an input point."""
        return self.left + x * self.step_x, self.top + y * self.step_y

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """The input point of an image point."""
        return (x - self.left) / self.step_x, (y - self.top) / self.step_y

    def over_image(self, grid: Float32) -> Float32:
        """Numbers on a grid (h, w) over the input as numbers (height, width) over the image, bilinear; 0 outside the input."""
        square = Image.fromarray(np.asarray(grid, np.float32)).resize((self.size, self.size), Image.Resampling.BILINEAR)
        # Pillow asks for the input point of each image point; it adds the half pixel itself.
        x, y = 1 / self.step_x, 1 / self.step_y
        found = square.transform(
            (self.width, self.height),
            Image.Transform.AFFINE,
            (x, 0.0, -self.left * x, 0.0, y, -self.top * y),
            Image.Resampling.BILINEAR,
        )
        return np.asarray(found, np.float32)
