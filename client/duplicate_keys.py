"""Keyed hashes of a hospital's images, by which a coordinator counts what two hospitals have both, and learns nothing else of it.

Every image has one hash of its pixels and `PER_IMAGE` of what it looks like (`client/likeness.py`), so that a copy that was
saved again, made smaller, brightened, turned, mirrored or inverted shares one at least. All are HMAC-SHA256, cut to 64
bits, under a key made of the hospitals' common secret, which the coordinator has not, and of the job, so that hashes of two
jobs have nothing in common.

No hash is sent twice: repeated ones are replaced by numbers that look the same, so that nothing is told of duplicates
inside a hospital. The rows are in the order of their hashes, which says nothing.

Letters: I images, H hashes of a look.
"""

import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.device import decoding_threads
from client.duplicates import thumbnail
from client.images import load_pictures
from client.likeness import SIDE_PX, canonical_codes, frequencies
from client.progress import progress
from client.slices import AS_IT_IS, Reading
from common.artifact import write_atomically
from common.errors import ConfigError, DataError
from common.wire import HASHES_PER_IMAGE

COLLISIONS = "collisions.json"
LEAST_SECRET_BYTES = 16
_WEAK_BITS = HASHES_PER_IMAGE.bit_length() - 1
_LABEL = b"consilium duplicates 1\n"

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class KeyedHashes:
    """exact (I,) and near (I, H) uint64, all different; same[row]: which images, by position, a row stands for."""

    exact: Hashes
    near: Hashes
    same: Sequence[Sequence[int]]


def read_secret(path: Path) -> bytes:
    """The common secret of the hospitals: the content of the file without white space around it.

    Raises:
        ConfigError: the file cannot be read, or is too short to be a secret.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"consortium_secret: cannot read {path}: {error.strerror}") from error
    if len(secret) < LEAST_SECRET_BYTES:
        raise ConfigError(
            f"consortium_secret: {path}: expected {LEAST_SECRET_BYTES} bytes or more, got {len(secret)}; make one with "
            "`openssl rand -hex 32`, and give it to the other hospitals, not to the coordinator"
        )
    return secret


def keyed_hashes(paths: Sequence[Path], secret: bytes, job_id: str, reading: Reading = AS_IT_IS) -> KeyedHashes:
    """The keyed hashes of images for one job; the same images, secret and job give the same bytes.

    reading: how the job looks at them; what it looks at is hashed. Of several slices the pixels of all are in one hash, and
    what they look like is the mean of their thumbnails. Pictures are decoded a few at a time, and only their hashes are kept.

    Raises:
        DataError: an image cannot be read.
    """
    key = hmac.digest(secret, _LABEL + job_id.encode(), "sha256")
    looked = list(_looks(paths, reading))
    exact = [_hash(key, b"pixels", digest) for digest, _ in looked]
    near = [[_hash(key, b"looks", code.to_bytes(8, "big")) for code in codes] if codes else [] for _, codes in looked]
    order = sorted(range(len(paths)), key=lambda row: (exact[row], row))
    seen: set[int] = set()
    fresh = _fillers(key, looked, seen)
    rows_exact = [fresh((row, 0), exact[row]) for row in order]
    rows_near = [
        [fresh((row, 1 + at), near[row][at] if near[row] else None) for at in range(HASHES_PER_IMAGE)] for row in order
    ]
    return KeyedHashes(
        np.array(rows_exact, np.uint64),
        np.array(rows_near, np.uint64).reshape(len(order), HASHES_PER_IMAGE),
        _standing_for(order, exact, near),
    )


def keep_collisions(folder: Path, exact: Iterable[str], near: Iterable[str]) -> None:
    """Keep, for the hospital's own people, which files (sha256) other hospitals have too."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o700)
    content = {"exact": sorted(set(exact)), "near": sorted(set(near))}
    write_atomically(folder / COLLISIONS, json.dumps(content, indent=1), mode=0o600)


def kept_collisions(cache: Path, hospital: str, job_id: str) -> dict[str, set[str]] | None:
    """The files (sha256, 64 hex digits) that another hospital has too, `exact` and `near`; None where that was not asked.

    Raises:
        DataError: the file is damaged.
    """
    path = cache / f"state-{hospital}-{job_id[:16]}" / COLLISIONS
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {kind: {str(one) for one in content[kind]} for kind in ("exact", "near")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it, and run the job again") from error


def _looks(paths: Sequence[Path], reading: Reading) -> Iterator[tuple[bytes, list[int]]]:
    """The digest of each image's pixels, and its codes; a blank image has none."""

    def look(path: Path) -> tuple[bytes, list[int]]:
        digest, total = hashlib.sha256(), np.zeros(SIDE_PX**2, np.float32)
        for picture in load_pictures(path, reading):
            digest.update(f"{picture.mode} {picture.width}x{picture.height}\n".encode() + picture.tobytes())
            total += thumbnail(picture)
        low = frequencies(total[None])
        return digest.digest(), canonical_codes(low, _WEAK_BITS)[0].tolist() if low.any() else []

    with ThreadPoolExecutor(decoding_threads()) as pool, progress("images hashed", len(paths)) as advance:
        for found in pool.map(look, paths):
            yield found
            advance(1)


def _fillers(
    key: bytes, looked: Sequence[tuple[bytes, list[int]]], seen: set[int]
) -> Callable[[tuple[int, int], int | None], int]:
    """Gives a hash back the first time it comes, and otherwise a number that nobody without the key can tell from one."""

    def fresh(place: tuple[int, int], value: int | None) -> int:
        again = 0
        while value is None or value in seen:
            about = f"{place[0]} {place[1]} {again}".encode()
            value, again = _hash(key, b"filler", looked[place[0]][0] + about), again + 1
        seen.add(value)
        return value

    return fresh


def _standing_for(order: Sequence[int], exact: Sequence[int], near: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each row the images that share a hash with its own: it stands for them all, since no hash was sent twice."""
    having: defaultdict[int, list[int]] = defaultdict(list)
    for image, hashes in enumerate(near):
        for value in {exact[image], *hashes}:
            having[value].append(image)
    return [sorted({image for value in {exact[row], *near[row]} for image in having[value]}) for row in order]


def _hash(key: bytes, kind: bytes, value: bytes) -> int:
    return int.from_bytes(hmac.digest(key, kind + b"\n" + value, "sha256")[:8], "big")
