"""From an image file to the square network input.

Everything becomes 8-bit grey or RGB on the way. Decoding and resizing are Pillow's C code, which releases the GIL, so
threads speed both up. JPEG `draft` mode (decode at a reduced size) is not used: it changes the pixels.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from common.config_file import unknown
from common.errors import DataError

MAX_PIXELS = 89_478_485
"""Width times height that is still read: Pillow's own limit, above any radiograph or fundus photograph."""

log = logging.getLogger(__name__)
_CONTENT = ("PNG", "JPEG", "TIFF", "BMP")
_BITS_BY_MODE = {"1": 1, "I": 32, "F": 32}
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0

Fit = Literal["crop", "pad", "stretch"]
Reader = Callable[[Path], Image.Image]


def open_with_pillow(path: Path) -> Image.Image:
    """The first frame of a PNG, JPEG, TIFF or BMP file, header read, pixels not yet decoded.

    The content decides, not the suffix: a JPEG named .png is read.
    """
    image = Image.open(path, formats=_CONTENT)
    # A file with a name may be memory-mapped, and Pillow (seen in 13.0) maps an uncompressed grey TIFF that is stored on its
    # side (orientation 5 to 8) with width and height exchanged: scrambled pixels, no error.
    image.filename = ""
    return image


READERS: Mapping[str, Reader] = {
    ".png": open_with_pillow,
    ".jpg": open_with_pillow,
    ".jpeg": open_with_pillow,
    ".tif": open_with_pillow,
    ".tiff": open_with_pillow,
    ".bmp": open_with_pillow,
}
"""Lower-case file suffix to the function that opens such a file as a Pillow image of any mode. A format is one row.

A reader may raise anything; `load_image` turns it into a `DataError`. Pixels may still be undecoded. Where the mode
does not tell how many bits a sample has, the reader sets `image.info["bits_per_sample"]`.
"""

IMAGE_SUFFIXES = tuple(READERS)


def load_image(path: Path) -> Image.Image:
    """Decode an image to 8-bit grey (mode L) or RGB.

    Grey images of more than 8 bits (integers or floats) are scaled so that the least and the greatest pixel value
    become 0 and 255; a constant one becomes 0, and so does a pixel that is not a finite number. Colour of 16 bits per
    channel, and grey with an alpha channel of 16, is reduced to its high byte by Pillow. Transparency is composited on
    black. The EXIF orientation is applied; damaged EXIF is passed over. Of a file with several frames the first is taken.

    Raises:
        DataError: unknown suffix, no such file, not an image, damaged or cut off, or more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        image.load()
        _turn_upright(image)
        return _eight_bit(image)


def bit_depth(path: Path) -> int:
    """Bits per sample as the file's header says, without decoding (a palette image: bits per index).

    Raises:
        DataError: as `load_image`, except that damage after the header goes unnoticed.
    """
    with _opened(path) as image:
        if image.format == "PNG":
            with path.open("rb") as file:
                return file.read(25)[24]  # the bit depth in the IHDR chunk (PNG specification, 11.2.2)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            return int(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (1,))[0])
        by_mode = 16 if image.mode.startswith("I;16") else _BITS_BY_MODE.get(image.mode, 8)
        return int(image.info.get("bits_per_sample", by_mode))


def to_input(image: Image.Image, size_px: int, fit: Fit) -> npt.NDArray[np.uint8]:
    """Make an image square. Bilinear with antialiasing throughout.

    Args:
        image: mode L or RGB.
        size_px: S, the side of the result in pixels.
        fit: `crop` scales the shorter side to 8/7 of S and cuts the centre (224 of 256, the ImageNet recipe); `pad`
            scales the longer side to S and centres it on black; `stretch` changes the aspect.

    Returns:
        (3, S, S) uint8, contiguous; the three channels of a grey image are equal.

    Raises:
        DataError: an unknown `fit`.
    """
    if fit not in _FITS:
        raise DataError(unknown("image fit", fit, list(_FITS)))
    pixels = np.asarray(_FITS[fit](image, size_px))
    if pixels.ndim == 2:
        return np.repeat(pixels[np.newaxis], 3, axis=0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _crop(image: Image.Image, size_px: int) -> Image.Image:
    # Scaled and cut in one step: the same to a fraction of a pixel, and an image of 1 x 100,000 is never blown up.
    side = min(image.size) * size_px / round(size_px * 8 / 7)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size_px, size_px), Image.Resampling.BILINEAR, box=box)


def _pad(image: Image.Image, size_px: int) -> Image.Image:
    scale = size_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new(image.mode, (size_px, size_px))
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(scaled, ((size_px - width) // 2, (size_px - height) // 2))
    return square


def _stretch(image: Image.Image, size_px: int) -> Image.Image:
    return image.resize((size_px, size_px), Image.Resampling.BILINEAR)


_FITS: Mapping[str, Callable[[Image.Image, int], Image.Image]] = {"crop": _crop, "pad": _pad, "stretch": _stretch}


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The opened image; whatever goes wrong in opening it or in the body becomes a `DataError`."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise DataError(f"{path}: {unknown('image suffix', path.suffix, list(READERS))}")
    try:
        with READERS[suffix](path) as image:
            # Pillow only warns up to twice its limit, and a process may have raised the limit or silenced the warning.
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path, f"{image.width} x {image.height}")
            yield image
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, "more") from error
    except UnidentifiedImageError as error:
        raise _not_an_image(path) from error
    except Exception as error:
        # Pillow raises nearly any type on damaged content: OSError, SyntaxError, struct.error, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"cannot read {path}: {error.strerror}; correct the path or restore the file") from error
        raise DataError(
            f"{path}: expected a whole image, found a damaged or incomplete one ({error}); "
            "copy or export it again, or take it out of the data"
        ) from error


def _too_large(path: Path, found: str) -> DataError:
    return DataError(
        f"{path}: expected at most {MAX_PIXELS:,} pixels (width times height), found {found}; "
        "scale the image down, or take it out of the data"
    )


def _not_an_image(path: Path) -> DataError:
    with path.open("rb") as file:
        start = file.read(8)
    found = f"a file that begins with {start!r}" if start else "an empty file"
    return DataError(
        f"{path}: expected the content of one of {', '.join(_CONTENT)}, found {found}; "
        "export the image again, or take it out of the data"
    )


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception as error:  # as many types as on damaged pixels
        log.debug("damaged EXIF passed over: %s", error)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_stretched_to_range(_numbers(image)))
    if image.has_transparency_data:
        colours = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        opacity = image.convert("RGBA").getchannel("A")
        return Image.composite(image.convert(colours), Image.new(colours, image.size), opacity)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _numbers(image: Image.Image) -> npt.NDArray[np.floating]:
    """(H, W) numbers, greater is brighter; NaN where a deep PNG marks its transparent grey value."""
    pixels = np.asarray(image)
    # float32 is exact for 16 bits; 32-bit integers and floats can need more before the offset is taken off.
    values: npt.NDArray[np.floating] = pixels.astype(np.float32 if pixels.dtype.itemsize == 2 else np.float64)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values[values == transparent] = np.nan
    return -values if _white_is_zero(image) else values


def _stretched_to_range(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """(H, W) numbers to (H, W) uint8, least to greatest finite value onto 0 to 255; 0 where there is no number."""
    finite = np.isfinite(values)
    low = values.min(where=finite, initial=np.inf)
    high = values.max(where=finite, initial=-np.inf)
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    # Halved, because the range of extreme floats overflows although its ends do not.
    scaled = (np.where(finite, values, low) / 2 - low / 2) / (high / 2 - low / 2)
    eight_bit: npt.NDArray[np.uint8] = np.rint(scaled * 255).astype(np.uint8)
    return eight_bit


def _white_is_zero(image: Image.Image) -> bool:
    # Pillow inverts such TIFF files itself when they have 8 bits, not when they have more.
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO
