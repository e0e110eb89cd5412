"""How far a hospital's images lie from the federation's, in the federation's own standard deviations.

A hospital that takes part in a job is sent the mean and the deviation of the features of all training images with every
request, and keeps them (`client/local_state.py`). With them it measures its own images, and nothing leaves. Of the
covariances, which the coordinator alone could work out from the sums of the closed form, it is sent the diagonal only, so
the distances take features as uncorrelated.

Letters: N images, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.local_state import load_kept
from common.errors import DataError
from common.head import Float32, Float64, Standardisation
from common.job import Job

FEDERATION_STATE = "federation"
FAR = 1.2
"""Drift is a mean that is farther off in a stage of the backbone: more than single images are on average, whose distance is 1."""
OUTSIDE = 1.5
"""So many times as far from the mean as the federation's images are on average is outside."""


@dataclass(frozen=True)
class Federation:
    """Mean and deviation (D,) of the training features of all hospitals, and where they are from, in words."""

    mean: Float32
    scale: Float32
    source: str

    @classmethod
    def of(cls, hospitals: Sequence[Float32], source: str) -> "Federation":
        """Of the features (N, D) of several hospitals: what the sums of their descriptions would give."""
        examples = sum(len(one) for one in hospitals)
        sums = np.sum([one.sum(axis=0, dtype=np.float64) for one in hospitals], axis=0)
        squares = np.sum([(one.astype(np.float64) ** 2).sum(axis=0) for one in hospitals], axis=0)
        found = Standardisation.from_sums(examples, sums, squares)
        return cls(found.mean.astype(np.float32), found.scale.astype(np.float32), source)


@dataclass(frozen=True)
class Drift:
    """shift: distance of the hospital's mean from the federation's, root mean square over features, in deviations.

    by_stage: the same for each stage of the backbone, shallow (brightness, contrast, noise) to deep (content). outside:
    share of the images that are more than `OUTSIDE` times as far from the federation's mean as its images are on average,
    in [0, 1]. distances: of each image (N,), 1 on average over the federation.
    """

    images: int
    shift: float
    by_stage: Mapping[str, float]
    outside: float
    distances: Float64
    source: str

    @property
    def far(self) -> bool:
        """Whether this is to be looked into."""
        return max(self.by_stage.values()) > FAR


def drift_of(features: Float32, federation: Federation, job: Job) -> Drift:
    """The drift of a hospital with features (N, D), N at least 1."""
    scaled = (features.astype(np.float64) - federation.mean) / federation.scale
    # The mean of N images is off by 1/N of the square of a deviation, with no drift at all.
    squares = np.maximum(scaled.mean(axis=0) ** 2 - 1.0 / len(features), 0.0)
    distances = np.sqrt((scaled**2).mean(axis=1))
    stages: dict[str, list[Float64]] = {}
    for block in job.feature_blocks:
        stages.setdefault(block.stage, []).append(squares[block.start : block.stop])
    return Drift(
        images=len(features),
        shift=float(np.sqrt(squares.mean())),
        by_stage={stage: float(np.sqrt(np.concatenate(some).mean())) for stage, some in stages.items()},
        outside=float((distances > OUTSIDE).mean()),
        distances=np.asarray(distances, np.float64),
        source=federation.source,
    )


def kept_federation(cache: Path, hospital: str, job: Job) -> Federation | None:
    """What this hospital was sent of the federation in a run of the job; None if it never took part.

    Raises:
        DataError: the file is damaged, or of another number of features.
    """
    found = sorted(cache.glob(f"state-*-{job.job_id[:16]}/{FEDERATION_STATE}-*.safetensors"))
    own = [path for path in found if path.parent.name == f"state-{hospital}-{job.job_id[:16]}"]
    chosen = own or found  # all hospitals of a run were sent the same
    if not chosen:
        return None
    kept = load_kept(chosen[0])
    mean, scale = kept.arrays.get("mean"), kept.arrays.get("scale")
    if mean is None or scale is None or mean.shape != (job.num_features,) or scale.shape != mean.shape:
        raise DataError(f"{chosen[0]}: expected mean and scale of {job.num_features} features; remove the file")
    return Federation(mean, scale, f"the run of job '{job.name}' that this hospital took part in")
