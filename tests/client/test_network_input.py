import time

import numpy as np
import pytest
from PIL import Image, ImageFilter

from client.images import to_input
from common.errors import DataError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def smooth_noise(rng, height, width, channels=3):
    noise = Image.fromarray(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))
    return noise.filter(ImageFilter.GaussianBlur(3))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(300, 200), (90, 640), (7, 5), (1, 1)])
def test_network_input_has_its_shape_and_keeps_a_constant(fit, mode, size):
    result = to_input(Image.new(mode, size, "white"), 64, fit)
    assert result.shape == (3, 64, 64)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    if fit == "pad":
        assert (result[:, 32, 32] == 255).all()
    else:
        assert (result == 255).all()


def test_grey_fills_three_equal_channels():
    result = to_input(Image.fromarray(RAMP), 32, "stretch")
    np.testing.assert_array_equal(result[0], result[1])
    np.testing.assert_array_equal(result[0], result[2])
    assert result[0].std() > 0


@pytest.mark.parametrize(("width", "height"), [(512, 512), (600, 400), (333, 500)])
def test_crop_is_scale_by_8_to_7_then_cut_the_centre(width, height):
    image = smooth_noise(np.random.default_rng(2), height, width)
    scale = 256 / min(width, height)
    scaled = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (scaled.width - 224) // 2, (scaled.height - 224) // 2
    reference = np.asarray(scaled.crop((left, top, left + 224, top + 224)), np.int16).transpose(2, 0, 1)
    # Half a pixel of the scaled image at most, where its longer side or the cut does not come out even.
    assert np.abs(to_input(image, 224, "crop") - reference).mean() < 2.0
    if width == height:
        assert np.abs(to_input(image, 224, "crop") - reference).max() <= 1


def test_pad_centres_the_whole_image_on_black():
    result = to_input(Image.new("L", (40, 20), 255), 80, "pad")[0]
    assert (result[20:60] == 255).all()
    assert not result[:20].any()
    assert not result[60:].any()


def test_stretch_keeps_all_four_corners():
    corners = np.zeros((20, 90), np.uint8)
    corners[:5, :20] = corners[-5:, -20:] = 255
    result = to_input(Image.fromarray(corners), 40, "stretch")[0]
    assert (result[0, 0], result[-1, -1], result[0, -1], result[-1, 0]) == (255, 255, 0, 0)


def test_a_thread_of_an_image_is_not_blown_up():
    start = time.monotonic()
    for fit in ("crop", "pad", "stretch"):
        assert to_input(Image.new("L", (1, 200_000), 9), 224, fit).shape == (3, 224, 224)
    assert time.monotonic() - start < 3.0


def test_an_unknown_fit_names_the_choices():
    with pytest.raises(DataError, match=r"unknown image fit 'corp'; did you mean 'crop'.*crop, pad, stretch"):
        to_input(Image.new("L", (4, 4)), 32, "corp")
