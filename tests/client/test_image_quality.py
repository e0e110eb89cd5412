"""What is said of bad images, and that good ones pass."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from client.image_quality import quality_findings
from client.images import load_image
from client.records import read_rows


@pytest.fixture(scope="module")
def film(phantoms):
    return load_image(read_rows(phantoms["hospital-a"])[0].path).convert("L")


def words(image, size_px=64, modality="chest-xray"):
    return [(finding.words, finding.refer) for finding in quality_findings(image, size_px, modality)]


def test_a_good_image_has_no_finding(film):
    assert words(film) == []
    assert words(film.convert("RGB")) == []


def test_phantoms_have_none_that_refers(phantoms):
    for folder in phantoms.values():
        for row in read_rows(folder)[:10]:
            assert not any(refer for _, refer in words(load_image(row.path)))


@pytest.mark.parametrize(
    ("change", "said", "refer"),
    [
        (lambda image: image.resize((30, 30)), "only 30 x 30 pixels, blown up to the 64", True),
        (lambda image: image.resize((50, 50)), "only 50 x 50 pixels, blown up to the 64", False),
        (lambda image: image.resize((400, 100)), "a strip of 400 x 100 pixels", True),
        (lambda image: image.point([100 + value // 32 for value in range(256)]), "hardly any contrast", True),
        (lambda image: image.point([100 + value // 8 for value in range(256)]), "hardly any contrast", False),
        (lambda image: image.resize((512, 512)).filter(ImageFilter.GaussianBlur(24)), "blurred", True),
        (lambda image: image.point([255 if value > 60 else value for value in range(256)]), "fully white", False),
        (lambda image: Image.new("L", (64, 64), 90), "hardly any contrast: 0 of 255", True),
    ],
)
def test_what_is_wrong_is_said(film, change, said, refer):
    found = words(change(film))
    assert any(said in told and refer == refers for told, refers in found), found


def test_colour_is_none_of_an_xray_and_usual_elsewhere(film):
    grey = np.asarray(film)
    tinted = Image.fromarray(np.stack([grey, grey // 2, grey // 3], 2).astype(np.uint8))
    assert ("a colour image; chest-xray is grey", True) in words(tinted)
    assert words(tinted, modality="dermoscopy") == []
    # A coloured stamp in a corner is no colour image.
    stamped = np.repeat(grey[..., None], 3, 2).copy()
    stamped[:8, :8] = (255, 0, 0)
    assert words(Image.fromarray(stamped)) == []
