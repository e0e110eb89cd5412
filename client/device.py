"""Which device computes, and how much it takes at once."""

import os

import torch

from common.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(word: str = "auto") -> torch.device:
    """The device of a configuration word: `auto` takes CUDA, else Apple's MPS, else the CPU; `cuda:1` names one GPU.

    Raises:
        ConfigError: no such device here.
    """
    if word == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = word.partition(":")[0]
    if kind not in DEVICES[1:]:
        raise ConfigError(f"unknown device '{word}'; choose one of: {', '.join(DEVICES)}, or cuda:0, cuda:1, ...")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    try:
        device = torch.device(word)
    except RuntimeError as error:
        raise ConfigError(f"device '{word}': expected a number after the colon, as in {kind}:0") from error
    if not available or (kind == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"device '{word}' is not available here (torch {torch.__version__}, {torch.cuda.device_count()} CUDA devices); "
            "use auto, or install the torch build for it"
        )
    return device


def first_batch_size(device: torch.device, size_px: int) -> int:
    """Images to try at once: what keeps the device busy; a GPU that runs out of memory gets half of it again and again."""
    images = 32 if device.type == "cpu" else 256
    return max(1, int(images * min(1.0, (224 / size_px) ** 2)))


def decoding_threads() -> int:
    """Threads that decode images: as many as cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cuda_devices() -> int:
    """Number of CUDA devices here."""
    return torch.cuda.device_count()
