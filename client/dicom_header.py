"""Opening a DICOM file without trusting it. Nothing of a file's content gets into a message, a warning or a log.

Source: DICOM PS3.10 section 7 (the file), PS3.5 annex A (transfer syntaxes).
"""

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common.errors import DataError

_MAGIC_AT, _MAGIC = 128, b"DICM"
_MOST_INFLATED = 2**30
_PIECE = 2**20
_PIXELS = frozenset({"PixelData", "FloatPixelData", "DoubleFloatPixelData"})


def has_magic(path: Path) -> bool:
    """Whether the content is a DICOM file: DICM after a preamble of 128 bytes. False for what cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAGIC_AT + 4)[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False


def read_header(path: Path, up_to: str | None = None) -> Dataset:
    """The data set of a file without its pixels; with `up_to` (a keyword) only as far as that element.

    Raises:
        DataError: it cannot be read or is no DICOM file.
    """
    last = Tag(up_to) if up_to else None
    with refusing(path), _opened(path) as file:
        return pydicom.filereader.read_partial(
            file,  # type: ignore[arg-type]
            stop_when=lambda tag, vr, length: tag > last if last is not None else _is_pixels(tag),  # noqa: ARG005
        )


def read_whole(path: Path) -> Dataset:
    """The data set of a file with its pixels, undecoded.

    Raises:
        DataError: as `read_header`.
    """
    with refusing(path), _opened(path) as file:
        return pydicom.dcmread(file)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file in the body becomes a `DataError` that repeats nothing of the file.

    pydicom and the decoders raise nearly any type, with values of elements in the text, and warn with them, too.
    """
    _quiet()
    try:
        yield
    except (DataError, MemoryError):
        raise
    except OSError as error:
        if error.errno is None:
            raise _damaged(path, error) from None
        raise DataError(f"cannot read {path}: {error.strerror}; correct the path or restore the file") from error
    except Exception as error:
        # from None: the chain would carry the text on into a log.
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: expected a whole DICOM image, found a damaged or incomplete one ({type(error).__name__}); "
        "export it again, or take it out of the data"
    )


def _quiet() -> None:
    """Values of elements in pydicom's warnings and log would be a patient's."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    for name in ("pydicom", "pylibjpeg", "openjpeg"):
        logger = logging.getLogger(name)
        # Setting a level empties the caches of all loggers: not once for each file.
        if logger.level <= logging.CRITICAL:
            logger.setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=rf"{re.escape(name)}(\.|$)")


class _Within:
    """A file that never makes room for more bytes than it has: a length in a damaged file can say 4 GB."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size is None or size < 0 else min(size, left))


@contextmanager
def _opened(path: Path) -> Iterator[_Within]:
    with path.open("rb") as file:
        start = file.read(_MAGIC_AT + 4)
        if start[_MAGIC_AT:] != _MAGIC:
            found = f"a file that begins with {start[:8]!r}" if start else "an empty file"
            raise DataError(
                f"{path}: expected the content of one of DICOM files (DICM after 128 bytes), found {found}; "
                "export the image again as a DICOM file, or take it out of the data"
            )
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        _refuse_bomb(path, file)
        file.seek(0)
        yield _Within(file, size)


def _refuse_bomb(path: Path, file: BinaryIO) -> None:
    """Refuse a deflated data set that would fill the memory; pydicom inflates it in one go."""
    start = file.read(2**14)
    if DeflatedExplicitVRLittleEndian.encode() not in start[: 2**12]:
        return
    group_length = start.find(struct.pack("<HH2sHI", 2, 0, b"UL", 4, 0)[:8], _MAGIC_AT + 4)
    if group_length < 0:
        raise DataError(f"{path}: expected the length of its meta information, found none; export it again")
    (length,) = struct.unpack_from("<I", start, group_length + 8)
    file.seek(group_length + 12 + length)
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while piece := file.read(_PIECE):
        while piece:
            inflated += len(inflater.decompress(piece, _PIECE))
            piece = inflater.unconsumed_tail
            if inflated > _MOST_INFLATED:
                raise DataError(
                    f"{path}: expected at most {_MOST_INFLATED:,} bytes once inflated, found more; take it out of the data"
                )


def _is_pixels(tag: Any) -> bool:
    return pydicom.datadict.keyword_for_tag(tag) in _PIXELS
