"""The training methods a job may name: one row each, with its options, their defaults and its source.

`server/strategies.py` holds the arithmetic of each row; a test keeps the two tables in step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from common.config_file import unknown
from common.dp.gradient_descent import Descent
from common.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
LearningRate = Annotated[float, Field(ge=1e-9, le=1e3)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]

LOCAL_TRAINING: Mapping[str, object] = MappingProxyType(
    {
        "rounds": 20,
        "local_epochs": 1,
        "lr": 0.002,
        "batch_size": 64,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 0.01,
        "class_weights": "none",
        "patience": None,
        "warm_start": "none",
    }
)
"""Options every iterative method has: what each hospital does in one round, and where the first one starts."""

_DESCENT = Descent()

RIDGE = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge strengths tried by default, relative to the number of examples: the penalty is strength x N."""


@dataclass(frozen=True)
class MethodRow:
    """What a method is, which options it takes beyond `LOCAL_TRAINING` (with defaults), and where it comes from.

    iterative: hospitals train in rounds, so it takes `LOCAL_TRAINING` too. An option of the same name replaces that default.
    single_updates: the coordinator must see each hospital's update, not only their sum.
    """

    summary: str
    source: str
    options: Mapping[str, object] = field(default_factory=dict)
    min_hospitals: int = 1
    iterative: bool = True
    single_updates: bool = False

    def defaults(self) -> dict[str, object]:
        """All options of the method with their default values."""
        return {**(LOCAL_TRAINING if self.iterative else {}), **self.options}


@dataclass(frozen=True)
class LocalTraining:
    """What a hospital does with its examples in one round; the fields are the options of the same names.

    lr is the head's learning rate. proximal_mu: weight of the term that holds the weights near those sent (0: none).
    """

    epochs: int
    lr: float
    batch_size: int
    optimizer: str
    momentum: float
    weight_decay: float
    class_weights: str
    proximal_mu: float


METHODS: Mapping[str, MethodRow] = MappingProxyType(
    {
        "analytic": MethodRow(
            "one round of sums; the ridge head of all examples in closed form, whatever the split",
            "Fanì et al. 2024, arXiv 2406.01116, equation 4; He et al. 2024, arXiv 2405.16240",
            {"rounds": 1, "class_weights": "choose", "ridge": list(RIDGE), "stage_subsets": False, "projection": None},
            iterative=False,
        ),
        "dp-gd": MethodRow(
            "differentially private gradient descent: in each round one noised sum of clipped gradients of all patients",
            "Abadi et al. 2016, arXiv 1607.00133, algorithm 1, with all patients in every step",
            {
                "rounds": _DESCENT.steps,
                "lr": _DESCENT.lr,
                "momentum": _DESCENT.momentum,
                "clip": _DESCENT.clip,
                "averaged": _DESCENT.averaged,
                "spread": _DESCENT.spread,
                "class_weights": "none",
            },
            iterative=False,
        ),
        "fedavg": MethodRow(
            "mean of the hospitals' heads, weighted by their number of examples",
            "McMahan et al. 2017, arXiv 1602.05629, algorithm 1",
        ),
        "fedprox": MethodRow(
            "fedavg; each hospital is held near the global head by a proximal term",
            "Li et al. 2020, arXiv 1812.06127, algorithm 2",
            {"proximal_mu": 0.1},
        ),
        "fedadam": MethodRow(
            "the coordinator applies Adam to the mean change",
            "Reddi et al. 2021, arXiv 2003.00295, algorithm 2",
            {"server_lr": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        ),
        "fedyogi": MethodRow(
            "the coordinator applies Yogi to the mean change",
            "Reddi et al. 2021, arXiv 2003.00295, algorithm 2",
            {"server_lr": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        ),
        "fedadagrad": MethodRow(
            "the coordinator applies Adagrad to the mean change",
            "Reddi et al. 2021, arXiv 2003.00295, algorithm 2",
            {"server_lr": 0.01, "tau": 1e-3},
        ),
        "fedavgm": MethodRow(
            "fedavg with momentum at the coordinator",
            "Hsu et al. 2019, arXiv 1909.06335, section 4.3",
            {"server_lr": 1.0, "server_momentum": 0.5},
        ),
        "scaffold": MethodRow(
            "fedavg; control variates take the drift of unlike hospitals out of their steps; twice the bytes down",
            "Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1, option II",
            {"momentum": 0.0, "server_lr": 1.0},
            single_updates=True,
        ),
        "fednova": MethodRow(
            "mean of the hospitals' steps, each divided by how many it made; for hospitals of unlike size",
            "Wang et al. 2020, arXiv 2007.07481, equation 6",
            single_updates=True,
        ),
        "fedmedian": MethodRow(
            "coordinate-wise median of the hospitals' heads: stands up to a minority of wrong updates",
            "Yin et al. 2018, arXiv 1803.01498, definition 1",
            single_updates=True,
        ),
        "trimmed-mean": MethodRow(
            "coordinate-wise mean without the largest and smallest values",
            "Yin et al. 2018, arXiv 1803.01498, definition 2",
            {"trim_fraction": 0.2},
            min_hospitals=3,
            single_updates=True,
        ),
        "krum": MethodRow(
            "the one update closest to its neighbours; for hospitals of like size",
            "Blanchard et al. 2017, NeurIPS, section 4",
            {"malicious_hospitals": 0},
            min_hospitals=3,
            single_updates=True,
        ),
        "multikrum": MethodRow(
            "mean of the updates closest to their neighbours; for hospitals of like size",
            "Blanchard et al. 2017, NeurIPS, section 4",
            {"malicious_hospitals": 0, "hospitals_kept": 3},
            min_hospitals=3,
            single_updates=True,
        ),
        "bulyan": MethodRow(
            "krum selection, then a trimmed mean around the median",
            "El Mhamdi et al. 2018, arXiv 1802.07927, section 4",
            {"malicious_hospitals": 0},
            min_hospitals=3,
            single_updates=True,
        ),
    }
)


def method_row(name: str) -> MethodRow:
    """The row of one method.

    Raises:
        ConfigError: no such method; the message lists the choices.
    """
    if name not in METHODS:
        raise ConfigError(unknown("method", name, list(METHODS)))
    return METHODS[name]


DEFAULT = "analytic"
