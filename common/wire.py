"""The contract between coordinator and hospital: what may be asked, and the whole list of what may be answered.

A message is `Packed`: named arrays and named plain fields. Its schema says which, of which dtype and shape. The
hospital checks every reply against the schema before it leaves, the coordinator checks it again before it is used; both
with `problem_with`.
How a packed message travels (Flower records, gRPC) is not known here.

Shape letters: C classes, D features, M heads, B score bins, K calibration bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.head import Head, Standardisation
from common.metrics import CALIBRATION_BINS, SCORE_BINS, ClassificationCounts

PARTS = ("train", "validation", "test")
"""The parts the patients are split into, in the order of the rows of `Description.images`."""

EVALUATED_PARTS = ("validation", "test")
"""The parts a coordinator may have a head counted on: never the training patients, on whom counts tell most."""

MAX_HEADS = 64
"""Heads in one evaluate request, at most: each more is one more question about the same patients."""

AnyArray = npt.NDArray[np.generic]
Field = str | int | float


@dataclass(frozen=True)
class Packed:
    """A message as named arrays and named plain fields."""

    arrays: Mapping[str, AnyArray] = field(default_factory=dict)
    fields: Mapping[str, Field] = field(default_factory=dict)


class ArraySpec(NamedTuple):
    """dtype by numpy name; shape as letters (looked up when checked) or numbers; whether 0 and below are refused."""

    dtype: str
    shape: tuple[str | int, ...]
    positive: bool = False


@dataclass(frozen=True)
class Schema:
    """Exactly the arrays and fields a message has; `optional` fields may be absent."""

    arrays: Mapping[str, ArraySpec]
    fields: Mapping[str, type]
    optional: Mapping[str, type] = field(default_factory=dict)


_IDENTITY: Mapping[str, type] = {"job-id": str, "fingerprint": str}
_HEAD = {"weight": ArraySpec("float32", ("C", "D")), "bias": ArraySpec("float32", ("C",))}
_HEADS = {"weight": ArraySpec("float32", ("M", "C", "D")), "bias": ArraySpec("float32", ("M", "C"))}
_STANDARDISATION = {"mean": ArraySpec("float16", ("D",)), "scale": ArraySpec("float16", ("D",), positive=True)}
_COUNTS = {
    "confusion": ArraySpec("int32", ("M", "C", "C")),
    "histograms": ArraySpec("int32", ("M", "C", 2, "B")),
    "calibration": ArraySpec("int64", ("M", 3, "K")),
    "losses": ArraySpec("int64", ("M", 2)),
}

REQUESTS: Mapping[str, Schema] = {
    "describe": Schema({}, {"job": str}),
    "fit": Schema({**_HEAD, **_STANDARDISATION}, {"job": str, "fingerprint": str, "round": int}),
    "evaluate": Schema({**_HEADS, **_STANDARDISATION}, {"job": str, "fingerprint": str, "part": str}),
}
"""What a coordinator may ask."""

REPLIES: Mapping[str, Schema] = {
    "describe": Schema(
        {
            "images": ArraySpec("int64", (len(PARTS), "C")),
            "patients": ArraySpec("int64", (len(PARTS),)),
            "sums": ArraySpec("float64", ("D",)),
            "squares": ArraySpec("float64", ("D",)),
        },
        {
            **_IDENTITY,
            "backbone-digest": str,
            "examples": int,
            "other-labels": int,
            "unreadable": int,
            "decoded": int,
            "cached": int,
        },
        {"hospital": str},
    ),
    "fit": Schema({**_HEAD, **_COUNTS}, {**_IDENTITY, "round": int, "examples": int, "loss-sum": float}),
    "evaluate": Schema({**_COUNTS}, {**_IDENTITY, "part": str}),
}
"""The whole list of what may leave a hospital, apart from `REFUSAL`. `docs/privacy.md` explains each entry."""

REFUSAL = "refused"
"""The only field of a reply that declines; its value is a `RefusalCode`."""


def dimensions(classes: int, features: int, heads: int = 1) -> dict[str, int]:
    """The value of each shape letter."""
    return {"C": classes, "D": features, "M": heads, "B": SCORE_BINS, "K": CALIBRATION_BINS}


def problem_with(packed: Packed, schema: Schema, dims: Mapping[str, int]) -> str | None:
    """The first way in which a message departs from its schema, or None; no message makes it raise.

    Besides names, dtypes and shapes: floats must be finite, integers not negative. The answer repeats no value of the
    message.
    """
    problem = _names_problem("array", set(packed.arrays), set(schema.arrays), set())
    problem = problem or _names_problem("field", set(packed.fields), set(schema.fields), set(schema.optional))
    if problem:
        return problem
    for name, spec in schema.arrays.items():
        problem = _array_problem(packed.arrays[name], spec, dims)
        if problem:
            return f"array '{name}': {problem}"
    for name, kind in {**schema.fields, **schema.optional}.items():
        problem = _field_problem(packed.fields[name], kind) if name in packed.fields else None
        if problem:
            return f"field '{name}': {problem}"
    return None


def _names_problem(kind: str, have: set[str], need: set[str], may: set[str]) -> str | None:
    if need - have:
        return f"missing {kind} '{min(need - have)}'"
    if have - need - may:
        # Its name is free text of the sender: repeating it would carry it on.
        return f"unexpected {kind} (expected: {', '.join(sorted(need | may)) or 'none'})"
    return None


def _array_problem(array: object, spec: ArraySpec, dims: Mapping[str, int]) -> str | None:
    shape = tuple(dims[letter] if isinstance(letter, str) else letter for letter in spec.shape)
    if type(array) is not np.ndarray:
        return f"expected a numpy array, got {type(array).__name__}"
    if array.dtype != np.dtype(spec.dtype):
        return f"expected dtype {spec.dtype}, got {str(array.dtype)[:40]}"
    if array.shape != shape:
        return f"expected shape {shape}, got {array.shape}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return "expected finite numbers, got NaN or infinity"
    if array.dtype.kind == "i" and (array < 0).any():
        return "expected counts, got negative numbers"
    if spec.positive and not (array > 0).all():
        return "expected numbers above 0, got 0 or less"
    return None


def _field_problem(value: object, kind: type) -> str | None:
    if type(value) is not kind:
        return f"expected {kind.__name__}, got {type(value).__name__}"
    if isinstance(value, int | float) and not 0 <= value < 2**63:
        return f"expected {kind.__name__} from 0 and below 2**63, got one outside"
    return None


@dataclass(frozen=True)
class Description:
    """What a hospital says of itself for one job.

    images (3, C) int64 and patients (3,) int64 by part (`PARTS`). sums and squares (D,) float64: of the features of the
    training examples and of their squares. `decoded` and `cached`: images that were decoded, that came from the cache.
    """

    job_id: str
    fingerprint: str
    backbone_digest: str
    images: npt.NDArray[np.int64]
    patients: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    examples: int
    other_labels: int
    unreadable: int
    decoded: int
    cached: int

    def pack(self) -> Packed:
        """As a message."""
        return Packed(
            {"images": self.images, "patients": self.patients, "sums": self.sums, "squares": self.squares},
            {
                "job-id": self.job_id,
                "fingerprint": self.fingerprint,
                "backbone-digest": self.backbone_digest,
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
            str(fields["job-id"]),
            str(fields["fingerprint"]),
            str(fields["backbone-digest"]),
            arrays["images"].astype(np.int64),
            arrays["patients"].astype(np.int64),
            arrays["sums"].astype(np.float64),
            arrays["squares"].astype(np.float64),
            *(int(fields[name]) for name in ("examples", "other-labels", "unreadable", "decoded", "cached")),
        )


def pack_counts(counts: list[ClassificationCounts]) -> dict[str, AnyArray]:
    """The arrays of the counts of M heads."""
    return {name: np.stack([getattr(one, name) for one in counts]).astype(spec.dtype) for name, spec in _COUNTS.items()}


def unpack_counts(arrays: Mapping[str, AnyArray]) -> list[ClassificationCounts]:
    """Counts of M heads from arrays that have passed `problem_with`."""
    stacks = {name: arrays[name].astype(np.int64) for name in _COUNTS}
    return [
        ClassificationCounts(**{name: stack[index] for name, stack in stacks.items()})
        for index in range(len(stacks["losses"]))
    ]


def pack_head(head: Head) -> dict[str, AnyArray]:
    """The arrays of one head."""
    return {"weight": head.weight, "bias": head.bias}


def pack_heads(heads: list[Head]) -> dict[str, AnyArray]:
    """The arrays of M heads."""
    return {"weight": np.stack([head.weight for head in heads]), "bias": np.stack([head.bias for head in heads])}


def unpack_head(arrays: Mapping[str, AnyArray]) -> Head:
    """One head from arrays that have passed `problem_with`."""
    return Head(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32))


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
