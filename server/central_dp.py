"""Client-level differential privacy: what is protected is that a whole hospital took part, with all its patients.

Each hospital's change of the model is clipped to one norm, the clipped changes are added, noise is added once by the coordinator,
and the sum is divided by the number of hospitals expected, which is public: who answered is not seen in it. Neighbours: one
hospital more or less. The coordinator sees the changes without noise, so it and its machine are trusted; who sees the models of
the rounds is not. The noise on the mean falls with the number of hospitals only, whatever the number of patients: this is for
hundreds of them (`benchmarks/privacy/client_level.py`), and with a handful it leaves nothing of the model.

Flower's wrappers (`DifferentialPrivacyServerSideFixedClipping` and its like) do the same to equal answers, as a test shows. They
are not used because their noise is numpy's global Mersenne twister, a change of zero divides by zero and ends the run, and their
mean is over those who answered while their noise is for those expected. Flower's accountant is used.
Source: McMahan et al. 2018, arXiv 1710.06963, algorithm 1; Geyer et al. 2017, arXiv 1712.07557.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.serverapp import GaussianPrivacyEvent, NeighboringRelation, PrivacyConfig, RdpAccountant, SamplingMethod

from common.dp.noise import Entropy, from_units, noised, sigma_with_rounding
from common.dp.per_patient import bounding
from common.errors import ConfigError, FederationError
from common.head import Float64
from common.model import Model
from server.strategies import Update


@dataclass(frozen=True)
class CentralDp:
    """How the changes of a round become the next model.

    noise_multiplier: deviation of the noise on the sum, over the clip; 0 is no privacy. clip: L2 norm of a hospital's change, all
    arrays together; may be infinite without noise. hospitals: that are registered. sampled: how many of them take part in a
    round on average, each drawn anew with probability sampled / hospitals, by a secure generator, and not told to those
    protected against; None: all.
    """

    noise_multiplier: float
    clip: float
    hospitals: int
    sampled: int | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.noise_multiplier < math.inf and self.clip > 0):
            raise ConfigError(
                f"central privacy: expected a noise multiplier of 0 or more and a positive clip, got {self.noise_multiplier} "
                f"and {self.clip}"
            )
        if self.noise_multiplier > 0 and self.clip == math.inf:
            raise ConfigError("central privacy: noise without a clip protects nobody; give a finite clip")
        if not 1 <= self.expected <= self.hospitals:
            raise ConfigError(f"central privacy: expected 1 to {self.hospitals} sampled hospitals, got {self.sampled}")

    @property
    def expected(self) -> int:
        """Hospitals that take part in a round, on average."""
        return self.hospitals if self.sampled is None else self.sampled

    def combine(self, current: Model, updates: Sequence[Update], entropy: Entropy = os.urandom) -> Model:
        """The next model: current + (Σ clipped change + noise) / expected; of no updates, noise alone.

        Every hospital counts the same, whatever its number of examples, and may stay away.

        Raises:
            FederationError: more updates than hospitals, two of one hospital, or a change whose length is not finite.
        """
        if len(updates) > self.hospitals or len({update.hospital for update in updates}) < len(updates):
            raise FederationError(
                f"central privacy: expected at most one update from each of {self.hospitals} hospitals, got {len(updates)}"
            )
        before = _vector(current)
        total = np.zeros_like(before)
        for update in sorted(updates, key=lambda one: one.hospital):
            change = _vector(update.model) - before
            norm = np.asarray(np.linalg.norm(change))
            if not np.isfinite(norm):
                raise FederationError(f"central privacy: the update of {update.hospital} is not finite")
            total += bounding(norm, self.clip) * change
        if self.noise_multiplier > 0:
            sigma = sigma_with_rounding(self.clip, self.noise_multiplier, total.size, honest=1)
            total = from_units(noised(total, sigma, entropy), sigma)
        return _model(current, before + total / self.expected)

    def spent(self, rounds: int, delta: float) -> float:
        """The epsilon of so many rounds, for a hospital; by Rényi divergences, an upper bound.

        Source: Mironov 2017, arXiv 1702.07476; Mironov et al. 2019, arXiv 1908.10530, as in Flower's accountant (dp-accounting).

        Raises:
            ConfigError: dp-accounting is not installed.
        """
        if self.noise_multiplier == 0:
            return math.inf
        method = SamplingMethod.NO_AMPLIFICATION if self.expected == self.hospitals else SamplingMethod.POISSON
        config = PrivacyConfig(delta, self.hospitals, NeighboringRelation.ADD_OR_REMOVE_ONE, method)
        try:
            account = RdpAccountant(config)
        except ImportError as error:
            raise ConfigError("client-level accounting needs dp-accounting: pip install 'flwr[dp]'") from error
        account.compose(GaussianPrivacyEvent(self.noise_multiplier, self.expected, self.hospitals), rounds)
        return account.get_epsilon(delta)


def _vector(model: Model) -> Float64:
    return np.concatenate([array.ravel() for array in model.arrays().values()]).astype(np.float64)


def _model(like: Model, vector: Float64) -> Model:
    arrays, start = {}, 0
    for name, array in like.arrays().items():
        arrays[name] = vector[start : start + array.size].reshape(array.shape).astype(np.float32)
        start += array.size
    return Model.from_arrays(arrays)
