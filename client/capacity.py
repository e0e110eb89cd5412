"""What this machine can compute: its device, memory and disk, and how fast a backbone is on it."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client.backbone import NETWORKS, Backbone
from client.device import choose_device, decoding_threads
from client.extractor import Extractor
from client.forward import MANY, Forward

_LEAST_S = 1.0
_LEAST_BATCHES = 3


@dataclass(frozen=True)
class Capacity:
    """device: cpu, cuda or mps. gpu_memory_gb: of the GPU. ram_gb, disk_free_gb in GB (1e9 bytes); None where unknown."""

    device: str
    gpu_memory_gb: float | None
    cores: int
    ram_gb: float | None
    disk_free_gb: float | None


def capacity(device: str, folder: Path) -> Capacity:
    """Of this machine with the device of a configuration word, and the disk that `folder` is or will be on.

    Raises:
        ConfigError: no such device here.
    """
    chosen = choose_device(device)
    memory = torch.cuda.get_device_properties(chosen).total_memory / 1e9 if chosen.type == "cuda" else None
    return Capacity(chosen.type, memory, decoding_threads(), _ram_gb(), _disk_free_gb(folder))


def images_per_s(name: str, size_px: int, device: str, seed: int = 0) -> float:
    """Images per second that a backbone turns into features here, from a few random images; decoding is not in it.

    The weights are random: the speed does not depend on them, and none have to be had.

    Raises:
        ConfigError: no such device here.
        MemoryError: not even one image fits.
    """
    row = NETWORKS[name]
    extractor = Extractor(Backbone(row, row.build(), "", name), choose_device(device), size_px)
    with Forward(extractor, MANY) as forward:
        pixels = np.random.default_rng(seed).integers(0, 256, (forward.least_at_once, 3, size_px, size_px), np.uint8)
        forward.begin(pixels)()  # the first pass also allocates memory and chooses algorithms
        seconds: list[float] = []
        while len(seconds) < _LEAST_BATCHES or sum(seconds) < _LEAST_S:
            start = time.perf_counter()
            forward.begin(pixels)()
            seconds.append(time.perf_counter() - start)
    # The quickest batch: another program on the machine can only slow one down.
    return len(pixels) / max(min(seconds), 1e-9)


def _ram_gb() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


def _disk_free_gb(folder: Path) -> float | None:
    there = next((path for path in (folder, *folder.resolve().parents) if path.exists()), None)
    return shutil.disk_usage(there).free / 1e9 if there else None
