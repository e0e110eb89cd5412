"""Every reply passes here before it is used. A bad one is dropped with a neutral reason; the rest goes on.

A reason never repeats what a hospital wrote: it comes from our own words, names and numbers.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from common.errors import RefusalCode
from common.head import Standardisation
from common.job import Job
from common.messages import Description
from common.metrics import ClassificationCounts
from common.model import TUNED, Model, digest_of_arrays
from common.phases import PHASE_REPLIES
from common.sums import Sums
from common.wire import (
    COUNT_DTYPES,
    PARTS,
    REFUSAL,
    AnyArray,
    Packed,
    Shapes,
    bytes_of,
    dimensions,
    problem_with,
    reply_schema,
)
from server.counts_check import counts_problem, groups_problem

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CODES = {code.value for code in RefusalCode}
_DECLINED = "declined"


@dataclass(frozen=True)
class Expected:
    """What a reply of this kind must say.

    heads: number of heads counted. tuned: shapes of the backbone's arrays that the job tunes; tuned_digest: of these arrays.
    fields: exact values. part: the patients that were counted. described: what the hospital said of itself. start: the model
    that was sent. sizes: further shape letters, in a session of secure aggregation.
    """

    kind: str
    job: Job
    heads: int = 1
    tuned: Shapes = field(default_factory=dict)
    fields: Mapping[str, str | int] = field(default_factory=dict)
    part: str = "validation"
    described: Description | None = None
    tuned_digest: str = ""
    standardisation: Standardisation | None = None
    start: Model | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


def screen(answers: list[Packed], expected: Expected) -> Packed | str:
    """The one good answer of a node, or why it has none."""
    first = answers[0]
    if any(not _equal(first, other) for other in answers[1:]):
        return "several answers that differ"
    code = first.fields.get(REFUSAL)
    if code is not None:
        return f"{_DECLINED}: {code}" if code in _CODES else f"{_DECLINED} without a known code"
    schema = reply_schema(
        expected.kind, expected.job, _tuned_in(first) if expected.kind == "initial" else expected.tuned
    )
    problem = problem_with(
        first, schema, {**dimensions(expected.job, expected.heads), **expected.sizes}
    ) or _wrong_field(first, expected)
    if problem is not None and expected.kind == "initial":
        # The names of its arrays are the sender's own words.
        problem = "its arrays or fields are not those of the contract"
    if problem is None:
        problem = _CHECKS[expected.kind](first, expected)
    return first if problem is None else problem


def bytes_of_reply(expected: Expected) -> int:
    """Bytes of the arrays of a good reply; 0 where its shapes are not known beforehand."""
    if expected.kind == "initial":
        return 0
    schema = reply_schema(expected.kind, expected.job, expected.tuned)
    return bytes_of(schema, {**dimensions(expected.job, expected.heads), **expected.sizes})


def declined(reason: str) -> bool:
    """Whether the reason is the hospital's own refusal: it sent no answer that could be wrong."""
    return reason.startswith(_DECLINED)


def _tuned_in(packed: Packed) -> Shapes:
    """The shapes of the tuned arrays as a reply has them: the coordinator has no network, so the digest decides."""
    return {name.removeprefix(TUNED): array.shape for name, array in packed.arrays.items() if name.startswith(TUNED)}


def _equal(one: Packed, other: Packed) -> bool:
    return (
        dict(one.fields) == dict(other.fields)
        and one.arrays.keys() == other.arrays.keys()
        and all(_same_bits(array, other.arrays[name]) for name, array in one.arrays.items())
    )


def _same_bits(one: AnyArray, other: AnyArray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _wrong_field(packed: Packed, expected: Expected) -> str | None:
    wrong = [name for name, value in expected.fields.items() if packed.fields[name] != value]
    return f"field '{wrong[0]}' is not the one of this request" if wrong else None


def _describe_problem(packed: Packed, expected: Expected) -> str | None:
    for name in ("fingerprint", "backbone-digest", "tuned-digest"):
        if not _DIGEST.fullmatch(str(packed.fields[name])):
            return f"field '{name}': expected 64 hex digits"
    claimed = packed.fields.get("hospital")
    if claimed is not None and not _NAME.fullmatch(str(claimed)):
        return "field 'hospital': expected a name of 1 to 63 lower-case letters, digits, - or _"
    if expected.job.privacy.secure_aggregation or expected.job.noised_locally:
        return None  # what is noised contradicts nothing
    return description_problem(Description.unpack(packed), expected.job)


def description_problem(told: Description, job: Job) -> str | None:
    """How what a hospital, or all of them together, said contradicts itself, or None."""
    if told.examples == 0:
        return "no training examples"
    train = int(told.images[PARTS.index("train")].sum())
    if told.examples != train * job.examples_per_image:
        return f"{told.examples} examples do not fit {train} training images"
    if (told.patients > told.images.sum(axis=1)).any():
        return "more patients than images"
    # (sum x)^2 <= N sum x^2 for any N numbers; a little slack for rounding.
    if (told.squares < 0).any() or (told.sums**2 > told.examples * told.squares * (1 + 1e-9) + 1e-12).any():
        return "the sums of features and of their squares contradict each other"
    return None


def _initial_problem(packed: Packed, expected: Expected) -> str | None:
    wanted = expected.tuned_digest
    given = {name.removeprefix(TUNED): array.astype(np.float32) for name, array in packed.arrays.items()}
    return None if digest_of_arrays(given) == wanted else "the initial arrays do not have the digest that was declared"


def _statistics_problem(packed: Packed, expected: Expected) -> str | None:
    told, standardisation = expected.described, expected.standardisation
    if told is None or standardisation is None:
        return None
    examples = told.examples
    train = told.images[PARTS.index("train")]
    if packed.fields["examples"] != examples:
        return f"another number of examples than the {examples} it declared"
    sums = Sums.from_triangle(packed.arrays["gram"], packed.arrays["class-sums"])
    if (
        not np.array_equal(sums.class_counts, train * (examples // max(int(train.sum()), 1)))
        or sums.examples != examples
    ):
        return "the sums do not have the declared number of examples of each class"
    if expected.job.method.projection is None and not _same_features(sums, told, standardisation):
        return "the sums contradict the sums of features it described"
    return sums_problem(sums, examples)


def sums_problem(sums: Sums, examples: int) -> str | None:
    """How sums over some examples contradict themselves, or None."""
    if not np.allclose(sums.class_sums.sum(axis=1), sums.gram[:, -1], rtol=1e-3, atol=1e-3 * examples):
        return "the sums of the classes do not add up"
    return sums.contradiction()


def _same_features(sums: Sums, told: Description, standardisation: Standardisation) -> bool:
    """Whether the sums of standardised features are those of the features described, but for rounding."""
    mean, scale = standardisation.mean.astype(np.float64), standardisation.scale.astype(np.float64)
    first = (told.sums - told.examples * mean) / scale
    second = (told.squares - 2 * mean * told.sums + told.examples * mean**2) / scale**2
    room = 1e-3 * (told.examples + np.abs(second)) + 1e-5 * told.examples * (mean / scale) ** 2
    return bool(
        (np.abs(sums.gram[:-1, -1] - first) <= room).all() and (np.abs(np.diag(sums.gram)[:-1] - second) <= room).all()
    )


def _fit_problem(packed: Packed, expected: Expected) -> str | None:
    # With noise of its own a hospital tells no exact number, and counts for the noised one that it described.
    problem = None if expected.job.noised_locally else _examples_problem(packed, expected)
    if problem:
        return problem
    if "steps" in packed.fields:
        least, most = _steps(packed, expected)
        if not least <= int(packed.fields["steps"]) <= most:
            return f"field 'steps': expected {least} to {most}, got one outside"
    if expected.start is not None and not expected.job.hospitals_protected:  # there it is clipped, which bounds it too
        bound = expected.job.guard.max_update_norm
        arrays = {name: array.astype(np.float32) for name, array in packed.arrays.items()}
        norm = Model.from_arrays(arrays).distance(expected.start)
        if not norm <= bound:
            return f"the change has norm {norm:.3g}; guard.max_update_norm is {bound:g}"
    return None if expected.job.noised_locally else _evaluate_problem(packed, expected)


def _steps(packed: Packed, expected: Expected) -> tuple[int, int]:
    """Steps that a round of local training makes, at least and at most: a last small batch may join the one before.

    With batch normalisation of its own a hospital never trains on one image alone, if its network has any at all.
    """
    job, examples = expected.job, int(packed.fields["examples"])
    batch, epochs = job.method.local.batch_size * (job.tune.accumulate or 1), job.method.local.epochs
    larger = max(batch, 2 if job.tune.local_batch_norm else 1)
    return epochs * max(1, examples // larger), epochs * -(-examples // batch)


def _examples_problem(packed: Packed, expected: Expected) -> str | None:
    told = expected.described
    declared = told.examples if told else 0
    if told and expected.kind == "fit" and expected.job.tune.deep:
        declared = int(told.images[PARTS.index("train")].sum())
    examples = int(packed.fields["examples"])
    # Exactly: whoever claims fewer would weigh less in the mean, and in fednova its steps more.
    return None if 0 < examples == declared else f"{examples} examples; it declared {declared}"


def _evaluate_problem(packed: Packed, expected: Expected) -> str | None:
    if expected.described is None and not expected.job.noised_locally:
        return None
    # All heads at once: there may be fifty, and thousands of hospitals.
    counts = ClassificationCounts(**{name: packed.arrays[name].astype(np.int64) for name in COUNT_DTYPES})
    told = expected.described
    support = told.images[PARTS.index(expected.part)] if told else counts.confusion.sum(axis=-1)
    problem = counts_problem(counts, support)
    return f"counts: {problem}" if problem else None


def _distances_problem(packed: Packed, expected: Expected) -> str | None:
    if expected.described is None:
        return None
    support = expected.described.images[PARTS.index("validation")]
    told = packed.arrays["distances"].astype(np.int64).sum(axis=1)
    return None if np.array_equal(told, support) else "the distances are not those of the validation images it declared"


def _duplicates_problem(packed: Packed, expected: Expected) -> str | None:  # noqa: ARG001
    every = np.concatenate([packed.arrays["exact"], packed.arrays["near"].ravel()])
    return None if len(np.unique(every)) == len(every) else "a keyed hash is there twice"


def _groups_problem(packed: Packed, expected: Expected) -> str | None:
    if expected.described is None:
        return None
    return groups_problem(packed.arrays["confusion"], expected.job, expected.described.images[PARTS.index("test")])


_CHECKS: Mapping[str, Callable[[Packed, Expected], str | None]] = {
    "describe": _describe_problem,
    "initial": _initial_problem,
    "statistics": _statistics_problem,
    "fit": _fit_problem,
    "evaluate": _evaluate_problem,
    "distances": _distances_problem,
    "own": _examples_problem,
    "personalise": _evaluate_problem,
    "duplicates": _duplicates_problem,
    "collisions": lambda _packed, _expected: None,
    "groups": _groups_problem,
    # What is in them the session itself checks (common/secure_sum/combiner.py).
    **dict.fromkeys(PHASE_REPLIES, lambda _packed, _expected: None),
}
