import numpy as np
import pytest
from PIL import Image

from client.image_faults import FAULTS, GreyValues, fault_of, grey_of
from client.images import load_image
from client.records import read_rows


def picture(low, high, seed=0):
    ramp = np.linspace(low, high, 64 * 64).reshape(64, 64)
    return Image.fromarray(np.random.default_rng(seed).permutation(ramp).astype(np.uint8))


def test_grey_values_by_hand():
    half = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 10, axis=1))
    assert grey_of(half) == GreyValues(0, 255, 127.5, 0.5)
    assert grey_of(Image.new("RGB", (4, 4), (7, 7, 7))) == GreyValues(7, 7, 0.0, 0.0)


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (Image.new("L", (32, 32), 255), "blank"),
        (Image.new("L", (32, 32), 0), "blank"),
        (picture(100, 106), "blank"),
        (picture(0, 100), "dark"),
        (picture(0, 255), None),
        (picture(40, 130), None),
        (picture(0, 255).point([min(255, 2 * value) for value in range(256)]), "overexposed"),
        (picture(0, 255).point([min(255, round(1.2 * value)) for value in range(256)]), None),
    ],
)
def test_which_fault_is_named(image, fault):
    assert fault_of(grey_of(image)) == fault
    assert fault is None or fault in FAULTS


def test_phantoms_have_no_fault_and_darkened_ones_are_dark(phantoms):
    for folder in phantoms.values():
        images = [load_image(row.path) for row in read_rows(folder)]
        assert [fault_of(grey_of(image)) for image in images] == [None] * 40
        darkened = [image.point([value * 2 // 5 for value in range(256)]) for image in images]
        assert [fault_of(grey_of(image)) for image in darkened] == ["dark"] * 40
