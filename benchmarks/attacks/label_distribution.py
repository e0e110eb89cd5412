"""2. How many cases of each class does one hospital have? Class proportions from the change of the bias.

At a head of zeros every class has the same probability, so the gradient of the bias is 1/C less the share of each class, whatever
the features; the coordinator chooses the head that it sends, so it can always send zeros. From a plain update the hospital's own
share follows, from a secure sum that of the pool alone. Source: Wainakh et al. 2021, arXiv 2105.09369 (LLG, with the gradient of
the bias in the place of the row sums, which have features in them).

Letters: C classes, D features, K hospitals.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.attacks.federation import CLASSES, LOCAL, Sent, method_of, sent, standardised, summed
from benchmarks.attacks.table import Table
from benchmarks.privacy.private_heads import Part, descended, spending_of
from common.drift import local_norm
from common.head import Head
from common.methods import LocalTraining

SOURCE = "Wainakh et al. 2021, arXiv 2105.09369"
EPSILON = 3.0
FULL_BATCHES = method_of("fedavg", batch_size=1_000_000, weight_decay=0.0).local
"""What the coordinator may write into the job as well."""


def shares(bias_change: np.ndarray, weight: float) -> np.ndarray:
    """Share of each class (C,), in [0, 1], from how a bias (C,) moved away from zeros, and what one gradient weighed in it."""
    raw = np.clip(1.0 / len(bias_change) + bias_change / weight, 0.0, 1.0)
    return np.asarray(raw / max(raw.sum(), 1e-12))


def calibrated(part: Part, number: int, local: LocalTraining, start: Head) -> tuple[float, float]:
    """Slope and offset by which `shares` errs, learned on updates that the attacker makes with so many images of its own.

    As the head learns within the round its residuals shrink, which the first order leaves out.
    """
    rng, found, true = np.random.default_rng(0), [], []
    for place, share in enumerate(np.repeat(np.linspace(0.1, 0.9, 5), 3)):
        one = drawn(part, number, share, rng)
        found.append(from_update(start, sent(start, one, f"own-{place}", local=local), local)[1])
        true.append(one.labels.mean())
    slope, offset = np.polyfit(found, true, 1)
    return float(slope), float(offset)


def from_update(start: Head, reply: Sent, local: LocalTraining) -> np.ndarray:
    """Share of each class (C,) at one hospital, from its plain update."""
    return shares(reply.change(start)[:, -1], local.lr * local_norm(local, reply.steps))


def from_sum(total: np.ndarray, examples: int, replies: Sequence[Sent], local: LocalTraining) -> np.ndarray:
    """Share of each class (C,) in the pool, from the sum of change x examples (C, D + 1) over some hospitals."""
    weight = sum(one.examples * local.lr * local_norm(local, one.steps) for one in replies) / examples
    return shares(total[:, -1] / examples, weight)


def drawn(part: Part, number: int, share: float, rng: np.random.Generator) -> Part:
    """A hospital of so many images with this share of the second class, drawn from a part."""
    second = round(number * share)
    rows = [
        rng.permutation(np.flatnonzero(part.labels == label))[:size]
        for label, size in ((0, number - second), (1, second))
    ]
    return part.of(np.concatenate(rows))


def attack(trains: list[Part], draws: int, noised_draws: int, target: int = 0, others: int = 1) -> Table:
    """The target gets a new share of pneumonia in each draw, the others stay; error of the share that is inferred."""
    start = Head.zeros(CLASSES, trains[0].features.shape[1])
    given = standardised(trains, trains)
    errors: dict[str, list[float]] = {}
    rng = np.random.default_rng(1)
    for draw in range(draws):
        share = rng.uniform(0.05, 0.95)
        one = drawn(given[target], int(rng.integers(60, 320)), share, rng)
        true = float(one.labels.mean())
        rest = [part for place, part in enumerate(given) if place != target]
        slope, offset = calibrated(given[others], len(one.ids), LOCAL, start)
        replies = [sent(start, part, f"hospital-{place}") for place, part in enumerate([one, *rest])]
        whole = [
            [sent(start, part, f"hospital-{place}", number, FULL_BATCHES) for place, part in enumerate([one, *rest])]
            for number in (1, 2)
        ]
        # Two rounds from one head, the hospital in the first alone: the difference of the sums is its update.
        left = summed(start, whole[0]) - summed(start, whole[1][1:])
        number = sum(reply.examples for reply in replies)
        guesses = {
            "nothing": 0.5,
            "plain update": slope * from_update(start, replies[0], LOCAL)[1] + offset,
            "plain update, the job says full batches": from_update(start, whole[0][0], FULL_BATCHES)[1],
            "secure sum over four hospitals": from_sum(summed(start, replies), number, replies, LOCAL)[1],
            "the true share of the pool": sum(part.labels.sum() for part in [one, *rest]) / number,
            "secure sums of two rounds from one head, full batches, the hospital in one": from_sum(
                left, len(one.ids), whole[0][:1], FULL_BATCHES
            )[1],
        }
        if draw < noised_draws:
            raw = [
                _raw_like(trains, given, target, one),
                *(part for place, part in enumerate(trains) if place != target),
            ]
            guesses[f"first secure sum of (b) descent, epsilon {EPSILON:g}"] = _noised(raw, draw)
        for name, guess in guesses.items():
            errors.setdefault(name, []).append(abs(float(np.clip(guess, 0, 1)) - true))
    columns = ("the attacker sees", "mean error of the hospital's share of pneumonia", "largest error")
    rows = tuple((name, float(np.mean(found)), float(np.max(found))) for name, found in errors.items())
    return Table("2. Class proportions of one hospital", SOURCE, columns, rows)


def _raw_like(trains: list[Part], given: list[Part], target: int, one: Part) -> Part:
    """The drawn hospital with features that are not standardised yet; (b) does that in its own way."""
    place = {row.tobytes(): number for number, row in enumerate(given[target].features)}
    return trains[target].of(np.array([place[row.tobytes()] for row in one.features]))


def _noised(trains: list[Part], draw: int) -> float:
    """Share of pneumonia in the pool, from the first noised sum: patients' gradients at zeros, clipped."""
    watched: list[np.ndarray] = []
    entropy = np.random.default_rng([draw, 5]).bytes
    _, number = descended(trains, spending_of(EPSILON), entropy, watch=lambda *seen: watched.append(seen[2]))
    return float(0.5 - watched[0][1, -1] / number)
