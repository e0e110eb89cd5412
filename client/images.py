"""From an image file to the square network input.

Everything becomes 8-bit grey or RGB on the way: a file is a picture, or has slices of which some are chosen. Decoding and
resizing are Pillow's C code, which releases the GIL, so threads speed both up. JPEG `draft` mode (decode at a reduced size)
is not used: it changes the pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from client.eight_bit import eight_bit_of, turn_upright
from client.slices import AS_IT_IS, MAX_PIXELS, Reading, Slices, require_modality
from common.config_file import unknown
from common.errors import DataError

_CONTENT = ("PNG", "JPEG", "TIFF", "BMP")
_BITS_BY_MODE = {"1": 1, "I": 32, "F": 32}
_TIFF_BITS_PER_SAMPLE = 258

Fit = Literal["crop", "pad", "stretch"]
Reader = Callable[[Path], Image.Image | Slices]


def open_with_pillow(path: Path) -> Image.Image:
    """The first frame of a PNG, JPEG, TIFF or BMP file, header read, pixels not yet decoded.

    The content decides, not the suffix: a JPEG named .png is read.
    """
    image = Image.open(path, formats=_CONTENT)
    # A file with a name may be memory-mapped, and Pillow (seen in 13.0) maps an uncompressed grey TIFF that is stored on its
    # side (orientation 5 to 8) with width and height exchanged: scrambled pixels, no error.
    image.filename = ""
    return image


def open_dicom(path: Path) -> Slices:
    """The frames of a DICOM file; pydicom is imported by whoever has one."""
    from client import dicom_pixels

    return dicom_pixels.open_dicom(path)


def open_nifti(path: Path) -> Slices:
    """The axial slices of a NIfTI volume."""
    from client import nifti

    return nifti.open_nifti(path)


def open_series(path: Path) -> Slices:
    """The slices of a folder that holds one DICOM series."""
    from client import dicom_series

    return dicom_series.open_series(path)


READERS: Mapping[str, Reader] = {
    ".png": open_with_pillow,
    ".jpg": open_with_pillow,
    ".jpeg": open_with_pillow,
    ".tif": open_with_pillow,
    ".tiff": open_with_pillow,
    ".bmp": open_with_pillow,
    ".dcm": open_dicom,
    ".dicom": open_dicom,
    ".nii": open_nifti,
    ".nii.gz": open_nifti,
}
"""Lower-case file suffix to the function that opens such a file as a Pillow image of any mode, or as slices. A format is one row.

A file of another suffix or of none is a DICOM file if its content says so, and a folder is a series of them.

A reader may raise anything; `load_image` turns it into a `DataError`. Pixels may still be undecoded. Where the mode
does not tell how many bits a sample has, the reader sets `image.info["bits_per_sample"]`.
"""

IMAGE_SUFFIXES = tuple(READERS)


def load_image(path: Path) -> Image.Image:
    """Decode an image to 8-bit grey (mode L) or RGB; of what has slices the middle one, with its own window.

    Grey images of more than 8 bits (integers or floats) are scaled so that the least and the greatest pixel value
    become 0 and 255; a constant one becomes 0, and so does a pixel that is not a finite number. Colour of 16 bits per
    channel, and grey with an alpha channel of 16, is reduced to its high byte by Pillow. Transparency is composited on
    black. The EXIF orientation is applied; damaged EXIF is passed over. Of a TIFF file with several frames the first is taken.

    Raises:
        DataError: unknown suffix, no such file, not an image, damaged or cut off, or more than `MAX_PIXELS`.
    """
    with opened(path) as found:
        return next(pictures_of(path, found, AS_IT_IS))


def load_pictures(path: Path, reading: Reading) -> Iterator[Image.Image]:
    """What a job looks at of a file or a series: one picture as `load_image` gives it, or the chosen slices.

    Raises:
        DataError: as `load_image`; or a DICOM file is of another modality than the job.
    """
    with opened(path) as found:
        yield from pictures_of(path, found, reading)


def shown_picture(path: Path, reading: Reading) -> Image.Image:
    """What stands for an image under a heat map: the middle one of the pictures that a job looks at.

    Raises:
        DataError: as `load_pictures`.
    """
    pictures = list(load_pictures(path, reading))
    return pictures[len(pictures) // 2]


def pictures_of(path: Path, found: Image.Image | Slices, reading: Reading) -> Iterator[Image.Image]:
    """The same of what is opened already."""
    if isinstance(found, Slices):
        if found.headers:
            require_modality(path, str(found.headers[0].get("Modality") or ""), reading)
        yield from found.pictures(reading)
        return
    found.load()
    turn_upright(found)
    yield eight_bit_of(found)


def bit_depth(path: Path) -> int:
    """Bits per sample as the file's header says, without decoding (a palette image: bits per index).

    Raises:
        DataError: as `load_image`, except that damage after the header goes unnoticed.
    """
    with opened(path) as image:
        return depth_of(path, image)


def depth_of(path: Path, image: Image.Image | Slices) -> int:
    """The same of what is opened already, and not loaded."""
    if isinstance(image, Slices):
        return image.bits
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


def suffix_of(path: Path) -> str:
    """The suffix by which a reader is found, in lower case: `.nii.gz` is one."""
    name = path.name.lower()
    return next((suffix for suffix in READERS if suffix.count(".") > 1 and name.endswith(suffix)), path.suffix.lower())


def stem_of(path: Path) -> str:
    """The name of a file without its suffix, of a series that of its folder."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix in READERS else path.name


def is_image(path: Path) -> bool:
    """Whether a file can be read by its suffix or, as DICOM, by its content."""
    return suffix_of(path) in READERS or _has_magic(path)


def _has_magic(path: Path) -> bool:
    from client.dicom_header import has_magic

    return has_magic(path)


def _reader_of(path: Path) -> Reader:
    suffix = suffix_of(path)
    if path.is_dir():
        return open_series
    if suffix not in READERS and not _has_magic(path):
        raise DataError(f"{path}: {unknown('image suffix', path.suffix, list(READERS))}")
    return READERS.get(suffix, open_dicom)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image | Slices]:
    """The opened image or slices; whatever goes wrong in opening it or in the body becomes a `DataError`."""
    try:
        found = _reader_of(path)(path)
        with nullcontext(found) if isinstance(found, Slices) else found as image:
            width, height = image.size_px if isinstance(image, Slices) else image.size
            # Pillow only warns up to twice its limit, and a process may have raised the limit or silenced the warning.
            if width * height > MAX_PIXELS:
                raise _too_large(path, f"{width} x {height}")
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
