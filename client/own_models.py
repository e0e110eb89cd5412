"""What a hospital can do with its own examples alone, and with the global head and its own examples.

Letters: N examples, D features, C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from client.statistics import sums_of
from client.training import Examples, train_head
from common.candidates import TEMPERATURES, best_of, best_temperature, by_sums_alone, candidates, divided
from common.head import Head
from common.job import Job, Personalisation
from common.methods import LocalTraining
from common.metrics import ClassificationCounts, Metrics, count, count_each, derive


def count_head(head: Head, examples: Examples) -> ClassificationCounts:
    """Counts of a head on examples, which may be none."""
    if len(examples) == 0:
        return ClassificationCounts.zeros(len(head.bias))
    return count(head.probabilities(examples.features), examples.labels)


def count_heads(heads: Sequence[Head], examples: Examples) -> list[ClassificationCounts]:
    """Counts of some heads on examples, which may be none."""
    if len(examples) == 0:
        return [ClassificationCounts.zeros(len(head.bias)) for head in heads]
    return count_each(np.stack([head.probabilities(examples.features) for head in heads]), examples.labels)


def own_head(job: Job, parts: Mapping[str, Examples]) -> Head:
    """The closed-form head of the hospital's own standardised examples, chosen and calibrated on its own validation patients.

    Closed form whatever the job's method: it is what the hospital could do alone, in seconds.
    """
    plain = job.model_copy(
        update={"method": job.method.model_copy(update={"projection": None, "stage_subsets": False})}
    )
    solved = candidates(plain, sums_of(parts["train"], plain))
    found, validation = [candidate.head for candidate in solved], parts["validation"]
    if len(validation) == 0:
        return by_sums_alone(solved).head
    best = found[best_of([_metrics(head, validation) for head in found], job.evaluation.select_by)]
    tempered = [divided(best, temperature) for temperature in TEMPERATURES]
    return tempered[best_temperature([_metrics(head, validation) for head in tempered])]


def personal_head(start: Head, train: Examples, how: Personalisation, seed: int) -> Head:
    """The global head trained on for some epochs with the hospital's own standardised examples."""
    local = LocalTraining(
        epochs=how.epochs,
        lr=how.lr,
        batch_size=64,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=0.0,
        class_weights="none",
        proximal_mu=0.0,
    )
    return train_head(start, train, local, seed).head


def _metrics(head: Head, examples: Examples) -> Metrics:
    return derive(count_head(head, examples))
