"""DICOM files as pictures: what scanners write, compare with arithmetic by hand."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data.data_manager import DATA_ROOT

from client.dicom_header import has_magic
from client.images import bit_depth, load_image, load_pictures
from client.slices import Reading
from common.errors import DataError
from common.windows import WINDOWS, Window
from tests.dicom_files import JPEG_2000, JPEG_LOSSLESS, JPEG_LS, RLE, dicom_of, item, recoded, write_dicom

BUNDLED = sorted(
    path for path in (Path(DATA_ROOT) / "test_files").rglob("*") if path.suffix == ".dcm" or has_magic(path)
)
RAMP = np.arange(-1000, 1560, 10, dtype=np.int16).reshape(16, 16)
TWELVE = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)


def pixels(path, window=None):
    (picture,) = load_pictures(path, Reading(window))
    return np.asarray(picture)


def by_hand(values, centre, width):
    """PS3.3 C.11.2.1.2.1, its pseudo code, number by number."""
    out = np.zeros(values.shape)
    for place, x in np.ndenumerate(values.astype(float)):
        if x <= centre - 0.5 - (width - 1) / 2:
            out[place] = 0
        elif x > centre - 0.5 + (width - 1) / 2:
            out[place] = 255
        else:
            out[place] = ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return np.rint(out).astype(np.uint8)


REASONS = (
    "found a DICOM file without pixels",
    "(DICM after 128 bytes), found a file",
    "in the header, found none",
    "found a damaged or incomplete one",
    "found a damaged one or another kind of compression",
    "found another size",
)
OF_BUNDLED = {
    "image L": 55,
    "image RGB": 33,
    **dict(zip(REASONS, (68, 4, 2, 2, 2, 1), strict=True)),
}


def test_every_bundled_file_gives_an_image_or_a_reasoned_refusal(caplog):
    """All files of pydicom's wheel that are named .dcm or are DICOM by content; broken ones are among them on purpose."""
    outcomes = Counter()
    with caplog.at_level(logging.DEBUG):
        for path in BUNDLED:
            try:
                picture = load_image(path)
            except DataError as error:
                outcomes[next(reason for reason in REASONS if reason in str(error))] += 1
            else:
                outcomes[f"image {picture.mode}"] += 1
    assert outcomes == OF_BUNDLED
    assert not [record for record in caplog.records if "pydicom" in record.name]


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LS, JPEG_2000, RLE])
@pytest.mark.parametrize("signed", [False, True])
def test_a_compressed_image_is_the_same_image(tmp_path, syntax, signed):
    rng = np.random.default_rng(5)
    values = rng.integers(0, 2**12, (24, 40)).astype(np.uint16)
    values = (values.astype(np.int16) - 1024) if signed else values
    bits = {} if signed else {"BitsStored": 12, "HighBit": 11}
    plain = write_dicom(tmp_path / "plain.dcm", values, RescaleSlope=1, RescaleIntercept=-24, **bits)
    other = recoded(plain, tmp_path / "compressed.dcm", syntax)
    assert str(pydicom.dcmread(other).file_meta.TransferSyntaxUID) == syntax
    for window in (None, Window(300, 900)):
        np.testing.assert_array_equal(pixels(plain, window), pixels(other, window))
    assert pixels(plain).std() > 50


def test_the_bundled_families_of_one_image_agree():
    folder = Path(DATA_ROOT) / "test_files"
    family = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm",
              "MR_small_expb.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]  # fmt: skip
    first, *others = (pixels(folder / name) for name in family)
    assert first.std() > 20
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("name", ["lung", "bone", "brain", "abdomen"])
def test_the_window_of_a_job_is_the_one_of_the_standard(name):
    path = Path(DATA_ROOT) / "test_files" / "CT_small.dcm"
    found = pydicom.dcmread(path)
    units = found.pixel_array.astype(float) * float(found.RescaleSlope) + float(found.RescaleIntercept)
    expected = by_hand(units, *WINDOWS[name])
    expected[found.pixel_array == found.PixelPaddingValue] = 0
    np.testing.assert_array_equal(pixels(path, WINDOWS[name]), expected)
    assert len(np.unique(expected)) > 20


def test_values_of_the_lung_window_by_hand(tmp_path):
    values = np.array([[-1400, -1351, -1350], [-600, 149, 150]], np.int16)
    path = write_dicom(tmp_path / "a.dcm", values - 24, RescaleSlope=1, RescaleIntercept=24)
    # -600 is half a unit above the middle of the window: (0.5 / 1499 + 0.5) * 255 = 127.59
    assert pixels(path, WINDOWS["lung"]).tolist() == [[0, 0, 0], [128, 255, 255]]


def test_width_one_is_a_threshold(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.array([[39, 40, 41]], np.int16))
    assert pixels(path, Window(40, 1)).tolist() == [[0, 255, 255]]


def test_without_a_window_the_least_and_the_greatest_value_are_black_and_white(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.array([[100, 200], [300, 355]], np.uint16))
    assert pixels(path).tolist() == [[0, 100], [200, 255]]
    assert bit_depth(path) == 16


def test_eight_bits_without_a_window_stay_as_they_are(tmp_path):
    values = np.array([[7, 90], [100, 200]], np.uint8)
    np.testing.assert_array_equal(pixels(write_dicom(tmp_path / "a.dcm", values)), values)


def test_the_own_window_of_the_file_is_taken_and_the_first_of_several(tmp_path):
    one = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=40, WindowWidth=400)
    two = write_dicom(tmp_path / "b.dcm", RAMP, WindowCenter=[40, -600], WindowWidth=[400, 1500])
    np.testing.assert_array_equal(pixels(one), by_hand(RAMP, 40, 400))
    np.testing.assert_array_equal(pixels(two), by_hand(RAMP, 40, 400))
    np.testing.assert_array_equal(pixels(two, WINDOWS["lung"]), by_hand(RAMP, -600, 1500))


def test_exact_and_sigmoid_windows(tmp_path):
    own = {"WindowCenter": 40, "WindowWidth": 400}
    exact = write_dicom(tmp_path / "a.dcm", RAMP, **own, VOILUTFunction="LINEAR_EXACT")
    curved = write_dicom(tmp_path / "b.dcm", RAMP, **own, VOILUTFunction="SIGMOID")
    np.testing.assert_array_equal(pixels(exact), np.rint(np.clip((RAMP - 40) / 400 + 0.5, 0, 1) * 255))
    np.testing.assert_array_equal(pixels(curved), np.rint(255 / (1 + np.exp(-4 * (RAMP - 40.0) / 400))))


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_look_up_table_of_the_file_goes_before_its_window(tmp_path, as_bytes):
    table = [0, 1024, 4095]
    data = np.array(table, "<u2").tobytes() if as_bytes else table
    lut = item(LUTDescriptor=[3, 10, 12], LUTData=data)
    lut["LUTData"].VR = "OW" if as_bytes else "US"
    path = write_dicom(
        tmp_path / "a.dcm",
        np.array([[0, 10, 11, 12, 99]], np.uint16),
        VOILUTSequence=[lut],
        WindowCenter=5,
        WindowWidth=5,
    )
    assert pixels(path).tolist() == [[0, 0, 64, 255, 255]]


def test_a_modality_look_up_table(tmp_path):
    lut = item(LUTDescriptor=[2, 1, 16], LUTData=[500, 1500], ModalityLUTType="HU")
    lut["LUTData"].VR = "US"
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1, 2, 3]], np.uint16), ModalityLUTSequence=[lut])
    assert pixels(path, Window(1000, 2001)).tolist() == [[64, 64, 191, 191]]


@pytest.mark.parametrize("window", [None, Window(2000, 3000)])
@pytest.mark.parametrize("own", [{}, {"WindowCenter": 2000, "WindowWidth": 1500}])
def test_monochrome1_equals_its_monochrome2_twin(tmp_path, window, own):
    bits = {"BitsStored": 12, "HighBit": 11}
    two = write_dicom(tmp_path / "2.dcm", TWELVE, **bits, **own)
    # The twin: white where the other is black, so its window is mirrored, too (C.11.2.1.2: by half a unit off centre).
    turned = {"WindowCenter": 4095 - 2000 + 1, "WindowWidth": 1500} if own else {}
    one = write_dicom(tmp_path / "1.dcm", 4095 - TWELVE, **bits, **turned, PhotometricInterpretation="MONOCHROME1")
    other = Window(4095 - window.centre + 1, window.width) if window else None
    np.testing.assert_array_equal(pixels(two, window), pixels(one, other))
    assert pixels(two, window).std() > 50


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(tmp_path, kind):
    values = np.array([[-2000, -1990, 100], [200, 300, 355]], np.int16)
    path = write_dicom(
        tmp_path / "a.dcm",
        values,
        PhotometricInterpretation=kind,
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1990,
    )
    bright = [[0, 0, 0], [100, 200, 255]] if kind == "MONOCHROME2" else [[0, 0, 255], [155, 55, 0]]
    assert pixels(path).tolist() == [[round(b) for b in row] for row in bright]


def test_bits_beyond_those_stored_are_no_part_of_the_value(tmp_path):
    overlay = TWELVE | np.where(np.eye(16, dtype=bool), 0xF000, 0).astype(np.uint16)
    bits = {"BitsStored": 12, "HighBit": 11}
    np.testing.assert_array_equal(
        pixels(write_dicom(tmp_path / "a.dcm", overlay, **bits)),
        pixels(write_dicom(tmp_path / "b.dcm", TWELVE, **bits)),
    )
    signed = np.array([[0x0FFF, 0x0001]], np.uint16)  # -1 and 1 in twelve bits
    path = write_dicom(tmp_path / "c.dcm", signed, **bits, PixelRepresentation=1)
    assert pixels(path, Window(0.5, 3)).tolist() == [[0, 255]]


def test_colour_whether_by_pixel_or_by_plane(tmp_path):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    by_plane = dicom_of(colour, PlanarConfiguration=1)
    by_plane.PixelData = colour.transpose(2, 0, 1).tobytes()
    by_plane.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    for path in (write_dicom(tmp_path / "a.dcm", colour), tmp_path / "b.dcm"):
        np.testing.assert_array_equal(pixels(path), colour)
        np.testing.assert_array_equal(pixels(path, WINDOWS["lung"]), colour)


def test_ybr_becomes_rgb(tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm", np.full((2, 2, 3), (76, 85, 255), np.uint8), PhotometricInterpretation="YBR_FULL"
    )
    assert np.abs(pixels(path)[0, 0].astype(int) - (254, 0, 0)).max() <= 2


def test_a_palette_becomes_rgb(tmp_path):
    table = {
        f"{name}PaletteColorLookupTable{what}": value
        for name, values in {"Red": [0, 65535], "Green": [0, 0], "Blue": [65535, 0]}.items()
        for what, value in {"Descriptor": [2, 0, 16], "Data": np.array(values, "<u2").tobytes()}.items()
    }
    path = write_dicom(
        tmp_path / "a.dcm", np.array([[0, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR", **table
    )
    assert pixels(path).tolist() == [[[0, 0, 255], [255, 0, 0]]]


def test_of_several_frames_the_middle_one_some_or_all(tmp_path):
    frames = np.arange(7, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    path = write_dicom(tmp_path / "a.dcm", frames, frames=True)
    found = {
        count: [int(np.asarray(one)[0, 0]) for one in load_pictures(path, Reading(slices=count))]
        for count in (1, 3, 0, 9)
    }
    assert found == {1: [3], 3: [1, 3, 5], 0: list(range(7)), 9: list(range(7))}


def test_the_scale_and_window_of_a_frame_may_stand_with_the_frame(tmp_path):
    def groups(intercept):
        return item(
            PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=intercept)],
            FrameVOILUTSequence=[item(WindowCenter=50, WindowWidth=101)],
        )

    frames = np.full((2, 4, 4), 50, np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm", frames, frames=True, PerFrameFunctionalGroupsSequence=[groups(-50), groups(50)]
    )
    assert [int(np.asarray(one)[0, 0]) for one in load_pictures(path, Reading(slices=0))] == [1, 255]


def test_a_dicom_file_needs_no_suffix(tmp_path):
    for name in ("IM0001", "1.2.840.113"):
        np.testing.assert_array_equal(pixels(write_dicom(tmp_path / name, TWELVE)), pixels(tmp_path / name))
    (tmp_path / "note").write_text("patient moved")
    with pytest.raises(DataError, match="unknown image suffix"):
        load_image(tmp_path / "note")


@pytest.mark.parametrize(
    ("modality", "wrong"), [("brain-ct", False), ("brain-mri", True), ("chest-xray", True), ("other", False)]
)
def test_an_image_of_another_modality_is_refused(tmp_path, modality, wrong):
    path = write_dicom(tmp_path / "a.dcm", TWELVE, Modality="CT")
    if not wrong:
        assert list(load_pictures(path, Reading(modality=modality)))
        return
    with pytest.raises(DataError, match=rf"a\.dcm: expected an image of modality {modality} .*found CT; take"):
        list(load_pictures(path, Reading(modality=modality)))


def test_only_codes_of_the_standard_are_repeated(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", TWELVE, Modality="DOE_JOHN")
    with pytest.raises(DataError) as caught:
        list(load_pictures(path, Reading(modality="brain-ct")))
    assert "DOE" not in str(caught.value)
