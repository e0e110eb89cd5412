"""What the hospitals of a simulation compute with: an inventory file, and what is measured on this machine.

An inventory lets another machine than this one be thought of:

    default: {device: cpu}
    hospitals:
      st-marys: {device: cuda, gpu_memory_gb: 16, images_per_s: 900, network_mbit_per_s: 100}
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from client.capacity import Capacity, capacity, images_per_s
from common.backbones import BACKBONES
from common.config_file import Section, load_yaml, parse, unknown
from common.errors import ConfigError
from common.job import Job
from common.methods import Count, Positive
from simulation.advice.situation import Machine, WeightsFile

NonNegative = Annotated[float, Field(ge=0.0)]


class MachineEntry(Section):
    """What is known of a hospital's machine.

    A hospital whose `device` is given is taken for another machine than this one: what is not given is unknown. Without
    `device` the rest is that of this machine. images_per_s: of the job's backbone at the job's image size.
    """

    device: Literal["cpu", "cuda", "mps"] | None = None
    gpu_memory_gb: Positive | None = None
    cores: Count | None = None
    ram_gb: Positive | None = None
    disk_free_gb: NonNegative | None = None
    images_per_s: Positive | None = None
    network_mbit_per_s: Positive | None = None

    @model_validator(mode="after")
    def _of_its_device(self) -> Self:
        if self.device == "cuda" and self.gpu_memory_gb is None:
            raise ValueError("device: cuda needs gpu_memory_gb")
        if self.device != "cuda" and self.gpu_memory_gb is not None:
            raise ValueError(f"gpu_memory_gb goes with device: cuda, got device: {self.device or 'not given'}")
        return self


class Inventory(Section):
    """Machines by hospital; `default` is for those that are not named."""

    default: MachineEntry = MachineEntry()
    hospitals: dict[str, MachineEntry] = Field(default_factory=dict)


def load_inventory(path: Path, hospitals: Mapping[str, Path]) -> Inventory:
    """The inventory in a YAML file.

    Raises:
        ConfigError: with every problem of the file, or every hospital in it that is not there.
    """
    found = parse(Inventory, load_yaml(path), str(path))
    wrong = [unknown("hospital", name, list(hospitals)) for name in found.hospitals if name not in hospitals]
    if wrong:
        raise ConfigError(f"{path}: {'; '.join(wrong)}")
    return found


def machines(
    job: Job, hospitals: Mapping[str, Path], inventory: Inventory, device: str, cache_dir: Path
) -> dict[str, Machine]:
    """The machine of each hospital: stated, or this one, measured at most once.

    Raises:
        ConfigError: no such device here.
        MemoryError: not even one image fits.
    """
    entries = {name: inventory.hospitals.get(name, inventory.default) for name in hospitals}
    here = [entry for entry in entries.values() if entry.device is None]
    found = capacity(device, cache_dir) if here else None
    timed = any(entry.images_per_s is None for entry in here)
    speed = images_per_s(job.backbone.name, job.size_px, device) if timed else None
    return {name: _machine(entry, found, speed) for name, entry in entries.items()}


def _machine(entry: MachineEntry, here: Capacity | None, speed: float | None) -> Machine:
    stated = entry.model_dump(exclude_none=True)
    if entry.device is not None or here is None:
        return Machine(**stated, stated=True)
    measured = {
        "device": here.device,
        "gpu_memory_gb": here.gpu_memory_gb,
        "cores": here.cores,
        "ram_gb": here.ram_gb,
        "disk_free_gb": here.disk_free_gb,
        "images_per_s": speed,
    }
    return Machine(**{**measured, **stated}, stated=bool(stated))


def weights_at_hand(weights_dir: Path | None) -> tuple[WeightsFile, ...]:
    """The files NAME.safetensors of backbones in a folder, with their sha256; none without a folder.

    Raises:
        ConfigError: there is no such folder.
    """
    if weights_dir is None:
        return ()
    if not weights_dir.is_dir():
        raise ConfigError(f"--weights-dir: there is no folder {weights_dir}")
    paths = [weights_dir / f"{name}.safetensors" for name in BACKBONES]
    return tuple(WeightsFile(path.stem, path.name, _sha256(path)) for path in paths if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
