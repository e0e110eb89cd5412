"""Messages as typed values: what a hospital says of itself, heads, counts, and the sums of the closed-form head.

Letters: C classes, D features, M heads.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self, cast

import numpy as np
import numpy.typing as npt

from common.head import Float32, Head, Standardisation
from common.metrics import ClassificationCounts
from common.model import Model
from common.wire import COUNT_DTYPES, AnyArray, Packed

_NOTHING = np.zeros(0)
"""Of each description without sums: one for all hospitals."""


@dataclass(frozen=True, slots=True)
class Space:
    """What must be equal at all hospitals of a job: digests (64 hex digits) that say nothing about their patients.

    fingerprint: of the feature space. tuned_digest: `digest_of_arrays` of the backbone's arrays that the job tunes, as they are
    before training.
    """

    job_id: str
    fingerprint: str
    backbone_digest: str
    tuned_digest: str

    def pack(self) -> Packed:
        """As a message: all that a hospital says of itself under secure aggregation."""
        return Packed({}, {name.replace("_", "-"): value for name, value in asdict(self).items()})

    @classmethod
    def unpack(cls, packed: Packed) -> Self:
        """From a message that has passed `problem_with`."""
        return cls(*(str(packed.fields[name]) for name in ("job-id", "fingerprint", "backbone-digest", "tuned-digest")))


@dataclass(frozen=True, slots=True)
class Description:
    """What a hospital says of itself for one job.

    images (3, C) int64 and patients (3,) int64 by part (`PARTS`). sums and squares (D,) float64: of the features of the
    training examples and of their squares. `decoded` and `cached`: images that were decoded, that came from the cache.
    """

    space: Space
    images: npt.NDArray[np.int64]
    patients: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    examples: int
    other_labels: int
    unreadable: int
    decoded: int
    cached: int

    def without_sums(self) -> "Description":
        """Without the sums of features (D = 0), where these are not wanted any more."""
        return replace(self, sums=_NOTHING, squares=_NOTHING)

    def rounded(self) -> "Description":
        """With sums of float32 numbers, half as long: enough to hold other sums against them."""
        halved = (cast("npt.NDArray[np.float64]", one.astype(np.float32)) for one in (self.sums, self.squares))
        return replace(self, sums=next(halved), squares=next(halved))

    def pack(self) -> Packed:
        """As a message."""
        return Packed(
            {"images": self.images, "patients": self.patients, "sums": self.sums, "squares": self.squares},
            {
                **self.space.pack().fields,
                "examples": self.examples,
                "other-labels": self.other_labels,
                "unreadable": self.unreadable,
                "decoded": self.decoded,
                "cached": self.cached,
            },
        )

    @classmethod
    def unpack(cls, packed: Packed) -> "Description":
        """From a message that has passed `problem_with`."""
        fields, arrays = packed.fields, packed.arrays
        return cls(
            Space.unpack(packed),
            arrays["images"].astype(np.int64),
            arrays["patients"].astype(np.int64),
            arrays["sums"].astype(np.float64),
            arrays["squares"].astype(np.float64),
            *(int(fields[name]) for name in ("examples", "other-labels", "unreadable", "decoded", "cached")),
        )


def pack_counts(counts: list[ClassificationCounts]) -> dict[str, AnyArray]:
    """The arrays of the counts of M heads."""
    return {
        name: np.stack([getattr(one, name) for one in counts]).astype(dtype) for name, dtype in COUNT_DTYPES.items()
    }


def unpack_counts(arrays: Mapping[str, AnyArray]) -> list[ClassificationCounts]:
    """Counts of M heads from arrays that have passed `problem_with`."""
    stacks = {name: arrays[name].astype(np.int64) for name in COUNT_DTYPES}
    return [
        ClassificationCounts(**{name: stack[index] for name, stack in stacks.items()})
        for index in range(len(stacks["losses"]))
    ]


def pack_heads(heads: list[Head]) -> dict[str, AnyArray]:
    """The arrays of M heads."""
    return {"weight": np.stack([head.weight for head in heads]), "bias": np.stack([head.bias for head in heads])}


def unpack_heads(arrays: Mapping[str, AnyArray]) -> list[Head]:
    """M heads from arrays that have passed `problem_with`."""
    return [
        Head(weight.astype(np.float32), bias.astype(np.float32))
        for weight, bias in zip(arrays["weight"], arrays["bias"], strict=True)
    ]


def pack_standardisation(standardisation: Standardisation) -> dict[str, AnyArray]:
    """The arrays of a standardisation."""
    return {"mean": standardisation.mean, "scale": standardisation.scale}


def unpack_standardisation(arrays: Mapping[str, AnyArray]) -> Standardisation:
    """A standardisation from arrays that have passed `problem_with`."""
    return Standardisation(arrays["mean"].astype(np.float16), arrays["scale"].astype(np.float16))


def unpack_model(arrays: Mapping[str, AnyArray]) -> Model:
    """The model in arrays that have passed `problem_with`; others are passed over."""
    return Model.from_arrays({name: array.astype(np.float32) for name, array in arrays.items()})


def unpack_below(prefix: str, arrays: Mapping[str, AnyArray]) -> dict[str, Float32]:
    """The arrays whose names begin with a prefix (`TUNED`, `CORRECTION`), by what comes after it."""
    return {
        name.removeprefix(prefix): array.astype(np.float32) for name, array in arrays.items() if name.startswith(prefix)
    }


def unpack_named(prefix: str, arrays: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """As `unpack_below`, of whatever dtype."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
