"""A decoded Pillow image of any mode as 8-bit grey or RGB."""

import logging

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin

log = logging.getLogger(__name__)
_TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


def turn_upright(image: Image.Image) -> None:
    """Apply the EXIF orientation in place; damaged EXIF is passed over."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception as error:  # as many types as on damaged pixels
        log.debug("damaged EXIF passed over: %s", error)


def eight_bit_of(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, as `client.images.load_image` says."""
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
