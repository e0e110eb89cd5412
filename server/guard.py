"""Every reply passes here before it is used. A bad one is dropped with a neutral reason; the rest goes on.

A reason never repeats what a hospital wrote: it comes from our own words, names and numbers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from common.errors import RefusalCode
from common.head import Head
from common.metrics import ClassificationCounts, Int64
from common.wire import PARTS, REFUSAL, REPLIES, AnyArray, Description, Packed, problem_with, unpack_counts, unpack_head

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CODES = {code.value for code in RefusalCode}
_UNIT = 2.0**30


@dataclass(frozen=True)
class Expected:
    """What a reply of this kind must say.

    dims: value of each shape letter. fields: exact values. examples: of the hospital, as it declared them, and support: its
    images by part and class (3, C); start and max_update_norm: the head sent, and how far it may be moved.
    """

    kind: str
    dims: Mapping[str, int]
    fields: Mapping[str, str | int] = field(default_factory=dict)
    part: str = "validation"
    support: Int64 | None = None
    examples: int = 0
    start: Head | None = None
    max_update_norm: float = np.inf


def screen(answers: list[Packed], expected: Expected) -> Packed | str:
    """The one good answer of a node, or why it has none."""
    first = answers[0]
    if any(not _equal(first, other) for other in answers[1:]):
        return "several answers that differ"
    code = first.fields.get(REFUSAL)
    if code is not None:
        return f"declined: {code}" if code in _CODES else "declined without a known code"
    problem = problem_with(first, REPLIES[expected.kind], expected.dims) or _wrong_field(first, expected)
    if problem is None:
        problem = _CHECKS[expected.kind](first, expected)
    return first if problem is None else problem


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


def _describe_problem(packed: Packed, expected: Expected) -> str | None:  # noqa: ARG001
    for name in ("fingerprint", "backbone-digest"):
        if not _DIGEST.fullmatch(str(packed.fields[name])):
            return f"field '{name}': expected 64 hex digits"
    claimed = packed.fields.get("hospital")
    if claimed is not None and not _NAME.fullmatch(str(claimed)):
        return "field 'hospital': expected a name of 1 to 63 lower-case letters, digits, - or _"
    told = Description.unpack(packed)
    if told.examples == 0:
        return "no training examples"
    train = int(told.images[PARTS.index("train")].sum())
    if train == 0 or told.examples % train:
        return f"{told.examples} examples do not fit {train} training images"
    if (told.patients > told.images.sum(axis=1)).any():
        return "more patients than images"
    # (sum x)^2 <= N sum x^2 for any N numbers; a little slack for rounding.
    if (told.squares < 0).any() or (told.sums**2 > told.examples * told.squares * (1 + 1e-9) + 1e-12).any():
        return "the sums of features and of their squares contradict each other"
    return None


def _fit_problem(packed: Packed, expected: Expected) -> str | None:
    examples = int(packed.fields["examples"])
    if not 0 < examples <= expected.examples:
        return f"{examples} examples; it declared {expected.examples}"
    if expected.start is not None:
        norm = unpack_head(packed.arrays).distance(expected.start)
        if not norm <= expected.max_update_norm:
            return f"the change has norm {norm:.3g}; guard.max_update_norm is {expected.max_update_norm:g}"
    return _evaluate_problem(packed, expected)


def _evaluate_problem(packed: Packed, expected: Expected) -> str | None:
    if expected.support is None:
        return None
    support = expected.support[PARTS.index(expected.part)]
    for counts in unpack_counts(packed.arrays):
        problem = counts_problem(counts, support)
        if problem:
            return f"counts: {problem}"
    return None


def counts_problem(counts: ClassificationCounts, support: Int64) -> str | None:
    """How counts contradict themselves or the declared number of examples of each class (C,), or None."""
    n = int(support.sum())
    number, correct, confidence = counts.calibration
    sides = np.stack([n - support, support], axis=1)
    if not np.array_equal(counts.support, support):
        return "the confusion matrix does not have the declared number of examples of each class"
    if not np.array_equal(counts.histograms.sum(axis=2), sides):
        return "the score histograms do not have the declared number of examples"
    if (
        (number > n).any()
        or number.sum() != n
        or correct.sum() != np.trace(counts.confusion)
        or (correct > number).any()
    ):
        return "the calibration bins do not add up"
    if (confidence > number * _UNIT).any() or counts.losses[0] > 2 * n * _UNIT or counts.losses[1] > 50 * n * _UNIT:
        return "the sums of confidence or loss are larger than possible"
    return None


_CHECKS = {"describe": _describe_problem, "fit": _fit_problem, "evaluate": _evaluate_problem}
