"""The contract between coordinator and hospital: what may be asked, and the whole list of what may be answered.

A message is `Packed`: named arrays and named plain fields. Its schema says which, of which dtype and shape. The
hospital checks every reply against the schema before it leaves, the coordinator checks it again before it is used; both
with `problem_with`. How a message travels (Flower records, gRPC) is not known here.

Shape letters: C classes, D features, M heads, B score bins, K calibration bins; S sums per class (the features, or their
projection, and the constant 1), T = S (S + 1) / 2.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common.job import Job
from common.metrics import CALIBRATION_BINS, SCORE_BINS
from common.model import TUNED
from common.packed import REFUSAL as REFUSAL
from common.packed import AnyArray as AnyArray
from common.packed import Field as Field
from common.packed import Packed as Packed

PARTS = ("train", "validation", "test")
"""The parts the patients are split into, in the order of the rows of `Description.images`."""

EVALUATED_PARTS = ("validation", "test")
"""The parts a coordinator may have a head counted on: never the training patients, on whom counts tell most."""

MAX_HEADS = 64
"""Heads in one evaluate request, at most: each more is one more question about the same patients."""

STATISTICS_DTYPE = "float32"
"""Of the sums for the closed-form head: half the bytes of float64, and the same head (`benchmarks/statistics_dtype.py`)."""

PERSONALISED = ("global", "personalised", "own")
"""The models a hospital compares on its own patients, in the order of the counts of `personalise`."""


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


CORRECTION = "correction."
"""Before the name of an array in a message: what is added to its gradients (method scaffold)."""

_IDENTITY: Mapping[str, type] = {"job-id": str, "fingerprint": str}
_ABOUT: Mapping[str, type] = {"job": str, "fingerprint": str}
_HEAD = {"weight": ArraySpec("float32", ("C", "D")), "bias": ArraySpec("float32", ("C",))}
_HEADS = {"weight": ArraySpec("float32", ("M", "C", "D")), "bias": ArraySpec("float32", ("M", "C"))}
_STANDARDISATION = {"mean": ArraySpec("float16", ("D",)), "scale": ArraySpec("float16", ("D",), positive=True)}
_COUNTS = {
    "confusion": ArraySpec("int32", ("M", "C", "C")),
    "histograms": ArraySpec("int32", ("M", "C", 2, "B")),
    "calibration": ArraySpec("int64", ("M", 3, "K")),
    "losses": ArraySpec("int64", ("M", 2)),
}
COUNT_DTYPES: Mapping[str, str] = {name: spec.dtype for name, spec in _COUNTS.items()}

REQUESTS: Mapping[str, Schema] = {
    "describe": Schema({}, {"job": str}),
    "initial": Schema({}, _ABOUT),
    "statistics": Schema({**_STANDARDISATION}, _ABOUT),
    "fit": Schema({**_HEAD, **_STANDARDISATION}, {**_ABOUT, "round": int}),
    "evaluate": Schema({**_HEADS, **_STANDARDISATION}, {**_ABOUT, "part": str, "round": int}),
    "own": Schema({**_STANDARDISATION}, _ABOUT),
    "personalise": Schema({**_HEAD, **_STANDARDISATION}, {**_ABOUT, "part": str, "round": int}),
}
"""What a coordinator may ask; `request_schema` adds the arrays that the job tunes."""

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
            "tuned-digest": str,
            "examples": int,
            "other-labels": int,
            "unreadable": int,
            "decoded": int,
            "cached": int,
        },
        {"hospital": str},
    ),
    "initial": Schema({}, _IDENTITY),
    "statistics": Schema(
        {"gram": ArraySpec(STATISTICS_DTYPE, ("T",)), "class-sums": ArraySpec(STATISTICS_DTYPE, ("S", "C"))},
        {**_IDENTITY, "examples": int},
    ),
    "fit": Schema({**_HEAD, **_COUNTS}, {**_IDENTITY, "round": int, "examples": int}, {"loss-sum": float}),
    "evaluate": Schema({**_COUNTS}, {**_IDENTITY, "part": str, "round": int}),
    "own": Schema({**_HEAD}, {**_IDENTITY, "examples": int}),
    "personalise": Schema({**_COUNTS}, {**_IDENTITY, "part": str, "round": int}),
}
"""The whole list of what may leave a hospital, apart from `REFUSAL` and the arrays that `reply_schema` adds for jobs that
tune the backbone or use scaffold or fednova. `docs/privacy.md` explains each entry."""

ASKED_BY: Mapping[str, Callable[[Job], bool]] = {
    "describe": lambda _: True,
    "initial": lambda job: job.tune.deep,
    "statistics": lambda job: job.method.analytic,
    "fit": lambda job: job.method.iterative,
    "evaluate": lambda _: True,
    "own": lambda job: job.evaluation.cross_site,
    "personalise": lambda job: job.personalisation is not None,
}
"""Which jobs a kind of request belongs to: a hospital answers what it has approved, and nothing else."""

_CARRY_TUNED = {"requests": ("fit", "evaluate", "personalise"), "replies": ("initial", "fit")}
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the backbone's arrays that a job tunes, by name; empty for `tune: head`."""


def request_schema(kind: str, job: Job, tuned: Shapes) -> Schema:
    """What a request of a kind holds for this job."""
    schema = REQUESTS[kind]
    arrays = {**schema.arrays, **(_tuned(tuned) if kind in _CARRY_TUNED["requests"] else {})}
    if kind == "fit" and job.method.name == "scaffold":
        arrays |= _corrections({**_HEAD, **_tuned(tuned)})
    return Schema(arrays, schema.fields, schema.optional)


def reply_schema(kind: str, job: Job, tuned: Shapes) -> Schema:
    """Exactly what a reply of a kind holds for this job."""
    schema = REPLIES[kind]
    arrays = {**schema.arrays, **(_tuned(tuned) if kind in _CARRY_TUNED["replies"] else {})}
    fields = dict(schema.fields)
    if kind == "fit" and job.method.counts_steps:
        fields["steps"] = int
    return Schema(arrays, fields, schema.optional)


def _tuned(shapes: Shapes) -> dict[str, ArraySpec]:
    return {f"{TUNED}{name}": ArraySpec("float32", shape) for name, shape in shapes.items()}


def _corrections(trained: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    return {f"{CORRECTION}{name}": spec for name, spec in trained.items()}


def dimensions(job: Job, heads: int = 1) -> dict[str, int]:
    """The value of each shape letter."""
    sums = (job.method.projection or job.num_features) + 1
    letters = {"C": job.num_classes, "D": job.num_features, "M": heads, "B": SCORE_BINS, "K": CALIBRATION_BINS}
    return {**letters, "S": sums, "T": sums * (sums + 1) // 2}


def bytes_of(schema: Schema, dims: Mapping[str, int]) -> int:
    """Bytes of the arrays of a message that keeps to its schema."""
    return sum(
        np.dtype(spec.dtype).itemsize
        * math.prod(dims[letter] if isinstance(letter, str) else letter for letter in spec.shape)
        for spec in schema.arrays.values()
    )


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
