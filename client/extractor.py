"""A backbone on its device: pixels to features, in batches that fit into memory.

Letters: N images, D features.
"""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from client.backbone import Backbone
from client.device import first_batch_size
from client.feature_space import all_blocks
from common.head import Float32

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
Result = TypeVar("Result")


class Extractor:
    """A backbone on its device: pixels to the features of all its stages, in batches that fit into memory."""

    def __init__(self, backbone: Backbone, device: torch.device, size_px: int) -> None:
        self.backbone = backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.size_px = device, size_px
        self.batch_size = first_batch_size(device, size_px)

    @property
    def precision(self) -> str:
        """float32, or float16 where a GPU computes with automatic mixed precision."""
        return "float16" if self.device.type == "cuda" else "float32"

    def __call__(self, pixels: Pixels) -> Float32:
        """Features (N, D) float32 of pixels (N, 3, H, W) uint8: all stages, all poolings.

        Raises:
            MemoryError: not even one image fits.
        """
        return np.concatenate(list(self.batches(pixels, self._forward)))

    def batches(self, pixels: Pixels, function: Callable[[Tensor], Result]) -> Iterator[Result]:
        """`function` of images (n, 3, H, W) float in [0, 1] on the device, batch by batch, in batches that fit.

        Raises:
            MemoryError: not even one image fits.
        """
        start = 0
        while start < len(pixels):
            part = pixels[start : start + self.batch_size]
            try:
                with torch.autocast(self.device.type, enabled=self.precision == "float16"):
                    done = function(self.to_images(part))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve(len(part), error)
                continue
            yield done
            start += len(part)

    def to_images(self, pixels: Pixels) -> Tensor:
        """Pixels (N, 3, H, W) uint8 as images in [0, 1] on the device."""
        batch = torch.from_numpy(pixels)
        # Only from pinned memory does a GPU copy while it computes.
        batch = batch.pin_memory() if self.device.type == "cuda" else batch
        batch = batch.to(self.device, non_blocking=True)
        return batch.float().div_(255.0).contiguous(memory_format=torch.channels_last)

    def _forward(self, images: Tensor) -> Float32:
        with torch.inference_mode():
            features: Float32 = self.backbone.features(images, all_blocks(self.backbone.name)).float().cpu().numpy()
            return features

    def _halve(self, tried: int, error: RuntimeError) -> None:
        if self.batch_size == 1:
            raise MemoryError("not even one image fits into the memory of the device") from error
        self.batch_size = max(1, min(self.batch_size, tried) // 2)
        log.warning("out of memory: going on with %d images at once", self.batch_size)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


_OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether torch found too little memory; CPUs, MPS and the CUDA libraries only say so in words."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY_WORDS)
    )
