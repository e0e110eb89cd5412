"""The way from the network's input back to the image."""

import numpy as np
import pytest
from PIL import Image

from client.frame import Frame
from client.images import to_input

SIZES = [(300, 200), (200, 300), (64, 64), (151, 90), (50, 40)]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", SIZES)
def test_a_bright_spot_is_found_where_it_was(fit, size):
    """A spot is painted into the image, seen in the input, and found again by the frame, to a pixel or two of the input."""
    width, height = size
    frame = Frame.of(width, height, 64, fit)
    x, y = width * 0.55, height * 0.4
    pixels = np.zeros((height, width), np.uint8)
    radius = max(2, round(frame.step_x))
    pixels[int(y) - radius : int(y) + radius + 1, int(x) - radius : int(x) + radius + 1] = 255
    seen = to_input(Image.fromarray(pixels), 64, fit)[0].astype(float)
    rows, columns = np.indices(seen.shape) + 0.5
    at = (seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum()
    assert frame.to_image(*at) == pytest.approx((int(x) + 0.5, int(y) + 0.5), abs=1.0 * max(frame.step_x, frame.step_y))
    assert frame.to_input(*frame.to_image(3.25, 40.5)) == pytest.approx((3.25, 40.5))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", SIZES)
def test_a_map_over_the_input_comes_to_lie_over_the_image(fit, size):
    width, height = size
    frame = Frame.of(width, height, 64, fit)
    grid = np.zeros((8, 8), np.float32)
    grid[3, 5] = 1.0
    over = frame.over_image(grid)
    assert over.shape == (height, width)
    row, column = np.unravel_index(over.argmax(), over.shape)
    expected = frame.to_image(5.5 * 8, 3.5 * 8)
    assert abs(column + 0.5 - expected[0]) <= 4.5 * frame.step_x
    assert abs(row + 0.5 - expected[1]) <= 4.5 * frame.step_y


def test_outside_of_a_crop_the_network_saw_nothing():
    over = Frame.of(300, 200, 64, "crop").over_image(np.ones((4, 4), np.float32))
    assert over[100, 150] == 1.0
    assert over[:, :50].max() == over[:, -50:].max() == over[:8].max() == 0.0
