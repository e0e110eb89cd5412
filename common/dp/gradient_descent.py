"""(b) The iterative head: full-batch gradient descent of which only noised sums over all hospitals are ever seen.

Each step, a hospital computes its sum of patients' gradients, each patient's clipped; adds its share of the noise; and secure
aggregation gives the coordinator the noised sum of all. Sensitivity of a step: clip, for one patient more or less. T steps with
noise sigma are one Gaussian release of mu = sqrt(T) clip / sigma (`common.dp.accounting`).

Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1, with all patients in every step; momentum and averages are made
from noised sums alone, so they cost nothing.

Letters: N examples, D features, C classes, P patients.
"""

import os
from dataclasses import dataclass
from typing import Self

import numpy as np

from common.dp.noise import Entropy
from common.dp.per_patient import Patients, Products, gradient_factors
from common.head import Float32, Float64, Head
from common.metrics import Int64


@dataclass(frozen=True)
class Descent:
    """How the descent goes: constants, fixed before any patient is looked at.

    spread: what centred features are divided by. A small one makes most gradients long, so that the clip is what scales them:
    every patient then pulls with about the same force until it is on the right side by far. steps: T. lr: of the mean gradient.
    momentum: in [0, 1). clip: L2 norm of what one patient adds to a step. averaged: the head is the mean of so many last
    steps.
    """

    spread: float = 0.14
    steps: int = 80
    lr: float = 0.5
    momentum: float = 0.9
    clip: float = 0.7
    averaged: int = 20

    @property
    def sensitivity(self) -> float:
        """L2, of the sum of one step: with or without one patient."""
        return self.clip


@dataclass(frozen=True)
class DescentState:
    """Between two steps: weight, velocity and the sum of the last weights, (C, D + 1) with the bias last, and steps made."""

    weight: Float64
    velocity: Float64
    summed: Float64
    steps: int

    @classmethod
    def start(cls, classes: int, features: int) -> Self:
        """Zeros: the head that gives every class the same probability."""
        zeros = np.zeros((classes, features + 1))
        return cls(zeros, zeros, zeros, 0)

    @property
    def head(self) -> Head:
        """The head at this point of the path: what the hospitals compute their gradients at."""
        return _head(self.weight)


def products_of(features: Float32, patients: Patients) -> Products:
    """What `clipped_gradient_sum` needs of features (N, D) at every step: computed once."""
    return Products.of(_with_constant(features), patients)


def clipped_gradient_sum(
    head: Head, features: Float32, labels: Int64, products: Products, clip: float, drawn: Float64 | None = None
) -> Float64:
    """A hospital's sum over its patients of clipped gradients of the cross-entropy (C, D + 1), the bias last; no noise yet.

    A patient's gradient is the mean over the patient's examples, so views and repeated images weigh as one; then it is clipped
    to the norm `clip`. features: (N, D) standardised; labels: (N,) in 0..C-1; products: by `products_of`; drawn: by
    `draw_patients`, everyone if None.
    """
    residuals = head.probabilities(features) - np.eye(len(head.bias))[labels]
    residuals *= products.patients.shares[:, None]
    residuals *= gradient_factors(residuals, products, clip)[:, None]
    if drawn is not None:
        residuals *= drawn[:, None]
    # In float32: its rounding, about 1e-6 of the sum, is far below any noise.
    weight = residuals.astype(np.float32).T @ features
    return np.concatenate([weight.astype(np.float64), residuals.sum(axis=0)[:, None]], axis=1)


def draw_patients(patients: Patients, rate: float, entropy: Entropy = os.urandom) -> Float64:
    """A Poisson sample for one step: 1 for the examples (N,) of the patients drawn, each with probability `rate`, 0 elsewhere.

    Who was drawn must stay in the hospital; the sum is then divided by rate x P (`common.dp.accounting.poisson_spent`).
    """
    drawn = np.zeros(len(patients.shares))
    for group in patients.groups:
        words = np.frombuffer(entropy(8 * len(group)), np.uint64) >> np.uint64(11)
        drawn[group] = (words < np.uint64(rate * 2.0**53))[:, None]
    return drawn


def step(state: DescentState, noised_sum: Float64, patients: float, descent: Descent) -> DescentState:
    """One step of the coordinator: noised_sum (C, D + 1) over all hospitals, `patients` the noised number of them."""
    velocity = descent.momentum * state.velocity + noised_sum / patients
    weight = state.weight - descent.lr * velocity
    last = state.steps >= descent.steps - descent.averaged
    return DescentState(weight, velocity, state.summed + weight if last else state.summed, state.steps + 1)


def result(state: DescentState, descent: Descent) -> Head:
    """The head after the last step: the mean of the last steps; noise that pulled to and fro is averaged out."""
    averaged = min(descent.averaged, descent.steps, state.steps)
    return _head(state.summed / averaged) if state.steps >= descent.steps else state.head


def _head(weight: Float64) -> Head:
    return Head(weight[:, :-1].astype(np.float32), weight[:, -1].astype(np.float32))


def _with_constant(features: Float32) -> Float32:
    return np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
