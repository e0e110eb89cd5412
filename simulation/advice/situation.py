"""What advice rests on, as plain figures: what the hospitals hold, and what they compute with.

Letters: N training images, D features, C classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from common.job import Job
from common.wire import PARTS

UNLIKE_LABELS, UNLIKE_SIZES = 0.15, 5.0
"""From here on hospitals are unlike: mean distance of their label shares from the pooled ones; largest by smallest."""


@dataclass(frozen=True)
class HospitalData:
    """What one hospital holds. images: by part (in the order of `PARTS`) and class (3, C); patients: by part (3,).

    split_given: the hospital writes the part of every image itself. side_px: median shorter side of some of its images.
    """

    name: str
    images: tuple[tuple[int, ...], ...]
    patients: tuple[int, ...]
    split_given: bool = False
    side_px: int | None = None

    @property
    def train(self) -> tuple[int, ...]:
        """Training images by class (C,)."""
        return self.images[PARTS.index("train")]

    @property
    def total(self) -> int:
        """Images of all parts."""
        return sum(map(sum, self.images))


@dataclass(frozen=True)
class Data:
    """All hospitals."""

    hospitals: tuple[HospitalData, ...]

    @property
    def training(self) -> tuple[HospitalData, ...]:
        """The hospitals that have training images."""
        return tuple(one for one in self.hospitals if sum(one.train))

    @property
    def train(self) -> tuple[int, ...]:
        """Training images of all hospitals by class (C,)."""
        return tuple(map(sum, zip(*(one.train for one in self.hospitals), strict=True)))

    @property
    def n(self) -> int:
        """N."""
        return sum(self.train)

    @property
    def imbalance(self) -> float:
        """Training images of the largest class divided by those of the smallest; infinite if a class has none."""
        return max(self.train) / min(self.train) if min(self.train) else math.inf

    def patients(self, part: str) -> int:
        """Patients of one part at all hospitals."""
        return sum(one.patients[PARTS.index(part)] for one in self.hospitals)

    def label_skew(self, hospital: HospitalData) -> float:
        """Total variation distance, 0 to 1, of a hospital's shares of the classes from the pooled ones, in training."""
        own, n = sum(hospital.train), self.n
        if not own:
            return 0.0
        return sum(abs(a / own - b / n) for a, b in zip(hospital.train, self.train, strict=True)) / 2

    @property
    def mean_label_skew(self) -> float:
        """`label_skew` over the hospitals, weighted by their training images."""
        return sum(self.label_skew(one) * sum(one.train) for one in self.training) / max(self.n, 1)

    @property
    def size_ratio(self) -> float:
        """Training images of the largest hospital divided by those of the smallest that has any."""
        sizes = [sum(one.train) for one in self.training]
        return max(sizes) / min(sizes) if sizes else 1.0

    @property
    def one_class(self) -> tuple[str, ...]:
        """The hospitals whose training images are all of one class."""
        return tuple(one.name for one in self.training if sum(number > 0 for number in one.train) == 1)

    @property
    def unlike(self) -> bool:
        """Whether the hospitals differ much, in their labels or their size."""
        return bool(self.one_class) or self.mean_label_skew >= UNLIKE_LABELS or self.size_ratio >= UNLIKE_SIZES


@dataclass(frozen=True)
class Machine:
    """What one hospital computes with; None is unknown. images_per_s: of the job's backbone at the job's image size.

    stated: from an inventory file, not measured here.
    """

    device: str
    gpu_memory_gb: float | None = None
    cores: int | None = None
    ram_gb: float | None = None
    disk_free_gb: float | None = None
    images_per_s: float | None = None
    network_mbit_per_s: float | None = None
    stated: bool = False


@dataclass(frozen=True)
class WeightsFile:
    """A weights file at hand for a backbone, with its sha256."""

    backbone: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Measured:
    """A backbone tried with the closed-form head: its best candidate on the hospitals' validation patients.

    stages: `all` or `last`. score: of the job's metric on validation patients, None where undefined; interval: 95 %, if
    that is the AUROC. sums_bytes: what a hospital sends once.
    """

    backbone: str
    stages: str
    score: float | None
    interval: tuple[float, float] | None
    seconds_per_1000: float
    sums_bytes: int


@dataclass(frozen=True)
class Situation:
    """A job (what is to be told apart), the hospitals' data, their machines by name, and the weights at hand."""

    job: Job
    data: Data
    machines: Mapping[str, Machine]
    weights: tuple[WeightsFile, ...] = ()
    measured: tuple[Measured, ...] = ()

    @property
    def gpus(self) -> bool:
        """Whether every hospital with training images has a GPU."""
        training = self.data.training
        return bool(training) and all(self.machines[one.name].device != "cpu" for one in training)

    @property
    def least_gpu_gb(self) -> float | None:
        """Memory of the smallest GPU, in GB; None if one is unknown or there is none."""
        found = [self.machines[one.name].gpu_memory_gb for one in self.data.training]
        known = [one for one in found if one is not None]
        return min(known) if known and len(known) == len(found) else None

    @property
    def least_network(self) -> float | None:
        """The slowest network that is stated, in Mbit/s."""
        known = [one.network_mbit_per_s for one in self.machines.values() if one.network_mbit_per_s]
        return min(known, default=None)
