"""Pictures that are the same film turned, mirrored or made a negative: sixteen ways, and a code of 63 bits that knows them all.

The code of a picture is the signs of the 8 x 8 lowest frequencies of its 32 x 32 thumbnail, without the constant one.
Turning, mirroring and inverting a picture only exchanges and changes these signs, so the code of every changed picture
follows from the code of one. Signs of frequencies that are near 0 are accidents: `weakest` says which.

Letters: N images, W weak bits.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from common.head import Float32

SIDE_PX = 32
FAR_BITS = 8
"""Codes that differ in more bits are of two pictures."""
LIKE = 0.97
"""Correlation of thumbnails from which a pair is looked at closely."""
SAME_DETAILS = 0.5
"""Correlation of what is left of two pictures without their blurred copies: from here on they are one film."""
_LOW = 8
_DETAIL_PX, _BLUR_PX = 160, 2.0
_BLOCK, _WIDE = 512, 1024

Codes = npt.NDArray[np.uint64]
Signs = npt.NDArray[np.bool_]


class Change(NamedTuple):
    """What was done to a picture: quarter turns to the left, then mirrored left to right, then made a negative."""

    turns: int
    mirrored: bool
    negative: bool

    def of(self, picture: Float32) -> Float32:
        """A picture (H, W), of values around 0, changed so."""
        turned = np.rot90(picture, self.turns)
        mirrored = turned[:, ::-1] if self.mirrored else turned
        return -mirrored if self.negative else mirrored

    @property
    def words(self) -> str:
        """For people."""
        turned = {0: "", 1: "turned by 90 degrees", 2: "upside down", 3: "turned by 270 degrees"}[self.turns]
        said = [turned, "mirrored" if self.mirrored else "", "a negative" if self.negative else ""]
        return ", ".join(word for word in said if word) or "as it is"


CHANGES = tuple(
    Change(turns, mirrored, negative) for negative in (False, True) for mirrored in (False, True) for turns in range(4)
)
"""All sixteen; the first changes nothing."""


def frequencies(thumbnails: Float32) -> Float32:
    """The lowest frequencies (N, 8, 8) float32 of the ranks of thumbnails (N, 1024) float32, the constant one 0.

    Ranks, because no change of brightness, contrast or gamma changes them, and a negative only turns them round.
    Source: Ahmed, Natarajan and Rao 1974, IEEE Trans. Comput. C-23:90, the discrete cosine transform (type II).
    """
    basis = _basis()
    ranks = np.array([_ranks(one) for one in thumbnails], np.float32)
    found = basis @ ranks.reshape(-1, SIDE_PX, SIDE_PX) @ basis.T
    found[:, 0, 0] = 0.0
    return np.asarray(found, np.float32)


def changed(signs: Signs, change: Change) -> Signs:
    """The signs (..., 8, 8) of pictures that were changed."""
    odd = np.arange(_LOW) % 2 == 1
    for _ in range(change.turns):
        signs = np.swapaxes(signs, -1, -2) ^ odd[:, None]  # a turn to the left: transposed, then upside down
    if change.mirrored:
        signs = signs ^ odd[None, :]
    return ~signs if change.negative else signs


def codes(signs: Signs) -> Codes:
    """Signs (..., 8, 8) as codes (...) of 63 bits."""
    flat = signs.reshape(*signs.shape[:-2], _LOW * _LOW).copy()
    flat[..., 0] = False
    packed: Codes = np.packbits(flat, axis=-1).view(">u8")[..., 0].astype(np.uint64)
    return packed


def code_of(thumbnail: Float32) -> int | None:
    """The code of a picture by its thumbnail (1024,) float32; None for a blank one."""
    return int(codes(frequencies(thumbnail[None]) > 0)[0]) if thumbnail.any() else None


def like_pairs(known: Sequence[int | None], thumbnail: Callable[[int], Float32]) -> list[tuple[int, int, Change]]:
    """Pairs i < j of images that are alike once i is changed, and how. Blank ones are like nothing.

    All pairs are compared by their codes (`code_of`), `_BLOCK` by `_WIDE` at a time, in the sixteen ways: 10,000 images take
    a few seconds, and the memory is the same for any number of them. Only of the pairs that are left the thumbnails (1024,) are
    asked for, by position.
    """
    rows = [row for row, code in enumerate(known) if code is not None]
    plain: Codes = np.array([known[row] for row in rows], np.uint64)
    found = []
    for change in CHANGES:
        for start in range(0, len(rows), _BLOCK):
            other = codes(changed(_signs(plain[start : start + _BLOCK]), change))
            for across in range(start, len(rows), _WIDE):
                apart = np.bitwise_count(other[:, None] ^ plain[None, across : across + _WIDE])
                for row, column in np.argwhere(apart <= FAR_BITS).tolist():
                    one, two = rows[start + row], rows[across + column]
                    if one < two and _correlation(thumbnail(one), thumbnail(two), change) >= LIKE:
                        found.append((one, two, change))
    return found


def same_film(one: Image.Image, other: Image.Image, change: Change) -> bool:
    """Whether two pictures have the same details, once the first is changed.

    Chests in one position have the same shadows but not the same edges of ribs and vessels.
    """
    first, second = _details(one), _details(other)
    turned = change.of(first).ravel()
    length = float(np.linalg.norm(turned) * np.linalg.norm(second))
    return bool(length > 0 and float(turned @ second.ravel()) / length >= SAME_DETAILS)


def weakest(low: Float32, number: int) -> npt.NDArray[np.intp]:
    """Which bits of each code are least certain: (N, W) positions among the 64 of `frequencies` (N, 8, 8), the constant aside."""
    sizes = np.abs(low).reshape(len(low), -1).copy()
    sizes[:, 0] = np.inf
    return np.argsort(sizes, axis=1, kind="stable")[:, :number]


def canonical_codes(low: Float32, weak: int) -> Codes:
    """Codes (N, 2**W) that a picture shares with its changed copies: of each guess at the weak bits the least over all changes.

    Two copies of a film that differ in bits that are weak in either share a code at least.
    """
    guesses = np.arange(2**weak)[:, None] >> np.arange(weak) & 1
    result = np.zeros((len(low), len(guesses)), np.uint64)
    for start in range(0, len(low), _BLOCK):
        some = low[start : start + _BLOCK]
        flips = np.zeros((len(some), len(guesses), _LOW * _LOW), bool)
        positions = np.broadcast_to(weakest(some, weak)[:, None], (len(some), len(guesses), weak))
        np.put_along_axis(flips, positions, np.broadcast_to(guesses == 1, positions.shape), axis=2)
        signs = (some > 0)[:, None] ^ flips.reshape(len(some), len(guesses), _LOW, _LOW)
        result[start : start + _BLOCK] = np.min([codes(changed(signs, change)) for change in CHANGES], axis=0)
    return result


def _signs(known: Codes) -> Signs:
    """The signs (N, 8, 8) of codes (N,)."""
    return np.unpackbits(known.astype(">u8")[:, None].view(np.uint8), axis=1).reshape(-1, _LOW, _LOW).astype(bool)


def _ranks(values: Float32) -> Float32:
    """Where each value stands among all, around 0; equal values stand together."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return np.asarray((middle - (len(values) - 1) / 2)[place], np.float32)


def _correlation(one: Float32, other: Float32, change: Change) -> float:
    return float(change.of(one.reshape(SIDE_PX, SIDE_PX)).ravel() @ other)


def _details(picture: Image.Image) -> Float32:
    small = picture.convert("L").resize((_DETAIL_PX, _DETAIL_PX), Image.Resampling.BILINEAR)
    values = np.asarray(small, np.float32) - np.asarray(small.filter(ImageFilter.GaussianBlur(_BLUR_PX)), np.float32)
    return np.asarray(values - values.mean(), np.float32)


@functools.cache
def _basis() -> Float32:
    """The lowest rows (8, 32) of the cosine transform."""
    column, row = np.arange(SIDE_PX), np.arange(_LOW)[:, None]
    return np.cos(np.pi * (2 * column + 1) * row / (2 * SIDE_PX)).astype(np.float32)


def words_of(changes: Sequence[Change]) -> str:
    """Several changes in words."""
    return "; ".join(dict.fromkeys(change.words for change in changes))
