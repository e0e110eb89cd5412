"""Many images through a frozen backbone, as fast as the device can: which blocks, how many at once, on how many threads.

Chosen automatically (`Forward`), and said in one line of the log:

* Few images: the layers as they are. Making them faster takes half a second.
* Many: its batch normalisations folded, and on a CPU its convolutions joined with what follows (`client/folding.py`). Both are
  tried on a few random images first, and left out where they fail or their features are not those of the plain backbone to
  `TOLERANCE`.
* On a CPU several *lanes* work side by side, each on a few images of its own: so few that the maps between two layers stay in
  the processor's cache, and no lane waits for another, as threads that share each layer do. On a GPU there are two, each with a
  CUDA stream, so that images are copied while others are computed, from pinned memory.

What is chosen depends on the machine and the number of images, never on time measured, so the same images give the same bits.

Letters: N images, D features, (3, H, W) images.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

import numpy as np
import torch

from client.backbone import Backbone
from client.extractor import Extractor, Pixels, out_of_memory
from client.feature_space import all_blocks
from client.folding import folded, joined
from common.head import Float32

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""The greatest relative distance (L2) from the plain backbone in float32, of the features of any stage in any pooling."""

_TOLERANCE_FLOAT16 = 2e-2
"""Where a GPU computes in float16, both have its rounding."""

MANY = 128
"""From so many images on a faster backbone is made: it is worth its half a second from about 50 images of 224 pixels on."""

_AT_ONCE_ON_CPU = 4
"""Images of a lane: measured, two cores: 2 to 4 are quickest for all backbones (`benchmarks/README.md`)."""

_MOST_LANES = 8
"""Python's lock lets one lane at a time choose its next layer; with more cores than lanes, a lane has several threads."""

Ways = tuple[tuple[str, Callable[[Backbone], Backbone]], ...]
_FOLDED: Ways = (("batch norm folded", lambda backbone: backbone.with_blocks(folded)),)
_JOINED: Ways = (
    ("batch norm folded, layers joined", lambda backbone: backbone.with_blocks(folded).with_blocks(joined)),
)

_made: "WeakKeyDictionary[Backbone, tuple[tuple[object, ...], str, Backbone]]" = WeakKeyDictionary()


class Forward:
    """Pixels to the features of all stages, for so many images. Use it as a context manager.

    words: how, for the log. images_at_once: how many are best given at once. least_at_once: how many give each lane work.
    """

    def __init__(self, extractor: Extractor, images: int) -> None:
        self._extractor = extractor
        self._at_once = extractor.batch_size
        self.images_at_once = extractor.batch_size
        self.least_at_once = 1
        self._lanes: ThreadPoolExecutor | None = None
        self._backbone = extractor.backbone
        kind = extractor.device.type
        self.words = f"{kind}, {extractor.precision}, as it is"
        if images <= _AT_ONCE_ON_CPU:
            return
        count, threads = lanes_on(extractor.device)
        if kind == "cpu":
            self._at_once = min(_AT_ONCE_ON_CPU, extractor.batch_size)
            self.images_at_once = max(extractor.batch_size, 2 * count * self._at_once)
        self.least_at_once = count * self._at_once
        self._lanes = open_lanes(extractor.device, count, threads)
        how = "as it is"
        if images >= MANY:
            # In a lane, because weights are packed for the number of threads that packs them.
            how, self._backbone = self._lanes.submit(faster, extractor).result()
        self.words = f"{kind}, {extractor.precision}, {how}, {count} x {self._at_once} images" + (
            f" on {count * threads} threads" if kind == "cpu" else ""
        )

    def begin(self, pixels: Pixels) -> Callable[[], Float32]:
        """Begin with pixels (N, 3, H, W) uint8; what is returned waits for their features (N, D) float32.

        It raises MemoryError if not even one image fits.
        """
        lanes = self._lanes
        if lanes is None:
            return lambda: self._extractor(pixels)
        futures = self._submitted(lanes, pixels)
        return lambda: self._gathered(lanes, pixels, futures)

    def _submitted(self, lanes: ThreadPoolExecutor, pixels: Pixels) -> list["Future[Float32]"]:
        step = self._at_once
        parts = (pixels[start : start + step] for start in range(0, len(pixels), step))
        return [lanes.submit(features_of, self._backbone, self._extractor, part) for part in parts]

    def _gathered(self, lanes: ThreadPoolExecutor, pixels: Pixels, futures: list["Future[Float32]"]) -> Float32:
        while True:
            tried = self._at_once
            try:
                return np.concatenate([future.result() for future in futures])
            except RuntimeError as error:
                for future in futures:
                    future.cancel()
                if not out_of_memory(error):
                    raise
                if tried == 1:
                    raise MemoryError("not even one image fits into the memory of the device") from error
            self._at_once = tried // 2
            log.warning("out of memory: going on with %d images at once", self._at_once)
            futures = self._submitted(lanes, pixels)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lanes is not None:
            self._lanes.shutdown(cancel_futures=True)


def features_of(backbone: Backbone, extractor: Extractor, pixels: Pixels) -> Float32:
    """Features (N, D) float32 of pixels (N, 3, H, W) uint8 by a backbone on the extractor's device."""
    with torch.inference_mode(), torch.autocast(extractor.device.type, enabled=extractor.precision == "float16"):
        found: Float32 = backbone.features(extractor.to_images(pixels), all_blocks(backbone.name)).float().cpu().numpy()
        return found


def faster(extractor: Extractor) -> tuple[str, Backbone]:
    """How the extractor's backbone can be made faster, and the faster one, for inference; it itself if nothing works.

    It is remembered while the backbone lives and its weights stay as they are.
    """
    backbone, size_px = extractor.backbone, extractor.size_px
    tensors = [*backbone.network.parameters(), *backbone.network.buffers()]
    stamp = (extractor.device, size_px, *(tensor._version for tensor in tensors))
    known = _made.get(backbone)
    if known is not None and known[0] == stamp:
        return known[1], known[2]
    how, made = _that_works(extractor, (_JOINED if extractor.device.type == "cpu" else ()) + _FOLDED)
    # Nothing that refers to the key, or it would live for ever.
    if made is not backbone:
        _made[backbone] = (stamp, how, made)
    return how, made


def _that_works(extractor: Extractor, ways: Ways) -> tuple[str, Backbone]:
    """The first way whose features are those of the plain backbone."""
    count = min(_AT_ONCE_ON_CPU, extractor.batch_size)
    pixels = np.random.default_rng(0).integers(
        0, 256, (count, 3, extractor.size_px, extractor.size_px), np.uint8, endpoint=False
    )
    plain = features_of(extractor.backbone, extractor, pixels)
    most = TOLERANCE if extractor.precision == "float32" else _TOLERANCE_FLOAT16
    for how, make in ways:
        try:
            made = make(extractor.backbone)
            found = distance(features_of(made, extractor, pixels), plain, extractor.backbone.name)
        except Exception:
            # Operators that are not public may be gone, or fail in any way; the next way, or none, is only slower.
            log.debug("%s does not work here", how, exc_info=True)
            continue
        if found <= most:
            return how, made
        log.debug("%s is left out: its features are off by %g", how, found)
    return "as it is", extractor.backbone


def distance(found: Float32, plain: Float32, name: str) -> float:
    """The greatest relative distance (L2) of features (N, D) over images, stages and poolings; nan where one is not finite."""
    blocks = [slice(block.start, block.stop) for block in all_blocks(name)]
    off = [np.linalg.norm(found[:, one] - plain[:, one], axis=1) for one in blocks]
    norms = [np.maximum(np.linalg.norm(plain[:, one], axis=1), np.finfo(np.float32).tiny) for one in blocks]
    return float(np.max([distances / norm for distances, norm in zip(off, norms, strict=True)]))


def lanes_on(device: torch.device) -> tuple[int, int]:
    """Lanes, and threads of each. As many threads as PyTorch takes for a layer: OMP_NUM_THREADS, or the cores."""
    if device.type != "cpu":
        return (2, 1) if device.type == "cuda" else (1, 1)
    threads = torch.get_num_threads()
    count = min(threads, _MOST_LANES)
    return count, threads // count


def open_lanes(device: torch.device, count: int, threads: int) -> ThreadPoolExecutor:
    """A pool of lanes: on a CPU each with its own number of PyTorch's threads, on CUDA each with a stream of its own."""
    lanes = ThreadPoolExecutor(count, thread_name_prefix="lane")
    if device.type == "cuda":
        # The weights, and what was folded, are made on another stream.
        torch.cuda.synchronize(device)
    before = torch.get_num_threads()
    all_begun = threading.Barrier(count + 1)

    def begin() -> None:
        if device.type == "cpu":
            torch.set_num_threads(threads)
        elif device.type == "cuda":
            torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        all_begun.wait()

    for _ in range(count):
        lanes.submit(begin)
    all_begun.wait()
    # PyTorch's number is one for each thread that has begun, and one for those that will begin later: this one is put back.
    torch.set_num_threads(before)
    return lanes
