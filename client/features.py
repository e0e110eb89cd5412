"""Images to features: each image passes the frozen backbone once, then the cache answers.

Letters: N images, V views, D features.
"""

import hashlib
import json
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from client.augmentation import view_of
from client.backbone import Backbone
from client.device import decoding_threads, first_batch_size
from client.feature_cache import FeatureCache, Key
from client.images import load_image, to_input
from client.progress import progress
from common.errors import DataError
from common.head import Float32
from common.job import Job

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
READING_VERSION = 1
"""Raise it when `client/images.py` gives other pixels than before: features cached with the old ones then miss."""
_BATCHES_AHEAD = 3
_UNREADABLE = b""


def fingerprint_of(job: Job, backbone_digest: str) -> str:
    """Name of the feature space (64 hex digits): equal exactly when network, preprocessing and layers are.

    Views are not part of it: they are more examples in the same space.
    """
    space = {
        "backbone": job.backbone.name,
        "digest": backbone_digest,
        "fit": job.image.fit,
        "reading": READING_VERSION,
        "size_px": job.size_px,
        "stages": job.features.stages,
    }
    return hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()


class Extractor:
    """A backbone on its device: pixels to features, in batches that fit into memory."""

    def __init__(self, backbone: Backbone, device: torch.device, size_px: int) -> None:
        self._backbone = backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self.batch_size = first_batch_size(device, size_px)

    @property
    def precision(self) -> str:
        """float32, or float16 where a GPU computes with automatic mixed precision."""
        return "float16" if self._device.type == "cuda" else "float32"

    def __call__(self, pixels: Pixels) -> Float32:
        """Features (N, D) float32 of pixels (N, 3, H, W) uint8.

        Raises:
            MemoryError: not even one image fits.
        """
        done: list[Float32] = []
        start = 0
        while start < len(pixels):
            part = pixels[start : start + self.batch_size]
            try:
                done.append(self._forward(part))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise MemoryError("not even one image fits into the memory of the device") from error
                self.batch_size = max(1, min(self.batch_size, len(part)) // 2)
                log.warning("out of memory: going on with %d images at once", self.batch_size)
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += len(part)
        return np.concatenate(done)

    def _forward(self, pixels: Pixels) -> Float32:
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=self.precision == "float16"):
            batch = torch.from_numpy(pixels).to(self._device, non_blocking=True)
            images = batch.float().div_(255.0).contiguous(memory_format=torch.channels_last)
            features: Float32 = self._backbone(images).float().cpu().numpy()
            return features


_OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether torch found too little memory; CPUs, MPS and the CUDA libraries only say so in words."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY_WORDS)
    )


@dataclass(frozen=True)
class Extraction:
    """vectors: one (V, D) float32 for each image asked for, None for one that cannot be read.

    decoded: images that were decoded; cached: images whose every view came from the cache.
    """

    vectors: list[Float32 | None]
    decoded: int
    cached: int


def extract(
    images: Sequence[tuple[Path, int]],
    extractor: Extractor,
    cache: FeatureCache,
    job: Job,
    skip_unreadable: bool = False,
) -> Extraction:
    """Features of images, each given with its number of views V, from the cache or from the backbone.

    Raises:
        DataError: an image cannot be read (all of them are named), unless `skip_unreadable`.
        MemoryError: not even one image fits into the memory of the device.
    """
    with ThreadPoolExecutor(decoding_threads()) as pool:
        digests = list(pool.map(_digest, [path for path, _ in images]))
        wanted = [[(digest, view) for view in range(views)] for digest, (_, views) in zip(digests, images, strict=True)]
        found = cache.get(key for keys in wanted for key in keys)
        cached = sum(all(key in found for key in keys) for keys in wanted)
        missing = {
            key: path
            for keys, (path, _) in zip(wanted, images, strict=True)
            for key in keys
            if key not in found and key[0] != _UNREADABLE
        }
        problems = {_UNREADABLE: "it cannot be opened"}
        decoded: set[bytes] = set()
        with progress("images through the backbone", len(missing)) as advance:
            for keys, pixels, unreadable in _batches(missing, job, extractor, pool):
                problems.update(unreadable)
                if keys:
                    vectors = dict(zip(keys, extractor(np.stack(pixels)), strict=True))
                    cache.put(vectors)
                    found.update(vectors)
                    decoded.update(digest for digest, _ in keys)
                advance(len(keys) + len(unreadable))
    # By digest, because several files may have the same damaged content: all of them are named.
    unreadable_files = {
        path: problems[digest] for digest, (path, _) in zip(digests, images, strict=True) if digest in problems
    }
    if unreadable_files and not skip_unreadable:
        raise DataError(_unreadable(unreadable_files))
    return Extraction(
        [np.stack([found[key] for key in keys]) if all(key in found for key in keys) else None for keys in wanted],
        len(decoded),
        cached,
    )


def _digest(path: Path) -> bytes:
    """sha256 of a file, `_UNREADABLE` if it cannot be opened."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return _UNREADABLE


def _batches(
    missing: dict[Key, Path], job: Job, extractor: Extractor, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[Key], list[Pixels], dict[bytes, str]]]:
    """Decoded batches, a few decoded ahead: their keys, their pixels, and the digests of undecodable files with why."""
    waiting: deque[tuple[Key, Future[Pixels]]] = deque()
    todo = iter(missing.items())
    while True:
        while len(waiting) < _BATCHES_AHEAD * extractor.batch_size and (item := next(todo, None)) is not None:
            key, path = item
            waiting.append((key, pool.submit(_decode, path, key, job)))
        if not waiting:
            return
        keys: list[Key] = []
        pixels: list[Pixels] = []
        problems: dict[bytes, str] = {}
        for key, future in [waiting.popleft() for _ in range(min(extractor.batch_size, len(waiting)))]:
            try:
                pixels.append(future.result())
                keys.append(key)
            except DataError as error:
                problems[key[0]] = str(error)
        yield keys, pixels, problems


def _decode(path: Path, key: Key, job: Job) -> Pixels:
    return to_input(view_of(load_image(path), *key), job.size_px, job.image.fit)


def _unreadable(problems: dict[Path, str]) -> str:
    shown = "\n".join(f"  - {path}: {problem}" for path, problem in list(problems.items())[:10])
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    return (
        f"{len(problems)} image(s) cannot be read:\n{shown}{more}\n"
        "repair or remove them (consilium check DIR lists them all), or set data: {skip_unreadable: true} in the hospital "
        "file to go on without them"
    )
