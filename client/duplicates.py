"""Images that are there twice: as the same file, or as nearly the same picture.

Nearly the same means that the 64-bit perceptual hash (pHash: signs of the 8 x 8 lowest frequencies of a 32 x 32 thumbnail against
their median) differs in at most `NEAR_BITS` bits. A picture saved again, resized or slightly compressed keeps its hash to
within two bits.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

NEAR_BITS = 2

_BLOCK = 256


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def perceptual_hash(image: Image.Image) -> int:
    """The 64-bit pHash of an image, in [0, 2**64)."""
    bits = imagehash.phash(image).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
