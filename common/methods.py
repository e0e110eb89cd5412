"""The training methods a job may name: one row each, with its options, their defaults and its source.

`server/strategies.py` holds the arithmetic of each row; a test keeps the two tables in step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from common.config_file import unknown
from common.errors import ConfigError

LOCAL_TRAINING: Mapping[str, object] = MappingProxyType(
    {
        "rounds": 20,
        "local_epochs": 1,
        "lr": 0.01,
        "batch_size": 64,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "class_weights": "none",
        "patience": None,
    }
)
"""Options every iterative method has: what each hospital does in one round."""


@dataclass(frozen=True)
class MethodRow:
    """What a method is, which options it takes beyond `LOCAL_TRAINING` (with defaults), and where it comes from."""

    summary: str
    source: str
    options: Mapping[str, object] = MappingProxyType({})
    min_hospitals: int = 1

    def defaults(self) -> dict[str, object]:
        """All options of the method with their default values."""
        return {**LOCAL_TRAINING, **self.options}


METHODS: Mapping[str, MethodRow] = MappingProxyType(
    {
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
            {"server_lr": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        ),
        "fedyogi": MethodRow(
            "the coordinator applies Yogi to the mean change",
            "Reddi et al. 2021, arXiv 2003.00295, algorithm 2",
            {"server_lr": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        ),
        "fedadagrad": MethodRow(
            "the coordinator applies Adagrad to the mean change",
            "Reddi et al. 2021, arXiv 2003.00295, algorithm 2",
            {"server_lr": 0.1, "tau": 1e-3},
        ),
        "fedavgm": MethodRow(
            "fedavg with momentum at the coordinator",
            "Hsu et al. 2019, arXiv 1909.06335, section 4.3",
            {"server_lr": 1.0, "server_momentum": 0.9},
        ),
        "fedmedian": MethodRow(
            "coordinate-wise median of the hospitals' heads: stands up to a minority of wrong updates",
            "Yin et al. 2018, arXiv 1803.01498, definition 1",
        ),
        "trimmed-mean": MethodRow(
            "coordinate-wise mean without the largest and smallest values",
            "Yin et al. 2018, arXiv 1803.01498, definition 2",
            {"trim_fraction": 0.2},
            min_hospitals=3,
        ),
        "krum": MethodRow(
            "the one update closest to its neighbours",
            "Blanchard et al. 2017, NeurIPS, section 4",
            {"malicious_hospitals": 0},
            min_hospitals=3,
        ),
        "multikrum": MethodRow(
            "mean of the updates closest to their neighbours",
            "Blanchard et al. 2017, NeurIPS, section 4",
            {"malicious_hospitals": 0, "hospitals_kept": 3},
            min_hospitals=3,
        ),
        "bulyan": MethodRow(
            "krum selection, then a trimmed mean around the median",
            "El Mhamdi et al. 2018, arXiv 1802.07927, section 4",
            {"malicious_hospitals": 0},
            min_hospitals=3,
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
