"""The contract between coordinator and hospital: what may be asked, and the whole list of what may be answered.

A message is `Packed`: named arrays and named plain fields. Its schema says which, of which dtype and shape. The
hospital checks every reply against the schema before it leaves, the coordinator checks it again before it is used; both
with `problem_with`. How a message travels (Flower records, gRPC) is not known here.

Shape letters: C classes, D features, M heads, G groups of patients, I images whose keyed hashes are sent, B score bins, K
calibration bins; S sums per class (the features, or their projection, and the constant 1), T = S (S + 1) / 2; R directions of the
training images' spread, V = R + 1; of a session of secure aggregation P participants, L numbers of the vector.
"""

from collections.abc import Callable, Mapping

from common.groups import group_names
from common.job import Job
from common.metrics import CALIBRATION_BINS, SCORE_BINS
from common.model import TUNED
from common.packed import REFUSAL as REFUSAL
from common.packed import AnyArray as AnyArray
from common.packed import Field as Field
from common.packed import Packed as Packed
from common.phases import PHASE_REPLIES, PHASE_REQUESTS
from common.schema import ArraySpec as ArraySpec
from common.schema import Schema as Schema
from common.schema import bytes_of as bytes_of
from common.schema import problem_with as problem_with
from common.unlike import UNLIKE, directions_of

PARTS = ("train", "validation", "test")
"""The parts the patients are split into, in the order of the rows of `Description.images`."""

EVALUATED_PARTS = ("validation", "test")
"""The parts a coordinator may have a head counted on: never the training patients, on whom counts tell most."""

MAX_HEADS = 64
"""Heads in one evaluate request, at most: each more is one more question about the same patients."""

STATISTICS_DTYPE = "float32"
"""Of the sums for the closed-form head: half the bytes of float64, and the same head (`benchmarks/statistics_dtype.py`)."""

HASHES_PER_IMAGE = 16
"""Keyed hashes of what an image looks like, in the reply to `duplicates`: one for each guess at four uncertain bits."""

PERSONALISED = ("global", "personalised", "own")
"""The models a hospital compares on its own patients, in the order of the counts of `personalise`."""


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
_SPREAD = {
    f"{UNLIKE}mean": ArraySpec("float32", ("D",)),
    f"{UNLIKE}scale": ArraySpec("float32", ("D",), positive=True),
    f"{UNLIKE}axes": ArraySpec("float16", ("R", "D")),
    f"{UNLIKE}variances": ArraySpec("float32", ("V",), positive=True),
}
COUNT_DTYPES: Mapping[str, str] = {name: spec.dtype for name, spec in _COUNTS.items()}

REQUESTS: Mapping[str, Schema] = {
    "describe": Schema({}, {"job": str}),
    "initial": Schema({}, _ABOUT),
    "statistics": Schema({**_STANDARDISATION}, _ABOUT),
    "fit": Schema({**_HEAD, **_STANDARDISATION}, {**_ABOUT, "round": int}),
    "evaluate": Schema({**_HEADS, **_STANDARDISATION}, {**_ABOUT, "part": str, "round": int}),
    "distances": Schema({**_SPREAD}, _ABOUT),
    "own": Schema({**_STANDARDISATION}, _ABOUT),
    "personalise": Schema({**_HEAD, **_STANDARDISATION}, {**_ABOUT, "part": str, "round": int}),
    "duplicates": Schema({}, _ABOUT),
    "collisions": Schema({"exact": ArraySpec("uint8", ("I",)), "near": ArraySpec("uint8", ("I",))}, _ABOUT),
    "groups": Schema({**_HEAD, **_STANDARDISATION}, {**_ABOUT, "round": int}),
    **{kind: Schema(one.arrays, {**_ABOUT, **one.fields}) for kind, one in PHASE_REQUESTS.items()},
}
"""What a coordinator may ask; `request_schema` adds the arrays that the job tunes, and to `masked` the question itself."""

SUMMED: Mapping[str, Schema] = {
    "holdings": Schema({}, _ABOUT),
    "statistics": REQUESTS["statistics"],
    "fit": REQUESTS["fit"],
    "evaluate": REQUESTS["evaluate"],
    "distances": REQUESTS["distances"],
    "groups": REQUESTS["groups"],
    "centre": Schema({}, _ABOUT),
    "noised-statistics": REQUESTS["statistics"],
    "gradient": REQUESTS["fit"],
    "noised-fit": REQUESTS["fit"],
}
"""Questions whose answers leave a hospital masked, as parts of a sum (`common/summed.py`): the question is in `masked`."""

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
    "distances": Schema({"distances": ArraySpec("int32", ("C", "B"))}, _IDENTITY),
    "own": Schema({**_HEAD}, {**_IDENTITY, "examples": int}),
    "personalise": Schema({**_COUNTS}, {**_IDENTITY, "part": str, "round": int}),
    "duplicates": Schema(
        {"exact": ArraySpec("uint64", ("I",)), "near": ArraySpec("uint64", ("I", HASHES_PER_IMAGE))}, _IDENTITY
    ),
    "collisions": Schema({}, _IDENTITY),
    "groups": Schema({"confusion": ArraySpec("int32", ("G", "C", "C"))}, {**_IDENTITY, "round": int}),
    **{kind: Schema(one.arrays, {**_IDENTITY, **one.fields}) for kind, one in PHASE_REPLIES.items()},
}
"""The whole list of what may leave a hospital, apart from `REFUSAL` and the arrays that `reply_schema` adds for jobs that
tune the backbone or use scaffold or fednova. `docs/privacy.md` explains each entry.

Under secure aggregation nothing else leaves than the phases, what `describe` says of the feature space, and `initial`."""

_SPACE = Schema({}, {**_IDENTITY, "backbone-digest": str, "tuned-digest": str}, {"hospital": str})
"""The reply to `describe` under secure aggregation: no number of this hospital."""

_NOISED_LOCALLY: Mapping[str, Schema] = {
    "describe": Schema({"centre": ArraySpec("float64", ("S",))}, _SPACE.fields, _SPACE.optional),
    "fit": Schema({**_HEAD}, {**_IDENTITY, "round": int}),
}
"""The replies of a hospital that trains with noise of its own: sums with noise, heads with noise, and no exact number."""

ASKED_BY: Mapping[str, Callable[[Job], bool]] = {
    "describe": lambda _: True,
    "initial": lambda job: job.tune.deep,
    "statistics": lambda job: job.method.analytic and not job.privacy.secure_aggregation,
    "fit": lambda job: job.method.iterative and not job.privacy.secure_aggregation,
    "evaluate": lambda job: not job.privacy.secure_aggregation,
    "distances": lambda job: not job.privacy.secure_aggregation and not job.private,
    "own": lambda job: job.evaluation.cross_site,
    "personalise": lambda job: job.personalisation is not None,
    "duplicates": lambda job: job.duplicates == "check",
    "collisions": lambda job: job.duplicates == "check",
    "groups": lambda job: bool(job.evaluation.groups) and not job.privacy.secure_aggregation,
    **dict.fromkeys(PHASE_REQUESTS, lambda job: job.privacy.secure_aggregation),
}
"""Which jobs a kind of request belongs to: a hospital answers what it has approved, and nothing else."""

SUMMED_BY: Mapping[str, Callable[[Job], bool]] = {
    "holdings": lambda job: not job.private,
    "statistics": lambda job: job.method.analytic and not job.private,
    "fit": lambda job: job.method.iterative and not job.private,
    "evaluate": lambda _: True,
    "distances": lambda job: not job.private,
    "groups": lambda job: bool(job.evaluation.groups),
    "centre": lambda job: job.private,
    "noised-statistics": lambda job: job.method.analytic and job.private,
    "gradient": lambda job: job.method.noised_gradients,
    "noised-fit": lambda job: job.noised_locally,
}
"""Which jobs with secure aggregation a question of `SUMMED` belongs to."""

_CARRY_TUNED = {"requests": ("fit", "evaluate", "personalise", "groups"), "replies": ("initial", "fit")}
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the backbone's arrays that a job tunes, by name; empty for `tune: head`."""


def request_schema(kind: str, job: Job, tuned: Shapes) -> Schema:
    """What a request of a kind (of `REQUESTS` or `SUMMED`) holds for this job."""
    schema = SUMMED[kind] if kind in SUMMED else REQUESTS[kind]
    arrays = {**schema.arrays, **(_tuned(tuned) if kind in _CARRY_TUNED["requests"] else {})}
    if kind == "fit" and job.method.name == "scaffold":
        arrays |= _corrections({**_HEAD, **_tuned(tuned)})
    return Schema(arrays, schema.fields, schema.optional)


def reply_schema(kind: str, job: Job, tuned: Shapes) -> Schema:
    """Exactly what a reply of a kind holds for this job."""
    schema = REPLIES[kind]
    if kind == "describe" and job.privacy.secure_aggregation:
        schema = _SPACE
    elif job.noised_locally:
        schema = _NOISED_LOCALLY.get(kind, schema)
    arrays = {**schema.arrays, **(_tuned(tuned) if kind in _CARRY_TUNED["replies"] else {})}
    fields = dict(schema.fields)
    if kind == "fit" and job.method.counts_steps:
        fields["steps"] = int
    return Schema(arrays, fields, schema.optional)


def _tuned(shapes: Shapes) -> dict[str, ArraySpec]:
    return {f"{TUNED}{name}": ArraySpec("float32", shape) for name, shape in shapes.items()}


def _corrections(trained: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    return {f"{CORRECTION}{name}": spec for name, spec in trained.items()}


def dimensions(job: Job, heads: int = 1, images: int = 0) -> dict[str, int]:
    """The value of each shape letter. images: whose keyed hashes are sent."""
    sums = (job.method.projection or job.num_features) + 1
    letters = {"C": job.num_classes, "D": job.num_features, "M": heads, "B": SCORE_BINS, "K": CALIBRATION_BINS}
    letters |= {"G": len(group_names(job.evaluation.groups)), "I": images}
    directions = directions_of(job.num_features, job.sums_of_all_features)
    return {**letters, "S": sums, "T": sums * (sums + 1) // 2, "R": directions, "V": directions + 1}
