"""Local training of the heads of many hospitals as one computation: simulations of hundreds of hospitals.

The same batches in the same order, the same steps as `client.training.train_head`, hospital by hospital side by side:
`torch.bmm` over hospitals of about the same size, the shorter ones filled up with rows of weight 0. Numbers differ in
rounding only (1e-5).

Letters: K hospitals, N examples of the largest of them, B of a batch, D features, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from client.training import Examples, Trained, class_weights, one_thread
from common.head import Float32, Head
from common.methods import LocalTraining

_MOST_PADDING = 1.25
_MOST_NUMBERS = 8_000_000
"""Of the features that are side by side at once: 32 MB."""


@dataclass(frozen=True)
class Exercise:
    """What one hospital is to train: the arguments of `train_head`."""

    start: Head
    examples: Examples
    local: LocalTraining
    seed: int
    correction: Mapping[str, Float32] = field(default_factory=dict)


def can_train_together(exercise: Exercise) -> bool:
    """Whether it is plain: SGD, no control variates, at least one example."""
    return exercise.local.optimizer == "sgd" and not exercise.correction and len(exercise.examples) > 0


def train_together(exercises: Sequence[Exercise]) -> list[Trained]:
    """What `train_head` gives for each, in their order; all have the same `local` and heads of the same shape.

    Raises:
        ValueError: one of them is not plain, or they are not alike.
    """
    if not all(can_train_together(one) for one in exercises) or len({one.local for one in exercises}) > 1:
        raise ValueError("exercises that train together are plain and have the same options")
    found: dict[int, Trained] = {}
    with one_thread(), torch.no_grad():
        for places in _groups(exercises):
            trained = _train([exercises[place] for place in places])
            found |= dict(zip(places, trained, strict=True))
    return [found[place] for place in range(len(exercises))]


def _groups(exercises: Sequence[Exercise]) -> Iterator[list[int]]:
    """Places of exercises of about the same size."""
    group: list[int] = []
    for place in sorted(range(len(exercises)), key=lambda place: len(exercises[place].examples)):
        size, width = exercises[place].examples.features.shape
        least = len(exercises[group[0]].examples) if group else size
        if group and (size > _MOST_PADDING * least or (len(group) + 1) * size * width > _MOST_NUMBERS):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _train(exercises: Sequence[Exercise]) -> list[Trained]:
    local, sizes = exercises[0].local, [len(one.examples) for one in exercises]
    batch, size = local.batch_size, torch.tensor(sizes)
    weight = torch.stack([torch.from_numpy(one.start.weight) for one in exercises])  # (K, C, D)
    bias = torch.stack([torch.from_numpy(one.start.bias) for one in exercises])  # (K, C)
    parameters = (weight, bias)
    anchors = [one.clone() for one in parameters] if local.proximal_mu else []
    momenta = [torch.zeros_like(one) for one in parameters] if local.momentum else []
    generators = [torch.Generator().manual_seed(one.seed) for one in exercises]
    features = torch.zeros(len(exercises), max(sizes), weight.shape[2])  # (K, N, D)
    truth, worth = torch.zeros(len(exercises), max(sizes), weight.shape[1]), torch.zeros(len(exercises), max(sizes))
    by_class = [_weights(one, weight.shape[1]) for one in exercises]
    losses, steps = torch.zeros(len(exercises), dtype=torch.float64), [0] * len(exercises)
    for _ in range(local.epochs):
        losses.zero_()
        for place, (one, generator) in enumerate(zip(exercises, generators, strict=True)):
            order = torch.randperm(sizes[place], generator=generator)
            torch.index_select(torch.from_numpy(one.examples.features), 0, order, out=features[place, : sizes[place]])
            labels = torch.from_numpy(one.examples.labels)[order]
            truth[place, : sizes[place]] = torch.nn.functional.one_hot(labels, weight.shape[1]).float()
            worth[place, : sizes[place]] = by_class[place][labels]
            steps[place] += -(-sizes[place] // batch)
        for first in range(0, max(sizes), batch):
            rows = slice(first, first + batch)
            here = (size - first).clamp(0, batch)
            gradients, loss = _gradients(features[:, rows], truth[:, rows], worth[:, rows], weight, bias)
            losses += loss.double() * here
            _step(parameters, gradients, anchors, momenta, local, here > 0)
    return [
        Trained(Head(weight[place].numpy().copy(), bias[place].numpy().copy()), float(losses[place]), steps[place])
        for place in range(len(exercises))
    ]


def _weights(one: Exercise, classes: int) -> Tensor:
    """What an example of each class counts (C,)."""
    found = class_weights(one.local, torch.from_numpy(one.examples.labels), classes)
    return torch.ones(classes) if found is None else found


def _gradients(
    features: Tensor, truth: Tensor, worth: Tensor, weight: Tensor, bias: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Gradients of the mean cross-entropy (K, C, D) and (K, C), and the mean itself (K,); 0 for a hospital without a row.

    features (K, B, D), truth (K, B, C) one-hot, worth (K, B): what each row counts, 0 of those that fill up.
    """
    logits = torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))
    logarithms = logits.log_softmax(2)
    share = worth / worth.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    error = (logarithms.exp() - truth) * share[..., None]
    loss = -(logarithms * truth).sum(2).mul(share).sum(1)
    return (torch.bmm(error.transpose(1, 2), features), error.sum(1)), loss


def _step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    anchors: Sequence[Tensor],
    momenta: Sequence[Tensor],
    local: LocalTraining,
    working: Tensor,
) -> None:
    """A step of torch.optim.SGD for the hospitals (K,) that have a batch; the others have finished and stay as they are."""
    everyone = bool(working.all())
    for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        change = gradient
        if local.proximal_mu:
            change = change + local.proximal_mu * (parameter - anchors[place])
        if local.weight_decay:
            change = change + local.weight_decay * parameter
        active = working.view(-1, *[1] * (parameter.dim() - 1))
        if local.momentum:
            moved = local.momentum * momenta[place] + change
            momenta[place].copy_(moved if everyone else torch.where(active, moved, momenta[place]))
            change = momenta[place]
        parameter.sub_(local.lr * change if everyone else torch.where(active, local.lr * change, 0.0))
