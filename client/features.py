"""Images to features: each image passes the frozen backbone once, then the cache answers.

Letters: N images, V views, D features.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.augmentation import upright, view_of
from client.device import decoding_threads
from client.extractor import Extractor, Pixels
from client.feature_cache import FeatureCache, Key
from client.feature_space import columns_of
from client.file_digest import digest_of
from client.forward import Forward
from client.images import load_pictures, to_input
from client.patients import modality_of
from client.progress import progress
from client.slices import Reading, reading_of, require_modality
from common.errors import DataError
from common.head import Float32
from common.job import Job

log = logging.getLogger(__name__)

_BATCHES_AHEAD = 3
_BATCHES_BEGUN = 2
"""Batches that the backbone has at once: while one is stored, it has the next."""
_UNREADABLE = b""
SLICES_IF_ALL = 64
"""Slices that a study is taken to have where a job looks at all, when it is decided how many are decoded ahead."""


@dataclass(frozen=True)
class Extraction:
    """vectors: one (V, D) float32 for each image asked for, None for one that cannot be read. digests: sha256 of each file.

    decoded: images that were decoded; cached: images whose every view came from the cache.
    """

    vectors: list[Float32 | None]
    digests: list[bytes]
    decoded: int
    cached: int


def extract(
    images: Sequence[tuple[Path, Sequence[int]]],
    extractor: Extractor,
    cache: FeatureCache,
    job: Job,
    skip_unreadable: bool = False,
) -> Extraction:
    """Features of images, each given with its views, from the cache or from the backbone.

    Raises:
        DataError: an image cannot be read (all of them are named), unless `skip_unreadable`.
        MemoryError: not even one image fits into the memory of the device.
    """
    columns = columns_of(job)
    with ThreadPoolExecutor(decoding_threads()) as pool:
        digests = list(pool.map(_digest, [path for path, _ in images]))
        wanted = [[(digest, view) for view in views] for digest, (_, views) in zip(digests, images, strict=True)]
        found = cache.get((key for keys in wanted for key in keys), columns)
        cached = sum(all(key in found for key in keys) for keys in wanted)
        missing = {
            key: path
            for keys, (path, _) in zip(wanted, images, strict=True)
            for key in keys
            if key not in found and key[0] != _UNREADABLE
        }
        problems = {_UNREADABLE: "it cannot be opened"}
        known = {
            digest: path for digest, keys, (path, _) in zip(digests, wanted, images, strict=True) if keys[0] in found
        }
        # What is cached may have been read for a job of another modality.
        problems.update(_of_another_modality(known, reading_of(job), pool))
        decoded: set[bytes] = set()
        for keys, features, unreadable in _passed(missing, extractor, job, pool):
            problems.update(unreadable)
            vectors = averaged(keys, features)
            cache.put(vectors)
            found.update({key: vector[columns] for key, vector in vectors.items()})
            decoded.update(digest for digest, _ in keys)
    # By digest, because several files may have the same damaged content: all of them are named.
    unreadable_files = {
        path: problems[digest] for digest, (path, _) in zip(digests, images, strict=True) if digest in problems
    }
    if unreadable_files and not skip_unreadable:
        raise DataError(_unreadable(unreadable_files))
    return Extraction(
        [
            np.stack([found[key] for key in keys])
            if digest not in problems and all(key in found for key in keys)
            else None
            for digest, keys in zip(digests, wanted, strict=True)
        ],
        digests,
        len(decoded),
        cached,
    )


def _passed(
    missing: Mapping[Key, Path], extractor: Extractor, job: Job, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[Key], Float32, dict[bytes, str]]]:
    """Images through the backbone, batch by batch: their keys, features (N, D) of all stages, and undecodable files with why."""
    if not missing:
        return
    begun: deque[tuple[list[Key], Callable[[], Float32], dict[bytes, str]]] = deque()
    start, images = time.perf_counter(), 0
    with progress("images through the backbone", len(missing)) as advance, Forward(extractor, len(missing)) as forward:
        for keys, pixels, unreadable in decoded_batches(missing, job, forward.images_at_once, pool):
            begun.append((keys, forward.begin(pixels) if keys else _nothing, unreadable))
            images += len(keys)
            while len(begun) >= _BATCHES_BEGUN:
                yield _waited(begun, advance)
        while begun:
            yield _waited(begun, advance)
    rate = images / max(time.perf_counter() - start, 1e-9)
    log.info("%d images through %s, %.0f a second: %s", images, extractor.backbone.name, rate, forward.words)


def _nothing() -> Float32:
    return np.zeros((0, 0), np.float32)


def _waited(
    begun: deque[tuple[list[Key], Callable[[], Float32], dict[bytes, str]]], advance: Callable[[int], None]
) -> tuple[list[Key], Float32, dict[bytes, str]]:
    keys, features, unreadable = begun.popleft()
    found = keys, features(), unreadable
    advance(len(set(keys)) + len(unreadable))
    return found


def averaged(keys: Sequence[Key], features: Float32) -> dict[Key, Float32]:
    """The mean of the rows (N, D) of each key: a study of several slices is one example. One row stays as it is, to the bit."""
    rows: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return {
        key: features[some[0]] if len(some) == 1 else features[some].mean(axis=0, dtype=np.float64).astype(np.float32)
        for key, some in rows.items()
    }


def _of_another_modality(known: Mapping[bytes, Path], reading: Reading, pool: ThreadPoolExecutor) -> dict[bytes, str]:
    """Why a DICOM file of another modality than the job's is refused, by its digest."""
    if not reading.codes:
        return {}

    def problem(item: tuple[bytes, Path]) -> tuple[bytes, str] | None:
        try:
            require_modality(item[1], modality_of(item[1]), reading)
        except DataError as error:
            return item[0], str(error)
        return None

    return dict(found for found in pool.map(problem, known.items()) if found)


def _digest(path: Path) -> bytes:
    """The digest, `_UNREADABLE` if it cannot be opened."""
    try:
        return digest_of(path)
    except OSError:
        return _UNREADABLE


def decoded_batches(
    missing: Mapping[Key, Path], job: Job, batch_size: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[Key], Pixels, dict[bytes, str]]]:
    """Decoded batches, a few decoded ahead: their keys, their pixels (N, 3, H, W), and undecodable files with why.

    A view and its mirror image are decoded once. A key is there once for each slice that the job looks at.
    """
    slices = reading_of(job).slices or SLICES_IF_ALL
    waiting: deque[tuple[list[Key], Future[Pixels]]] = deque()
    together: dict[tuple[bytes, int], list[Key]] = {}
    for digest, view in missing:
        together.setdefault((digest, upright(view)), []).append((digest, view))
    todo = iter(together.items())
    while True:
        while sum(len(keys) * slices for keys, _ in waiting) < _BATCHES_AHEAD * batch_size and (
            item := next(todo, None)
        ):
            base, keys = item
            waiting.append((keys, pool.submit(decode, missing[keys[0]], base, job)))
        if not waiting:
            return
        done: list[Key] = []
        pixels: list[Pixels] = []
        problems: dict[bytes, str] = {}
        while waiting and (not done or len(done) + len(waiting[0][0]) * slices <= batch_size):
            keys, future = waiting.popleft()
            try:
                decoded = future.result()
            except DataError as error:
                problems[keys[0][0]] = str(error)
                continue
            done += [key for key in keys for _ in decoded]
            pixels += [decoded if view >= 0 else decoded[..., ::-1] for _, view in keys]
        yield done, np.concatenate(pixels) if pixels else np.zeros((0, 3, 1, 1), np.uint8), problems


def decode(path: Path, key: Key, job: Job) -> Pixels:
    """The network input (n, 3, H, W) uint8 of one view of an image file: one picture, or the slices that the job looks at.

    Raises:
        DataError: it cannot be read.
    """
    pictures = load_pictures(path, reading_of(job))
    return np.stack([to_input(view_of(picture, *key), job.size_px, job.image.fit) for picture in pictures])


def _unreadable(problems: dict[Path, str]) -> str:
    shown = "\n".join(f"  - {path}: {problem}" for path, problem in list(problems.items())[:10])
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    return (
        f"{len(problems)} image(s) cannot be read:\n{shown}{more}\n"
        "repair or remove them (consilium check DIR lists them all), or set data: {skip_unreadable: true} in the hospital "
        "file to go on without them"
    )
