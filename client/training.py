"""Local training of the head on cached features: mini-batch SGD or Adam on the cross-entropy.

With `proximal_mu` it is the local solver of FedProx. Source: Li et al. 2020, arXiv 1812.06127, equation 2.

Letters: N examples, D features, C classes.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from common.head import Float32, Head
from common.job import Method
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


def train_head(start: Head, examples: Examples, method: Method, seed: int) -> tuple[Head, float]:
    """Train a head for `method.local_epochs` epochs from `start`; equal arguments give equal bits.

    Returns:
        The trained head, and the sum over the examples of their cross-entropy as met during the last epoch.
    """
    with _one_thread():
        features, labels = torch.from_numpy(examples.features), torch.from_numpy(examples.labels)
        weight = torch.tensor(start.weight, requires_grad=True)
        bias = torch.tensor(start.bias, requires_grad=True)
        anchors = ((weight, weight.detach().clone()), (bias, bias.detach().clone()))
        optimizer = _optimizer(method, [weight, bias])
        class_weights = _class_weights(method, labels, len(start.bias))
        generator = torch.Generator().manual_seed(seed)
        loss_sum = 0.0
        for _ in range(method.local_epochs):
            loss_sum = 0.0
            for rows in torch.randperm(len(labels), generator=generator).split(method.batch_size):  # type: ignore[no-untyped-call]
                optimizer.zero_grad(set_to_none=True)
                logits = features[rows] @ weight.T + bias
                loss = cross_entropy(logits, labels[rows], weight=class_weights)
                loss_sum += float(loss.detach()) * len(rows)
                if method.proximal_mu:
                    for parameter, anchor in anchors:
                        loss = loss + method.proximal_mu / 2 * (parameter - anchor).square().sum()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return Head(weight.detach().numpy(), bias.detach().numpy()), loss_sum


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread adds in one order: the result does not depend on the number of cores. (It is faster here, too.)"""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _optimizer(method: Method, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    if method.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=method.lr, weight_decay=method.weight_decay)
    return torch.optim.SGD(parameters, lr=method.lr, momentum=method.momentum, weight_decay=method.weight_decay)


def _class_weights(method: Method, labels: torch.Tensor, classes: int) -> torch.Tensor | None:
    """`balanced`: N / (classes present x examples of the class), so that every class counts the same; 0 if it has none."""
    if method.class_weights == "none":
        return None
    number = torch.bincount(labels, minlength=classes).float()
    weights = len(labels) / (int((number > 0).sum()) * number)
    return torch.where(number > 0, weights, torch.zeros(()))
