"""Local DP-SGD: a hospital trains the head with all the noise its patients need, and trusts neither coordinator nor hospitals.

Per-patient gradients, clipping and steps are Opacus's, over a batch whose samples are patients: (P, m, D), m images of each. A
linear layer's per-sample gradient adds over the images, so a patient's gradient is the mean over the patient's own images, in
whatever classes they are, and is clipped as one: that of `common.dp.gradient_descent.clipped_gradient_sum`.

What is not Opacus's, and why:
  - noise and draws. Its secure mode needs torchcsprng, which pip does not find; without it they are a Mersenne
    twister's, which torch seeds with 32 bits: 2^32 streams can be tried out. Here both come from the operating system, and noise
    is put on a grid first (`common.dp.noise`). `add_noise` is the method that Opacus's own optimizers override as well.
  - the divisor. Opacus divides by the exact number of samples, which tells it; here it is a noised or public number.
  - accounting. Its accountants count for one process; a job has rounds, and an exact bound where nothing is drawn.

Only the head may leave: losses, norms, the number of patients and who was drawn have no noise.
Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1; Yousefpour et al. 2021, arXiv 2109.12298 (Opacus).

Letters: N examples, D features, C classes, P patients, m images of one patient.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from client.training import one_thread
from common.dp import accounting
from common.dp.gaussian import mu_of
from common.dp.gradient_descent import draw_patients
from common.dp.noise import Entropy, from_units, noised, sigma_with_rounding
from common.dp.per_patient import Indices, Patients
from common.errors import ConfigError
from common.head import Float32, Head
from common.metrics import Int64

try:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer
except ImportError as error:
    raise ConfigError("local DP-SGD needs the package opacus: pip install 'consilium[dp]'") from error

_AT_ONCE = 128
"""Patients whose gradients are in memory at the same time."""


@dataclass(frozen=True)
class LocalDpSgd:
    """What a hospital does in one round.

    noise_multiplier: deviation of the noise on a step's sum, over the clip; 0 is no privacy. clip: L2 norm of what a patient
    adds to a step, may be infinite without noise. lr: of the mean gradient. steps: in each round. sampling_rate: probability
    with which a patient takes part in a step, 1: everyone; fewer cost less time, and more noise on the mean for the same
    epsilon. momentum: in [0, 1), from zero in each round.
    """

    noise_multiplier: float
    clip: float
    lr: float
    steps: int = 1
    sampling_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.noise_multiplier < math.inf and self.clip > 0 and 0 < self.sampling_rate <= 1):
            raise ConfigError(
                "private training: expected a noise multiplier of 0 or more, a positive clip and a sampling rate in (0, 1], "
                f"got {self.noise_multiplier}, {self.clip}, {self.sampling_rate}"
            )
        if self.noise_multiplier > 0 and self.clip == math.inf:
            raise ConfigError("private training: noise without a clip protects nobody; give a finite clip")

    def spent(self, rounds: int, delta: float, other_mu: float = 0.0) -> float:
        """The epsilon of so many rounds for a patient of this hospital, and of another release of `other_mu` (the centre).

        Every step is counted as if it were seen, though only the last head of a round is.

        Raises:
            ConfigError: patients are drawn, and dp-accounting is not installed.
        """
        if self.noise_multiplier == 0:
            return math.inf
        steps = rounds * self.steps
        if self.sampling_rate == 1:
            return accounting.spent(self.noise_multiplier, steps, delta, other_mu)
        return accounting.poisson_spent(self.noise_multiplier, steps, self.sampling_rate, delta, other_mu)


def noise_needed(epsilon: float, delta: float, steps: int, sampling_rate: float = 1.0, other_mu: float = 0.0) -> float:
    """The noise multiplier with which so many steps, of all rounds together, stay within epsilon.

    Raises:
        ConfigError: epsilon or delta is out of its range, or the other releases leave nothing of it.
    """
    if sampling_rate < 1:
        return accounting.poisson_noise_multiplier(epsilon, delta, steps, sampling_rate, other_mu)
    left = mu_of(epsilon, delta) ** 2 - other_mu**2
    if left <= 0:
        raise ConfigError(f"the other releases spend mu {other_mu:.4g}, all that epsilon {epsilon} allows")
    return accounting.noise_multiplier(math.sqrt(left), steps)


def train_head_privately(
    start: Head,
    features: Float32,
    labels: Int64,
    patients: Patients,
    private: LocalDpSgd,
    number: float,
    entropy: Entropy = os.urandom,
) -> Head:
    """One round at a hospital: the head (C, D) after `private.steps` noised steps from `start`.

    features: (N, D), bounded and centred by public or noised numbers only (`common.dp.private_features`); labels: (N,) in 0..C-1;
    number: of patients, as already released with noise, at least 1.

    Raises:
        ConfigError: `number` is below 1.
        DataError: a gradient is not finite.
    """
    if not number >= 1:
        raise ConfigError(f"number of patients: expected the noised one, at least 1, got {number}")
    with one_thread():
        # float64: a float32 sum of many patients can move by more than the clip when one is taken out.
        layer = torch.nn.Linear(start.weight.shape[1], start.weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(start.weight))
            layer.bias.copy_(torch.from_numpy(start.bias))
        model = GradSampleModule(layer, loss_reduction="sum")
        optimizer = _SecurelyNoised(
            torch.optim.SGD(model.parameters(), lr=private.lr, momentum=private.momentum),
            noise_multiplier=private.noise_multiplier,
            max_grad_norm=private.clip,
            expected_batch_size=private.sampling_rate * number,
        )
        optimizer.entropy = entropy
        for _ in range(private.steps):
            drawn = list(_drawn(patients, private.sampling_rate, entropy))
            for place, rows in enumerate(drawn):
                optimizer.zero_grad()
                # requires_grad: without it torch warns of a backward hook on a layer whose inputs need no gradient.
                logits = model(torch.from_numpy(features[rows]).double().requires_grad_())
                truth = torch.from_numpy(labels[rows])
                loss = cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="sum") / rows.shape[1]
                loss.backward()
                # All but the last only add to the clipped sum.
                optimizer.signal_skip_step(place < len(drawn) - 1)
                optimizer.step()
        return Head(layer.weight.detach().float().numpy(), layer.bias.detach().float().numpy())


def _drawn(patients: Patients, rate: float, entropy: Entropy) -> Iterator[Indices]:
    """The examples (P, m) of the patients of a step, of equal m and not too many at once; an empty (0, 1) last.

    It is there in every step: one in which nobody was drawn must have its noise too.
    """
    drawn = draw_patients(patients, rate, entropy) > 0
    for group in patients.groups:
        rows = group[drawn[group[:, 0]]]
        yield from np.split(rows, range(_AT_ONCE, len(rows), _AT_ONCE)) if len(rows) else ()
    yield np.zeros((0, 1), np.intp)


class _SecurelyNoised(DPOptimizer):  # type: ignore[misc]
    """Opacus's optimizer with noise on a grid, from `entropy`."""

    entropy: Callable[[int], bytes]

    def add_noise(self) -> None:
        """Put the clipped sums with noise into the gradients."""
        multiplier, numbers = self.noise_multiplier, sum(parameter.numel() for parameter in self.params)
        sigma = sigma_with_rounding(self.max_grad_norm, multiplier, numbers, honest=1) if multiplier else 0.0
        for parameter in self.params:
            gradient = parameter.summed_grad
            if sigma:
                noisy = from_units(noised(gradient.numpy(), sigma, self.entropy), sigma)
                gradient = torch.from_numpy(noisy)
            parameter.grad = gradient.clone().view_as(parameter)
