"""What enters the tuned part of the backbone: the frozen part before it runs once for an image, then the disk answers.

The activation at the cut is rounded to float16 whether it comes from the disk or not, and on a CPU the frozen part always gets
batches of one size: torch adds in another order in batches of another size. So a full disk changes no bit of any result.

Letters: N images, E features of the stages before the cut, (3, H, W) images.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.device import decoding_threads
from client.extractor import Extractor, Pixels
from client.feature_cache import FeatureCache, Key
from client.feature_space import extraction_space
from client.features import decoded_batches
from client.progress import progress
from common.errors import DataError
from common.head import Float32
from common.job import Job

log = logging.getLogger(__name__)

Wanted = tuple[Key, Path]
"""An image file with its sha256, and one view of it."""

Row = npt.NDArray[Any]
"""Of one image: with cut 0 its pixels (3, H, W) uint8; else what is stored, float32: E features, then pairs of float16."""

_DISK_PAGE = 4096
_AT_ONCE_ON_CPU = 8
_FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Entering:
    """activation (N, ...) float16 at the cut, with cut 0 pixels (N, 3, H, W) uint8; early (N, E) float32."""

    activation: npt.NDArray[Any]
    early: Float32

    def __len__(self) -> int:
        return len(self.early)

    def __getitem__(self, rows: slice) -> "Entering":
        return Entering(self.activation[rows], self.early[rows])


class Activations:
    """What enters the block at a cut, and the job's features of the stages before it, for views of images.

    One SQLite file per extraction space, cut and features before it, of at most `budget_bytes`; what it has no room for is
    computed each time. With cut 0 the image itself enters: it is decoded each time, and there is no file.
    """

    def __init__(self, job: Job, extractor: Extractor, cut: int, cache_dir: Path, budget_bytes: int) -> None:
        backbone = extractor.backbone
        self.early = tuple(block for block in job.feature_blocks if backbone.blocks.index(block.stage) < cut)
        self._width = sum(block.stop - block.start for block in self.early)
        self._job, self._extractor, self._cut = job, extractor, cut
        self._cache_dir, self._budget_bytes = cache_dir, budget_bytes
        self._writing = cut > 0
        with torch.inference_mode():
            image = torch.zeros(1, 3, job.size_px, job.size_px, device=extractor.device)
            self._shape = tuple(backbone.front(image, cut, ())[0].shape[1:])
        self._size = int(np.prod(self._shape))
        content = {
            "space": extraction_space(job, backbone.digest),
            "cut": [cut, backbone.blocks[cut]],
            "blocks": [[block.stage, block.pool] for block in self.early],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self._space = f"{digest}-{extractor.precision}"

    def batches(self, wanted: Sequence[Wanted], sizes: Sequence[int], title: str) -> Generator[Entering, None, None]:
        """What enters for the wanted images, in order, in batches of these sizes; the next ones are decoded meanwhile.

        title: of the progress bar. Close the iterator if it is not used up.

        Raises:
            DataError: an image cannot be read, or the cache cannot be used.
            MemoryError: not even one image fits into the memory of the device.
        """
        bounds = pairwise(accumulate(sizes, initial=0))
        with ThreadPoolExecutor(decoding_threads()) as pool, progress(title, len(wanted)) as advance:
            if self._cut == 0:
                for rows in self._in_order(wanted, bounds, None, pool):
                    yield Entering(np.stack(rows), np.zeros((len(rows), 0), np.float32))
                    advance(len(rows))
                return
            with self._open() as cache:
                for rows in self._in_order(wanted, bounds, cache, pool):
                    yield self._unpacked(np.stack(rows))
                    advance(len(rows))

    def on_device(self, entering: Entering) -> tuple[Tensor, Tensor]:
        """activation, with cut 0 images in [0, 1], and early, both float32 on the device of the network."""
        device = self._extractor.device
        early = torch.from_numpy(entering.early).to(device)
        if self._cut == 0:
            return self._extractor.to_images(entering.activation), early
        return torch.from_numpy(entering.activation).to(device).float(), early

    def _open(self) -> FeatureCache:
        return FeatureCache(self._cache_dir, self._space, self._width + (self._size + 1) // 2, "activations")

    def _in_order(
        self,
        wanted: Sequence[Wanted],
        bounds: Iterator[tuple[int, int]],
        cache: FeatureCache | None,
        pool: ThreadPoolExecutor,
    ) -> Iterator[list[Row]]:
        """The rows of each batch; those not on the disk are computed in the order in which they are wanted."""
        known = cache.known(key for key, _ in wanted) if cache else set()
        to_come = Counter(key for key, _ in wanted)
        computed = self._computed({key: path for key, path in wanted if key not in known}, cache, pool)
        held: dict[Key, Row] = {}
        for start, stop in bounds:
            batch = wanted[start:stop]
            while any(key not in known and key not in held for key, _ in batch):
                held.update(next(computed))
            stored = cache.get(key for key, _ in batch if key not in held) if cache else {}
            lost = {key: path for key, path in batch if key not in held and key not in stored}
            found: dict[Key, Row] = {**held, **stored}
            for rows in self._computed(lost, cache, pool):
                found.update(rows)
            yield [found[key] for key, _ in batch]
            to_come.subtract(key for key, _ in batch)
            held = {key: row for key, row in held.items() if to_come[key] > 0}

    def _computed(
        self, missing: Mapping[Key, Path], cache: FeatureCache | None, pool: ThreadPoolExecutor
    ) -> Iterator[dict[Key, Row]]:
        """The rows of images that are not on the disk, some at a time; they are kept there while there is room."""
        for keys, pixels, unreadable in decoded_batches(missing, self._job, self._extractor.batch_size, pool):
            if unreadable:
                raise DataError(
                    f"{len(unreadable)} image(s) could be read before and cannot be read now:\n"
                    + "\n".join(f"  - {problem}" for problem in unreadable.values())
                )
            if cache is None:
                yield dict(zip(keys, pixels, strict=True))
                continue
            rows: dict[Key, Row] = dict(zip(keys, self._packed(pixels), strict=True))
            self._keep(rows, cache)
            yield rows

    def _keep(self, rows: Mapping[Key, Row], cache: FeatureCache) -> None:
        if not self._writing:
            return
        more = sum(row.nbytes + _DISK_PAGE for row in rows.values())
        if cache.nbytes + more > self._budget_bytes:
            self._writing = False
            log.info(
                "the disk space for activations (%d MB) is used up: those of further images are computed each time",
                self._budget_bytes // 10**6,
            )
            return
        cache.put(dict(rows))

    def _packed(self, pixels: Pixels) -> Float32:
        """Rows of pixels (N, 3, H, W), on a CPU in batches filled up to one size."""
        most, fill = self._extractor.batch_size, self._extractor.device.type == "cpu"
        at_once = min(_AT_ONCE_ON_CPU, most) if fill else most
        rows: list[Float32] = []
        for start in range(0, len(pixels), at_once):
            some = pixels[start : start + at_once]
            if fill:
                some = np.concatenate([some, np.repeat(some[-1:], at_once - len(some), 0)])
            rows += self._extractor.batches(some, self._front)
        return np.concatenate(rows)[: len(pixels)]

    def _front(self, images: Tensor) -> Float32:
        """Rows (N, E + half the size of an activation, rounded up) of images on the device."""
        with torch.inference_mode():
            activation, early = self._extractor.backbone.front(images, self._cut, self.early)
            rounded = activation.float().clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half().flatten(1)
            halves = np.zeros((len(images), self._size + self._size % 2), np.float16)
            halves[:, : self._size] = rounded.cpu().numpy()
            return np.concatenate([early.float().cpu().numpy(), halves.view(np.float32)], 1)

    def _unpacked(self, rows: Float32) -> Entering:
        halves = np.ascontiguousarray(rows[:, self._width :]).view(np.float16)[:, : self._size]
        return Entering(
            np.ascontiguousarray(halves).reshape(len(rows), *self._shape), np.ascontiguousarray(rows[:, : self._width])
        )
