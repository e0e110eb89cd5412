"""The arithmetic of the two methods for unlike hospitals that Flower has not: SCAFFOLD and FedNova.

Arrays are named float64 arrays; p_k is the share of hospital k in the examples of the hospitals that answered.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.head import Float32, Float64

Arrays = Mapping[str, Float64]


class Scaffold:
    """x <- x + lr Σ p_k (y_k - x); c <- c + Σ q_k Δc_k, with p_k in place of the paper's equal weights.

    q_k is the share of hospital k in the examples of all members, as c is the mean over all of them; one whose answer was
    dropped has changed its own c_k all the same, which the next rounds even out.

    Source: Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1.
    """

    def __init__(self, server_lr: float) -> None:
        self._server_lr = server_lr
        self.control: dict[str, Float64] = {}

    def control_of(self, like: Arrays) -> dict[str, Float64]:
        """The server's control variate c, zeros before the first round."""
        return {name: self.control.get(name, np.zeros_like(array)) for name, array in like.items()}

    def combine(
        self,
        before: Arrays,
        models: Sequence[Arrays],
        examples: Sequence[int],
        changes: Sequence[Mapping[str, Float32]],
        members: int,
    ) -> dict[str, Float64]:
        """The next arrays; `changes` has each hospital's Δc_k by array. members: examples of all members, who may be more."""
        shares = np.array(examples) / sum(examples)
        of_all = np.array(examples) / max(members, sum(examples))
        control = self.control_of(before)
        self.control = {name: array + _mean(of_all, [one[name] for one in changes]) for name, array in control.items()}
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
