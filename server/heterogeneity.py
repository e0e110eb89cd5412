"""The arithmetic of the two methods for unlike hospitals that Flower has not: SCAFFOLD and FedNova.

Arrays are named float64 arrays; p_k is the share of hospital k in the examples of the hospitals that answered.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.head import Float64

Arrays = Mapping[str, Float64]


class Scaffold:
    """x <- x + lr Σ p_k (y_k - x), with p_k in place of the paper's equal weights.

    The coordinator keeps the control variate c_k of every hospital (zeros before its first update), and c = Σ q_k c_k, where
    q_k is the share of hospital k in the examples of all members. What a hospital is sent is c - c_k.

    Source: Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1.
    """

    def __init__(self, server_lr: float, members: Mapping[str, int]) -> None:
        """members: examples of each hospital that takes part; it may change between rounds."""
        self._server_lr, self.members = server_lr, members
        self.controls: dict[str, dict[str, Float64]] = {}

    def corrections(self, like: Arrays) -> dict[str, dict[str, Float64]]:
        """C - c_k of each hospital, by array."""
        total = sum(self.members.values())
        zeros = {name: np.zeros_like(array) for name, array in like.items()}
        own = {hospital: self.controls.get(hospital, zeros) for hospital in self.members}
        shares = np.array([examples / total for examples in self.members.values()])
        mean = {name: _mean(shares, [controls[name] for controls in own.values()]) for name in like}
        return {hospital: {name: mean[name] - array for name, array in own[hospital].items()} for hospital in own}

    def combine(self, before: Arrays, models: Sequence[Arrays], examples: Sequence[int]) -> dict[str, Float64]:
        """The next arrays."""
        shares = np.array(examples) / sum(examples)
        return {
            name: array + self._server_lr * _mean(shares, [model[name] - array for model in models])
            for name, array in before.items()
        }


class FedNova:
    """x <- x - (Σ p_k a_k) Σ p_k (x - x_k) / a_k, where a_k is how many plain steps the steps of hospital k weigh.

    Source: Wang et al. 2020, arXiv 2007.07481, equation 6.
    """

    def combine(
        self, before: Arrays, models: Sequence[Arrays], examples: Sequence[int], local_norms: Sequence[float]
    ) -> dict[str, Float64]:
        """The next arrays; `local_norms` has the a_k."""
        shares = np.array(examples) / sum(examples)
        norms = np.array(local_norms, np.float64)
        effective = float(shares @ norms)
        return {
            name: array + effective * _mean(shares / norms, [model[name] - array for model in models])
            for name, array in before.items()
        }


def _mean(weights: Float64, arrays: Sequence[Any]) -> Float64:
    total = np.zeros(np.shape(arrays[0]))
    for weight, array in zip(weights, arrays, strict=True):
        total += weight * array
    return total
