"""Images that are there twice: as the same file, or as nearly the same picture.

Nearly the same means two things: the 64-bit perceptual hashes (pHash: signs of the 8 x 8 lowest frequencies of a 32 x 32
thumbnail against their median) differ in at most `NEAR_BITS` bits, which is quick to compare, and the thumbnails themselves
correlate by at least `NEAR_CORRELATION`: films of two children in one position often share the hash, not the thumbnail.
A picture saved again, resized, brightened or compressed is found; crops, rotations and mirror images are not.
"""

from collections import defaultdict
from collections.abc import Sequence

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from common.head import Float32

NEAR_BITS = 4
NEAR_CORRELATION = 0.985
_SIDE_PX = 32
_BLOCK, _WIDE = 512, 1024


def perceptual_hash(image: Image.Image) -> int:
    """The 64-bit pHash of an image, in [0, 2**64)."""
    bits = imagehash.phash(image).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(image: Image.Image) -> Float32:
    """The grey 32 x 32 thumbnail as a vector (1024,) of mean 0 and length 1; all 0 for a blank image."""
    small = image.convert("L").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    values = np.asarray(small, np.float32).ravel()
    values = values - values.mean()
    length = float(np.linalg.norm(values))
    return np.asarray(values / length if length > 0 else values, np.float32)


def alike(one: Float32, other: Float32) -> bool:
    """Whether two thumbnails correlate by at least `NEAR_CORRELATION`; blank ones are like nothing."""
    return float(one @ other) >= NEAR_CORRELATION


def same_files(digests: Sequence[str]) -> list[list[int]]:
    """Groups of two or more indices with equal digests, each sorted."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        groups[digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_pairs(hashes: Sequence[int], digests: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs i < j of different files whose hashes differ in at most `NEAR_BITS` bits.

    Compares all pairs, `_BLOCK` by `_WIDE` at a time: 10,000 images take about a second, and the memory is the same for any
    number of them.
    """
    codes: npt.NDArray[np.uint64] = np.array(hashes, np.uint64)
    pairs = []
    for start in range(0, len(codes), _BLOCK):
        for across in range(start, len(codes), _WIDE):
            apart = np.bitwise_count(codes[start : start + _BLOCK, None] ^ codes[None, across : across + _WIDE])
            for row, column in np.argwhere(apart <= NEAR_BITS).tolist():
                one, other = start + row, across + column
                if one < other and digests[one] != digests[other]:
                    pairs.append((one, other))
    return sorted(pairs)
