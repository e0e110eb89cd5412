"""The operating point: from which probability on a class is said to be there, by a rule, on validation patients.

The rule names a class and the sensitivity (or specificity) that is wanted for it. The threshold is an edge of the
score bins, so it comes from the pooled histograms that hospitals send anyway, and no probability is ever between a
count and its threshold.

What is promised holds for a new patient of the same kind, not only for those counted: of P patients with the class c
are below the edge, and a new one is as likely to come anywhere among them, so it is missed with probability (c + 1) /
(P + 1) at most. The edge is the one that promises what the rule wants and gives away least of the other side.
Source: Vovk et al. 2005, Algorithmic Learning in a Random World, proposition 2.3 (conformal prediction).

Letters: B score bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_serializer, model_validator

from common.config_file import Section
from common.metrics import ClassificationCounts, Int64, score_edges

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class OperatingRule(Section):
    """Which class, and what is wanted: either the sensitivity or the specificity for it, above 0 and below 1."""

    name: str = Field(alias="class")
    sensitivity: Share | None = None
    specificity: Share | None = None

    @model_validator(mode="after")
    def _one_wish(self) -> Self:
        if (self.sensitivity is None) == (self.specificity is None):
            raise ValueError("expected either sensitivity or specificity, not both and not neither")
        return self

    @model_serializer
    def _told(self) -> dict[str, Any]:
        wish = {"sensitivity": self.sensitivity, "specificity": self.specificity}
        return {"class": self.name, **{name: value for name, value in wish.items() if value is not None}}

    @property
    def words(self) -> str:
        """The rule in a few words."""
        wish, value = ("sensitivity", self.sensitivity) if self.sensitivity else ("specificity", self.specificity)
        return f"{wish} {value:g} for {self.name}"


class OperatingPoint(Section):
    """A class is said to be there from `threshold` on, a probability in [0, 1].

    sensitivity, specificity: what is promised. found_sensitivity, found_specificity: of the validation patients themselves.
    positives, negatives: how many of them had the class, and had not.
    """

    name: str = Field(alias="class")
    rule: str
    threshold: float = Field(ge=0.0, le=1.0)
    sensitivity: float
    specificity: float
    found_sensitivity: float
    found_specificity: float
    positives: int
    negatives: int


@dataclass(frozen=True)
class Unkept:
    """Why there is no operating point."""

    reason: str


def operating_point(
    rule: OperatingRule, classes: Sequence[str], counts: ClassificationCounts
) -> OperatingPoint | Unkept:
    """The operating point that a rule gives on validation counts of the final head."""
    others, own = counts.histograms[list(classes).index(rule.name)]
    positives, negatives = int(own.sum()), int(others.sum())
    if not positives or not negatives:
        lacking = rule.name if not positives else f"anything but {rule.name}"
        return Unkept(f"no validation image shows {lacking}")
    missed, cleared = _below(own), _below(others)
    hit = 1.0 - (missed + 1) / (positives + 1)
    spared = 1.0 - (negatives - cleared + 1) / (negatives + 1)
    if rule.sensitivity is not None:
        keeping = np.flatnonzero(hit >= rule.sensitivity)
        edge, most = (int(keeping[-1]), 0) if len(keeping) else (None, positives)
        wish = f"sensitivity {rule.sensitivity:g} takes {_needed(rule.sensitivity)} validation images of {rule.name}"
    else:
        keeping = np.flatnonzero(spared >= (rule.specificity or 0.0))
        edge, most = (int(keeping[0]), 0) if len(keeping) else (None, negatives)
        wish = f"specificity {rule.specificity:g} takes {_needed(rule.specificity or 0.0)} validation images without it"
    if edge is None or edge == 0 or edge == len(missed) - 1:
        have = most or (positives if rule.sensitivity is not None else negatives)
        return Unkept(f"to promise a {wish} or more, better told apart; there are {have}")
    return OperatingPoint(
        name=rule.name,
        rule=rule.words,
        threshold=float(score_edges()[edge]),
        sensitivity=float(hit[edge]),
        specificity=float(max(0.0, spared[edge])),
        found_sensitivity=float(1.0 - missed[edge] / positives),
        found_specificity=float(cleared[edge] / negatives),
        positives=positives,
        negatives=negatives,
    )


def _below(histogram: Int64) -> Int64:
    """Examples below each of the B + 1 edges."""
    return np.concatenate([[0], np.cumsum(histogram)])


def _needed(share: float) -> int:
    """Examples without which a share cannot be promised, however well they are told apart."""
    return int(np.ceil(1.0 / (1.0 - share) - 1e-9)) - 1
