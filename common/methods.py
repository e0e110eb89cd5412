"""The training methods a job may name: one row each, with its options, their defaults and its source.

`server/strategies.py` holds the arithmetic of each row; a test keeps the two tables in step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from common.config_file import Section, unknown
from common.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
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
    }
)
"""Options every iterative method has: what each hospital does in one round."""


@dataclass(frozen=True)
class MethodRow:
    """What a method is, which options it takes beyond `LOCAL_TRAINING` (with defaults), and where it comes from."""

    summary: str
    source: str
    options: Mapping[str, object] = field(default_factory=dict)
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
            "the one update closest to its neighbours; for hospitals of like size",
            "Blanchard et al. 2017, NeurIPS, section 4",
            {"malicious_hospitals": 0},
            min_hospitals=3,
        ),
        "multikrum": MethodRow(
            "mean of the updates closest to their neighbours; for hospitals of like size",
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


class Method(Section):
    """The training method and its options; an option left out has the method's default."""

    name: str = "fedavg"
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 20
    local_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    lr: Positive = 0.002
    batch_size: Count = 64
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    class_weights: Literal["none", "balanced"] = "none"
    patience: Count | None = None
    proximal_mu: Annotated[float, Field(ge=0.0)] | None = None
    server_lr: Positive | None = None
    server_momentum: Fraction | None = None
    beta_1: Fraction | None = None
    beta_2: Fraction | None = None
    tau: Positive | None = None
    trim_fraction: Annotated[float, Field(ge=0.0, lt=0.5)] | None = None
    malicious_hospitals: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    hospitals_kept: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict):
            return value
        name = value.get("name", "fedavg")
        return {**METHODS[name].defaults(), **value} if isinstance(name, str) and name in METHODS else value

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(unknown("method", name, list(METHODS)))
        return name

    @field_validator("*", mode="before")
    @classmethod
    def _of_this_method(cls, value: Any, info: ValidationInfo) -> Any:
        """Null stands for an option of other methods, as in the canonical JSON; it is no value for an own option."""
        name, option = info.data.get("name"), info.field_name
        if name is None:
            return value
        options = METHODS[name].defaults()
        if option not in options and value is not None:
            raise ValueError(f"not an option of {name}; the options of {name} are: {', '.join(options)}")
        if option in options and value is None and options[option] is not None:
            raise ValueError(f"expected a value, got null; leave the key out for the default, {options[option]}")
        return value
