"""The federation that is attacked: the chest task's hospitals, and a round of local training in them.

Letters: N examples, D features, C classes, K hospitals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.privacy.private_heads import Part
from client.training import Examples, seed_of, train_head
from common.drift import local_norm
from common.head import Head, Standardisation
from common.method_choice import Method
from common.methods import LocalTraining
from common.metrics import count, derive

CLASSES = 2


def method_of(name: str, **options: object) -> Method:
    """A method with its defaults and some options."""
    return Method.model_validate({"name": name, **options})


LOCAL = method_of("fedavg").local
"""What a hospital does in a round of fedavg with the defaults."""


def whole(parts: Mapping[str, Part]) -> Part:
    """All of a hospital's parts."""
    return joined(list(parts.values()))


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one."""
    return Part(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("features", "labels", "ids")))


def standardised(trains: Sequence[Part], parts: Sequence[Part]) -> list[Part]:
    """`parts` with the standardisation that the sums over `trains` give."""
    features = np.concatenate([one.features for one in trains]).astype(np.float64)
    found = Standardisation.from_sums(len(features), features.sum(axis=0), (features**2).sum(axis=0))
    return [Part(found.apply(one.features), one.labels, one.ids) for one in parts]


@dataclass(frozen=True)
class Sent:
    """What one hospital sends in a round: its head, its number of examples and of steps."""

    head: Head
    examples: int
    steps: int

    def change(self, start: Head) -> np.ndarray:
        """(C, D + 1) float64, the bias last."""
        return numbers(self.head) - numbers(start)

    def weight_of_one(self, local: LocalTraining) -> float:
        """By how much the mean example's gradient at the start is in change x examples, with its sign turned."""
        return (
            local.lr * local_norm(local, self.steps) * self.examples / self.steps / min(local.batch_size, self.examples)
        )


def sent(
    start: Head, part: Part, name: str, server_round: int = 1, local: LocalTraining = LOCAL, seed: int = 3
) -> Sent:
    """A round at one hospital, by the code of a run; features are standardised."""
    trained = train_head(start, Examples(part.features, part.labels), local, seed_of(seed, server_round, name))
    return Sent(trained.head, len(part.labels), trained.steps)


def summed(start: Head, replies: Sequence[Sent]) -> np.ndarray:
    """All that a secure sum shows of updates: the sum of change x examples (C, D + 1)."""
    return np.sum([one.examples * one.change(start) for one in replies], axis=0)


def mean_head(start: Head, replies: Sequence[Sent]) -> Head:
    """The next head of fedavg, which follows from the sum."""
    return head_of(numbers(start) + summed(start, replies) / sum(one.examples for one in replies))


def numbers(head: Head) -> np.ndarray:
    """(C, D + 1) float64, the bias last."""
    return np.concatenate([head.weight, head.bias[:, None]], axis=1).astype(np.float64)


def head_of(values: np.ndarray) -> Head:
    """The head of (C, D + 1), the bias last."""
    return Head(values[:, :-1].astype(np.float32), values[:, -1].astype(np.float32))


def with_constant(features: np.ndarray) -> np.ndarray:
    """Features (N, D + 1) float64, the constant last."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)


def residuals_of(head: Head, part: Part) -> np.ndarray:
    """p - y (N, C): an example's gradient is its residual times its features, transposed."""
    return head.probabilities(part.features) - np.eye(len(head.bias))[part.labels]


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """By ranks: scores as probabilities keep their order, and the counts of common.metrics do the rest."""
    ranks = (np.argsort(np.argsort(scores)) + 1.0) / (len(scores) + 1.0)
    metrics = derive(count(np.stack([1 - ranks, ranks], axis=1), positive.astype(np.int64)))
    return float(metrics.auroc or 0.0)
