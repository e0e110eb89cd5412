"""What leaves hospitals as a sum only: the questions, what each is called in a session, and the layout of its answer.

| question          | a hospital adds                                                                          |
|-------------------|------------------------------------------------------------------------------------------|
| holdings          | the counts and sums of its `Description`                                                 |
| statistics        | the sums of the closed-form head, and its number of examples                             |
| fit               | the change of the model x examples; examples; loss; counts of the model that it was sent |
| evaluate          | counts of some heads                                                                     |
| distances         | validation images by class and distance from the training images                         |
| groups            | confusion matrices of the model by group of patients                                     |
| centre            | sums of patients' features and the number of patients, noised (`common.dp`)              |
| noised-statistics | the bounded sums of the closed form, noised                                              |
| gradient          | the sum of patients' clipped gradients, noised                                           |
| noised-fit        | the change of the head by training with noise x its noised number of patients; that number |

Letters as in `common/wire.py`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Self, cast

import numpy as np

from common.dp.noisy_sums import numbers_of
from common.errors import ConfigError
from common.head import Float32, Float64
from common.job import Job
from common.metrics import CALIBRATION_BINS, SCORE_BINS
from common.model import digest_of_arrays
from common.packed import Packed
from common.secure_sum.layout import Layout, Slot
from common.wire import EVALUATED_PARTS, MAX_HEADS, PARTS, SUMMED, SUMMED_BY, Shapes, dimensions

FRACTION_BITS = 24
"""Of reals: an error of K / 2 * 6e-8 in a sum over K hospitals, and a range of 5e11 / K."""
HIGH_BITS, LOW_BITS = 20, 60
"""Of sums over raw features, which may be of any size: in two parts, a range of 8e12 / K and an error of K / 2 * 9e-19."""

LOW = "-low"
"""After the name of an array that is what another one rounds away."""

_ROUND = ("fit", "gradient", "noised-fit")
_EVALUATE = re.compile(rf"evaluate:({'|'.join(EVALUATED_PARTS)}):(\d{{1,5}}):(\d{{1,3}}):([0-9a-f]{{16}})")
_GROUPS = re.compile(r"groups:(\d{1,5})")
_OF_ROUND = re.compile(rf"({'|'.join(_ROUND)}):(\d{{1,5}})")


@dataclass(frozen=True)
class Question:
    """A question of `SUMMED`. number: the round. part and heads: of `evaluate`. digest: of the request in full (64 hex digits).

    The purpose names it in a session, and a hospital opens one sum for each purpose: one for each round of training, one for each
    set of heads that is counted.
    """

    kind: str
    number: int = 0
    part: str = ""
    heads: int = 1
    digest: str = ""

    @classmethod
    def of(cls, kind: str, request: Packed) -> Self:
        """The question that a well-formed request puts."""
        heads = len(request.arrays["weight"]) if kind == "evaluate" else 1
        number, part = int(request.fields.get("round", 0)), str(request.fields.get("part", ""))
        return cls(kind, number, part, heads, question_digest(request))

    @classmethod
    def read(cls, job: Job, purpose: str, digest: str) -> Self:
        """The question that a purpose names.

        Raises:
            ConfigError: it names none that this job asks.
        """
        kind = purpose.partition(":")[0]
        if kind not in SUMMED or not SUMMED_BY[kind](job):
            raise ConfigError("the purpose is no sum that this job asks for")
        if kind == "evaluate" and (found := _EVALUATE.fullmatch(purpose)):
            question = cls(kind, int(found[2]), found[1], int(found[3]), digest)
            right = 1 <= question.heads <= MAX_HEADS and 0 <= question.number <= job.method.rounds
        elif kind == "groups" and (found := _GROUPS.fullmatch(purpose)):
            question = cls(kind, int(found[1]), digest=digest)
            right = 0 <= question.number <= job.method.rounds
        elif kind in _ROUND and (found := _OF_ROUND.fullmatch(purpose)):
            question = cls(kind, int(found[2]), digest=digest)
            right = 1 <= question.number <= job.method.rounds
        else:
            question, right = cls(kind, digest=digest), purpose == kind
        if not right or question.purpose != purpose:
            raise ConfigError("the purpose is not one of this job's sums, or of a round that it does not have")
        return question

    @property
    def purpose(self) -> str:
        """As in the terms of a session."""
        if self.kind == "evaluate":
            return f"evaluate:{self.part}:{self.number}:{self.heads}:{self.digest[:16]}"
        return f"{self.kind}:{self.number}" if self.kind in (*_ROUND, "groups") else self.kind


def question_digest(request: Packed) -> str:
    """sha256 (64 hex digits) over all arrays and fields of a question."""
    fields = json.dumps(dict(sorted(request.fields.items())))
    return hashlib.sha256(
        f"{digest_of_arrays(cast('Mapping[str, Float32]', request.arrays))}\n{fields}".encode()
    ).hexdigest()


def layout_of(question: Question, job: Job, tuned: Shapes) -> Layout:
    """The arrays of an answer, as they are summed. tuned: shapes of the backbone's arrays that the job tunes."""
    classes, features = job.num_classes, job.num_features
    dims = dimensions(job)
    match question.kind:
        case "holdings":
            counts = {"images": (len(PARTS), classes), "patients": (len(PARTS),)}
            counts |= dict.fromkeys(("examples", "other-labels", "unreadable", "decoded", "cached"), ())
            parts = [("", HIGH_BITS), (LOW, LOW_BITS)]
            of_features = [
                Slot(f"{name}{part}", (features,), "real", bits) for name in ("sums", "squares") for part, bits in parts
            ]
            slots = [*_counts(counts), *of_features]
        case "statistics":
            slots = [_real("gram", dims["T"]), _real("class-sums", dims["S"], classes), *_counts({"examples": ()})]
        case "fit":
            trained = {"weight": (classes, features), "bias": (classes,), **_tuned(tuned)}
            slots = [_real(name, *shape) for name, shape in trained.items()]
            slots += [_real("loss"), *_counts({"examples": (), "loss-examples": ()}), *_of_heads(1, classes)]
        case "noised-fit":
            slots = [_real("weight", classes, features), _real("bias", classes), *_counts({"patients": ()})]
        case "evaluate":
            slots = _of_heads(question.heads, classes)
        case "distances":
            slots = _counts({"distances": (classes, SCORE_BINS)})
        case "groups":
            slots = _counts({"confusion": (dims["G"], classes, classes)})
        case "centre":
            slots = _counts({"units": (features + 1,)})
        case "noised-statistics":
            slots = _counts({"units": (numbers_of(dims["S"] - 1, classes),)})
        case _:
            slots = _counts({"units": (classes, features + 1)})
    return Layout(tuple(slots))


def in_two_parts(name: str, numbers: Float64) -> dict[str, Float64]:
    """Numbers as an array of the name on the grid of `HIGH_BITS`, and one with what that rounds away."""
    high = np.rint(numbers * 2.0**HIGH_BITS) / 2.0**HIGH_BITS
    return {name: high, f"{name}{LOW}": numbers - high}


def released(question: Question, job: Job) -> int:
    """How many numbers a noised answer has."""
    return prod(layout_of(question, job, {}).slots[0].shape)


def _tuned(shapes: Shapes) -> Shapes:
    return {f"tuned.{name}": shape for name, shape in shapes.items()}


def _of_heads(heads: int, classes: int) -> list[Slot]:
    return _counts(
        {
            "confusion": (heads, classes, classes),
            "histograms": (heads, classes, 2, SCORE_BINS),
            "calibration": (heads, 3, CALIBRATION_BINS),
            "losses": (heads, 2),
        }
    )


def _counts(shapes: Shapes) -> list[Slot]:
    return [Slot(name, shape, "count") for name, shape in shapes.items()]


def _real(name: str, *shape: int) -> Slot:
    return Slot(name, shape, "real", FRACTION_BITS)
