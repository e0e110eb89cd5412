"""Local training of the head on cached features: mini-batch SGD or Adam on the cross-entropy.

With `proximal_mu` it is the local solver of FedProx. Source: Li et al. 2020, arXiv 1812.06127, equation 2.

Letters: N examples, D features, C classes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from common.head import Float32, Head
from common.methods import LocalTraining
from common.metrics import Int64


@dataclass(frozen=True)
class Examples:
    """features (N, D) float32 and labels (N,) int64 in 0..C-1."""

    features: Float32
    labels: Int64

    def __len__(self) -> int:
        return len(self.labels)


def seed_of(job_seed: int, server_round: int, hospital: str) -> int:
    """Seed of one hospital's training in one round: another in every round and hospital, the same on every machine."""
    digest = hashlib.sha256(f"{job_seed}\n{server_round}\n{hospital}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Trained:
    """A trained head, the sum over the examples of their cross-entropy as met during the last epoch, and the steps made."""

    head: Head
    loss_sum: float
    steps: int


def train_head(
    start: Head,
    examples: Examples,
    local: LocalTraining,
    seed: int,
    correction: Mapping[str, Float32] | None = None,
) -> Trained:
    """Train a head from `start`; equal arguments give equal bits.

    correction: added to the gradients of `weight` (C, D) and `bias` (C,), in scaffold.
    """
    with one_thread():
        features, labels = torch.from_numpy(examples.features), torch.from_numpy(examples.labels)
        weight = torch.tensor(start.weight, requires_grad=True)
        bias = torch.tensor(start.bias, requires_grad=True)
        anchors = ((weight, weight.detach().clone()), (bias, bias.detach().clone()))
        optimizer = make_optimizer(local, [{"params": [weight, bias], "lr": local.lr}])
        weights = class_weights(local, labels, len(start.bias))
        drift = [torch.tensor(correction[name]) for name in ("weight", "bias")] if correction else []
        generator = torch.Generator().manual_seed(seed)
        loss_sum, steps = 0.0, 0
        for _ in range(local.epochs):
            loss_sum = 0.0
            for rows in torch.randperm(len(labels), generator=generator).split(local.batch_size):  # type: ignore[no-untyped-call]
                optimizer.zero_grad(set_to_none=True)
                logits = features[rows] @ weight.T + bias
                loss = cross_entropy(logits, labels[rows], weight=weights)
                loss_sum += float(loss.detach()) * len(rows)
                if local.proximal_mu:
                    for parameter, anchor in anchors:
                        loss = loss + local.proximal_mu / 2 * (parameter - anchor).square().sum()
                loss.backward()  # type: ignore[no-untyped-call]
                add_to_gradients([weight, bias], drift)
                optimizer.step()
                steps += 1
        return Trained(Head(weight.detach().numpy(), bias.detach().numpy()), loss_sum, steps)


def add_to_gradients(parameters: Sequence[torch.Tensor], corrections: Sequence[torch.Tensor]) -> None:
    """Add a correction to the gradient of each parameter; none of them if there are no corrections."""
    for parameter, change in zip(parameters, corrections, strict=bool(corrections)):
        if parameter.grad is not None:
            parameter.grad.add_(change)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread adds in one order: the result does not depend on the number of cores. (It is faster here, too.)"""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_optimizer(local: LocalTraining, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    """The optimizer of some groups of parameters, each with its learning rate."""
    if local.optimizer == "adam":
        return torch.optim.Adam(groups, weight_decay=local.weight_decay)
    return torch.optim.SGD(groups, momentum=local.momentum, weight_decay=local.weight_decay)


def class_weights(local: LocalTraining, labels: torch.Tensor, classes: int) -> torch.Tensor | None:
    """`balanced`: N / (classes present x examples of the class), so that every class counts the same; 0 if it has none."""
    if local.class_weights != "balanced":
        return None
    number = torch.bincount(labels, minlength=classes).float()
    weights = len(labels) / (int((number > 0).sum()) * number)
    return torch.where(number > 0, weights, torch.zeros(()))
