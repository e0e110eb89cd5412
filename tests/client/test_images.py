import warnings

import numpy as np
import pytest
from PIL import Image

from client import images
from client.images import IMAGE_SUFFIXES, READERS, bit_depth, load_image, open_with_pillow, to_input
from common.errors import DataError

ORIENTATION = 274
OF_PILLOW = [suffix for suffix, reader in READERS.items() if reader is open_with_pillow]
RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def saved(image, path, **options):
    image.save(path, **options)
    return path


def pixels(path):
    return np.asarray(load_image(path))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_eight_bit_grey_and_rgb_are_left_as_they_are(tmp_path, suffix):
    colour = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)
    grey = load_image(saved(Image.fromarray(RAMP), tmp_path / f"grey{suffix}"))
    rgb = load_image(saved(Image.fromarray(colour), tmp_path / f"rgb{suffix}"))
    assert (grey.mode, rgb.mode) == ("L", "RGB")
    np.testing.assert_array_equal(np.asarray(grey), RAMP)
    np.testing.assert_array_equal(np.asarray(rgb), colour)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_by_their_real_range(tmp_path, suffix):
    # 12 significant bits with an offset: the high byte alone would leave 4 grey levels.
    deep = np.array([[1000, 1255], [1510, 2020]], np.uint16)
    path = saved(Image.fromarray(deep), tmp_path / f"deep{suffix}")
    assert load_image(path).mode == "L"
    np.testing.assert_array_equal(pixels(path), [[0, 64], [128, 255]])
    assert bit_depth(path) == 16


def test_big_endian_tiff_gives_the_same_pixels(tmp_path):
    deep = np.array([[1000, 1255], [1510, 2020]], ">u2")
    path = saved(Image.frombytes("I;16B", (2, 2), deep.tobytes()), tmp_path / "big.tif")
    np.testing.assert_array_equal(pixels(path), [[0, 64], [128, 255]])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_scaled_by_their_real_range(tmp_path, dtype):
    path = saved(Image.fromarray(np.array([[-500, 0], [250, 520]], dtype)), tmp_path / "deep.tif")
    np.testing.assert_array_equal(pixels(path), [[0, 125], [188, 255]])
    assert bit_depth(path) == 32


def test_the_whole_range_of_32_bits_does_not_overflow(tmp_path):
    integers = np.array([[-(2**31), 0, 2**31 - 1]], np.int32)
    floats = np.array([[-3e38, 0, 3e38]], np.float32)
    for name, values in (("i", integers), ("f", floats)):
        np.testing.assert_array_equal(pixels(saved(Image.fromarray(values), tmp_path / f"{name}.tif")), [[0, 128, 255]])


def test_pixels_that_are_not_finite_do_not_set_the_range(tmp_path):
    values = np.array([[np.nan, np.inf, -np.inf], [1.0, 2.0, 3.0]], np.float32)
    path = saved(Image.fromarray(values), tmp_path / "nan.tif")
    np.testing.assert_array_equal(pixels(path), [[0, 0, 0], [0, 128, 255]])


@pytest.mark.parametrize("value", [0, 700, 65535])
def test_a_constant_deep_image_is_black(tmp_path, value):
    path = saved(Image.fromarray(np.full((3, 4), value, np.uint16)), tmp_path / "flat.png")
    assert not pixels(path).any()


def test_a_tiff_in_which_white_is_zero_is_turned_round(tmp_path):
    photometric = 262
    # Pillow writes 8 bits inverted and 16 bits as they are, so the first are the picture and the second the file's values.
    shown = np.array([[0, 60, 255]], np.uint8)
    stored = np.array([[0, 15420, 65535]], np.uint16)
    path = saved(Image.fromarray(shown), tmp_path / "inverse8.tif", tiffinfo={photometric: 0})
    np.testing.assert_array_equal(pixels(path), [[0, 60, 255]])
    path = saved(Image.fromarray(stored), tmp_path / "inverse16.tif", tiffinfo={photometric: 0})
    np.testing.assert_array_equal(pixels(path), [[255, 195, 0]])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_constant_tiff_in_which_white_is_zero_is_black_too(tmp_path, dtype):
    path = saved(Image.fromarray(np.full((2, 2), 700, dtype)), tmp_path / "flat.tif", tiffinfo={262: 0})
    assert not pixels(path).any()


def test_palette_becomes_rgb(tmp_path):
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 1]))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    path = saved(image, tmp_path / "palette.png", bits=2)
    assert load_image(path).mode == "RGB"
    np.testing.assert_array_equal(pixels(path), [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]])
    assert bit_depth(path) == 2


def test_transparency_is_composited_on_black(tmp_path):
    half = np.array([[[200, 100, 50, 255], [200, 100, 50, 128], [200, 100, 50, 0]]], np.uint8)
    rgba = saved(Image.fromarray(half), tmp_path / "rgba.png")
    np.testing.assert_allclose(pixels(rgba), [[[200, 100, 50], [100, 50, 25], [0, 0, 0]]], atol=1)
    grey_alpha = saved(Image.merge("LA", Image.fromarray(half).split()[::3]), tmp_path / "la.png")
    assert load_image(grey_alpha).mode == "L"
    np.testing.assert_allclose(pixels(grey_alpha), [[200, 100, 0]], atol=1)


def test_a_transparent_palette_entry_is_black(tmp_path):
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([255, 255, 255, 10, 20, 30])
    path = saved(image, tmp_path / "palette.png", transparency=0)
    np.testing.assert_array_equal(pixels(path), [[[0, 0, 0], [10, 20, 30]]])


def test_the_transparent_grey_of_a_deep_png_is_black_and_sets_no_range(tmp_path):
    deep = np.array([[65535, 1000, 2000, 3000]], np.uint16)
    path = saved(Image.fromarray(deep), tmp_path / "deep.png", transparency=65535)
    np.testing.assert_array_equal(pixels(path), [[0, 0, 128, 255]])


def test_one_bit_becomes_black_and_white(tmp_path):
    path = saved(Image.fromarray(np.array([[True, False]])), tmp_path / "bits.png")
    np.testing.assert_array_equal(pixels(path), [[255, 0]])
    assert bit_depth(path) == 1


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image = load_image(saved(red, tmp_path / f"cmyk{suffix}"))
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[8, 8], [255, 0, 0], atol=4)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    upright = np.zeros((16, 32), np.uint8)
    upright[:, :8] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = Image.fromarray(np.rot90(upright).copy())
    image = load_image(saved(stored, tmp_path / f"turned{suffix}", exif=exif))
    assert image.size == (32, 16)
    np.testing.assert_allclose(np.asarray(image), upright, atol=8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_exif_does_not_cost_the_image(tmp_path, suffix, exif):
    path = saved(Image.fromarray(RAMP), tmp_path / f"odd{suffix}", exif=exif)
    np.testing.assert_allclose(pixels(path), RAMP, atol=12)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation_is_applied(tmp_path, compression, dtype, orientation):
    # How the stored image is to be turned, TIFF 6.0, tag 274.
    turned = {
        1: lambda stored: stored,
        2: np.fliplr,
        3: lambda stored: stored[::-1, ::-1],
        4: np.flipud,
        5: np.transpose,
        6: lambda stored: np.rot90(stored, -1),
        7: lambda stored: stored[::-1, ::-1].T,
        8: np.rot90,
    }[orientation]
    stored = np.arange(17 * 15, dtype=np.uint16).reshape(15, 17)
    stored = (stored * (257 if dtype is np.uint16 else 1)).astype(dtype)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(Image.fromarray(stored), tmp_path / "turned.tif", exif=exif, compression=compression)
    expected = turned(np.rint(stored * (255 / stored.max()) if dtype is np.uint16 else stored))
    np.testing.assert_array_equal(pixels(path), expected)


def test_the_first_frame_of_several_is_taken(tmp_path):
    frames = [Image.new("L", (4, 4), grey) for grey in (10, 200)]
    path = saved(frames[0], tmp_path / "frames.tif", save_all=True, append_images=frames[1:])
    assert (pixels(path) == 10).all()


def test_content_counts_not_the_suffix(tmp_path):
    path = tmp_path / "really.png"
    Image.fromarray(RAMP).save(path, format="BMP")
    np.testing.assert_array_equal(pixels(path), RAMP)
    assert bit_depth(path) == 8


def test_a_suffix_in_capitals_is_known(tmp_path):
    path = tmp_path / "SCAN.PNG"
    Image.fromarray(RAMP).save(path, format="PNG")
    np.testing.assert_array_equal(pixels(path), RAMP)


def test_a_new_format_is_one_row(tmp_path, monkeypatch):
    def read_raw(path):
        image = Image.fromarray(np.frombuffer(path.read_bytes(), "<u2").reshape(2, 2))
        image.info["bits_per_sample"] = 12
        return image

    monkeypatch.setattr(images, "READERS", {**READERS, ".raw": read_raw})
    path = tmp_path / "scan.raw"
    path.write_bytes(np.array([0, 1, 2, 4], "<u2").tobytes())
    np.testing.assert_array_equal(pixels(path), [[0, 64], [128, 255]])
    assert bit_depth(path) == 12


def test_an_unknown_suffix_names_the_choices(tmp_path):
    with pytest.raises(DataError, match=r"unknown image suffix '\.pgn'; did you mean '\.png'") as caught:
        load_image(tmp_path / "scan.pgn")
    assert all(suffix in str(caught.value) for suffix in IMAGE_SUFFIXES)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_text_is_no_image(tmp_path, suffix):
    path = tmp_path / f"note{suffix}"
    path.write_text("patient moved")
    for read in (load_image, bit_depth):
        with pytest.raises(DataError, match=f"note{suffix}: expected the content of .*begins with b'patient '"):
            read(path)


def test_an_empty_file_is_no_image(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png: .*an empty file"):
        load_image(tmp_path / "empty.png")


@pytest.mark.parametrize("suffix", OF_PILLOW)
def test_a_cut_off_file_is_an_error_that_names_it(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = saved(Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)), tmp_path / f"cut{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=f"cut{suffix}: expected"):
        load_image(path)


def test_random_damage_gives_an_image_or_a_data_error_and_nothing_else(tmp_path):
    rng = np.random.default_rng(1)
    refused = 0
    for suffix in OF_PILLOW:
        path = saved(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)), tmp_path / f"whole{suffix}")
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            at = rng.integers(0, min(len(damaged), 400), 8)
            damaged[at] = rng.integers(0, 256, 8)
            path.write_bytes(damaged.tobytes())
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert load_image(path).mode in ("L", "RGB")
            except DataError:
                refused += 1
    assert refused > 20


def test_a_missing_file_and_a_folder_are_data_errors(tmp_path):
    (tmp_path / "folder.png").mkdir()
    for name in ("absent.png", "folder.png"):
        with pytest.raises(DataError, match=f"cannot read .*{name}: .*correct the path"):
            load_image(tmp_path / name)


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("side", [10_000, 14_000])
def test_a_decompression_bomb_is_refused_whatever_the_warning_filter(tmp_path, action, side):
    path = saved(Image.new("1", (side, side)), tmp_path / "bomb.png")
    path.write_bytes(path.read_bytes()[:500])  # decoding would stumble over the cut
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        for read in (load_image, bit_depth):
            with pytest.raises(DataError, match=r"bomb\.png: expected at most 89,478,485 pixels"):
                read(path)


@pytest.mark.parametrize("border", [np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:]])
def test_a_mark_at_the_border_survives_pad_and_stretch_and_is_cut_by_crop(border):
    marked = np.zeros((80, 100), np.uint8)
    marked[border] = 255
    pad, stretch, crop = (int(to_input(Image.fromarray(marked), 64, fit).max()) for fit in ("pad", "stretch", "crop"))
    assert min(pad, stretch) > 200 > crop == 0
    thread = to_input(Image.new("L", (1, 50), 255), 64, "pad")
    assert np.flatnonzero(thread.any(axis=(0, 1))).tolist() == [31]


def test_real_images_are_read(shared):
    for path in sorted((shared / "data" / "chest_xray").glob("*/*/*.jpg"))[::200]:
        assert load_image(path).mode == "L"
        assert bit_depth(path) == 8
        assert to_input(load_image(path), 224, "crop").std() > 10
