"""Counts of which none is small: `min_count` b of a hospital's policy, for all that is counted on validation and test patients.

1. Of each class and part a multiple of b images are counted; up to b - 1 are left out for good, drawn by the hospital's key.
2. For each head and true class the images are put in an order, and each b in a row are told as b times one of them. Which
   one, the first to the b-th, is drawn by the key for each b in a row, once and for ever. Cumulative counts are so
   rounded up or down to multiples of b, on average to what they are: random rounding with fixed draws, controlled to
   add up (Cox 1987, JASA 82:520). The orders (`client/rounding.py`): by predicted class and the confidence in it
   (confusion matrix, calibration), by the score of each class (histograms), and by the distance from the training
   images (`distances`). With two classes the first two are one and the same order.
3. All else is worked out from what 2. told: marginals, totals over classes, sums of confidence and of losses. A sum of exact
   numbers would give away the ratio of two exact counts, to many digits.

So every count is 0 or at least b, and they agree with each other as exact ones do: the guard checks them in the same way.

What holds: whoever lacks the key cannot tell a count of 0 from any below b, nor one told as kb from any less than b away.

- Marginals are sums of what is told. Of the exact row sums nothing is told but the multiple of b that is counted at all.
- Exact numbers elsewhere (training images and examples, the sums of the closed form) are about other patients, and of each class
  there are none or at least b, else the hospital declines (`client.policy.require_enough`). Numbers of patients, of other labels,
  unreadable, decoded and cached images are rounded down to multiples of b.
- Rounds, and heads of one request: the draws are fixed, so asking twice says nothing new. The difference of two answers is a
  multiple of b. Where it is not 0, an image that is told changed its place, and how many lie beyond it only the key says.

What does not hold: a coordinator that makes heads for the purpose learns from many of them. A jump between two almost equal heads
is the score of some image. Averages over many unlike heads, held against what is known of the distribution of features, narrow
the draws, and then the counts. Updates, and the sums of the closed form, are no counts: they are exact sums over training images,
and an update says how many of them a head gets wrong. Two jobs that part the patients in other ways have other training images,
and the difference of their exact numbers may be small; so may that of one job before and after images are added. Against all that
stand secure aggregation, noise, `allow_methods: [analytic]`, and reading a job before it is approved.

How far off: a cumulative count by at most b - 1, so with S counted images of a class the AUROC of class c by at most
(b - 1) (1 / S_c + (C - 1) / S_others), with two classes sensitivity and specificity by (b - 1) / S; over the draws the mean is
right. Sums of losses and of confidence are off by the width of a score bin besides.

Letters: N examples, C classes, b base.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.own_secrets import make_once
from client.records import Record
from client.rounding import rounded, rounded_counts, told_images
from common.errors import DataError
from common.messages import Description
from common.metrics import ClassificationCounts, Float64, Int64

KEY_FILE = "suppression.key"
_KEY_BYTES = 32


@dataclass(frozen=True)
class Suppression:
    """Counts of a job's `classes` in multiples of `base`; key: the hospital's own, by which all draws are made."""

    base: int
    key: bytes
    classes: tuple[str, ...]

    def down(self, number: int) -> int:
        """The largest multiple of the base up to a number."""
        return number // self.base * self.base

    def described(self, told: Description) -> Description:
        """What the hospital says of itself, with every number but those of images and examples a multiple of the base.

        Those are already: `kept`, and in training exact numbers of at least the base for each class.
        """
        found = self.down(told.decoded + told.cached)
        decoded = self.down(told.decoded)
        return replace(
            told,
            patients=told.patients // self.base * self.base,
            other_labels=self.down(told.other_labels),
            unreadable=self.down(told.unreadable),
            decoded=decoded,
            cached=found - decoded,  # not rounded by itself: with `decoded` it would say more of their sum
        )

    def kept(self, records: Sequence[Record]) -> npt.NDArray[np.bool_]:
        """Which records are counted (N,): of each class in validation and test a multiple of the base, in training all.

        The draw depends on patient and file name alone, so it is the same in every round and in every job with these parts.
        """
        chosen = np.ones(len(records), bool)
        groups: dict[tuple[str, int], list[int]] = {}
        for index, record in enumerate(records):
            if record.part != "train":
                groups.setdefault((record.part, record.label), []).append(index)
        for indices in groups.values():
            drawn = sorted(
                indices, key=lambda index: _draw(self.key, records[index].patient_id, records[index].path.name)
            )
            chosen[drawn[self.down(len(drawn)) :]] = False
        return chosen

    def count(self, probabilities: Float64, labels: Int64, part: str) -> ClassificationCounts:
        """Counts of probabilities (N, C) against labels (N,) of a part; of each class a multiple of the base examples."""
        told = self._told(np.bincount(labels, minlength=len(self.classes)), part)
        return rounded_counts(probabilities, labels, told, self.base)

    def ordered(self, counts: Int64, part: str) -> Int64:
        """Counts (C, n) by class along an order of a part's images; of each class a multiple of the base, before and after."""
        told = self._told(counts.sum(axis=1), part)
        return np.stack(
            [
                rounded(row, told[label], self.base) if label in told else np.zeros_like(row)
                for label, row in enumerate(counts)
            ]
        )

    def times(self, probabilities: Float64, labels: Int64, part: str) -> Int64:
        """How often each image (N,) is told in the confusion matrix of `count`: the base, or 0."""
        told = self._told(np.bincount(labels, minlength=len(self.classes)), part)
        return self.base * told_images(probabilities, labels, told).astype(np.int64)

    def _told(self, examples: Int64, part: str) -> dict[int, Int64]:
        """The ranks that are told, by class that has any of its `examples` (C,)."""
        number = examples // self.base
        return {
            label: told_ranks(self.key, self.base, part, name, int(number[label]))
            for label, name in enumerate(self.classes)
            if number[label]
        }


def hospital_key(state: Path) -> bytes:
    """The hospital's own key, in a file of its state folder; made when it is first asked for.

    Raises:
        DataError: the file is not one of ours, or cannot be made.
    """
    path = state / KEY_FILE
    try:
        if not path.exists():
            make_once(path, _KEY_BYTES)
        key = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the key by which small counts are hidden cannot be had: {error.strerror}") from error
    if len(key) != _KEY_BYTES:
        raise DataError(
            f"{path}: expected a key of {_KEY_BYTES} bytes, got {len(key)}; restore it from a copy, or remove it and a new one "
            "is made, which tells a little more of counts that were told before"
        )
    return key


@functools.lru_cache(maxsize=64)
def told_ranks(key: bytes, base: int, part: str, name: str, number: int) -> Int64:
    """Which of a class's ordered images are told (number,): a rank from 1 out of each `base` in a row."""
    drawn = [int.from_bytes(_draw(key, part, name, str(index))[:8], "big") % base for index in range(number)]
    return np.arange(number, dtype=np.int64) * base + np.array(drawn, np.int64) + 1


def _draw(key: bytes, *what: str) -> bytes:
    # surrogateescape: a file name need not be UTF-8.
    return hashlib.sha256(key + "\n".join(what).encode("utf-8", "surrogateescape")).digest()
