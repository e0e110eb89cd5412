"""The part of a job that says how it is trained: a method of `common/methods.py` and its options."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from common.config_file import Section, unknown
from common.dp.gradient_descent import Descent
from common.errors import ConfigError
from common.methods import DEFAULT, METHODS, Count, Fraction, LearningRate, LocalTraining, Positive


class Method(Section):
    """The training method and its options; an option left out has the method's default."""

    name: str = DEFAULT
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 1
    local_epochs: Annotated[int, Field(ge=1, le=1000)] | None = None
    lr: LearningRate | None = None
    batch_size: Count | None = None
    optimizer: Literal["sgd", "adam"] | None = None
    momentum: Fraction | None = None
    weight_decay: Annotated[float, Field(ge=0.0)] | None = None
    class_weights: Literal["none", "balanced", "choose"] = "choose"
    patience: Count | None = None
    warm_start: Literal["none", "analytic"] | None = None
    ridge: Annotated[list[Positive], Field(min_length=1, max_length=16)] | None = None
    stage_subsets: bool | None = None
    projection: Annotated[int, Field(ge=2, le=65_536)] | None = None
    proximal_mu: Annotated[float, Field(ge=0.0)] | None = None
    server_lr: LearningRate | None = None
    server_momentum: Fraction | None = None
    beta_1: Fraction | None = None
    beta_2: Fraction | None = None
    tau: Positive | None = None
    trim_fraction: Annotated[float, Field(ge=0.0, lt=0.5)] | None = None
    malicious_hospitals: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    hospitals_kept: Count | None = None
    clip: Positive | None = None
    averaged: Count | None = None
    spread: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict):
            return value
        name = value.get("name", DEFAULT)
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

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.name == "analytic":
            if self.rounds != 1:
                raise ValueError(f"rounds: analytic has one round, got {self.rounds}; leave the key out")
            return self
        if self.class_weights == "choose":
            raise ValueError("class_weights: choose is for analytic, which tries both; expected none or balanced")
        if self.name == "scaffold" and (self.momentum or self.optimizer != "sgd"):
            raise ValueError("scaffold: its control variates are those of plain steps: optimizer: sgd, momentum: 0")
        if self.name == "fednova" and self.optimizer != "sgd":
            raise ValueError("fednova: steps can be counted with optimizer: sgd only")
        return self

    @property
    def iterative(self) -> bool:
        """Whether the method trains in rounds."""
        return METHODS[self.name].iterative

    @property
    def analytic(self) -> bool:
        """Whether the closed-form head is asked for: as the result, or as the start of the rounds."""
        return self.name == "analytic" or self.warm_start == "analytic"

    @property
    def noised_gradients(self) -> bool:
        """Whether the coordinator descends on noised sums of gradients."""
        return self.name == "dp-gd"

    @property
    def descent(self) -> Descent:
        """How the coordinator descends.

        Raises:
            ConfigError: the method does not.
        """
        lr, momentum, clip, averaged, spread = self.lr, self.momentum, self.clip, self.averaged, self.spread
        if not self.noised_gradients or None in (lr, momentum, clip, averaged, spread):
            raise ConfigError(f"method {self.name} does not descend on noised gradients")
        return Descent(
            spread=float(spread or 0),
            steps=self.rounds,
            lr=float(lr or 0),
            momentum=float(momentum or 0),
            clip=float(clip or 0),
            averaged=int(averaged or 0),
        )

    @property
    def counts_steps(self) -> bool:
        """Whether hospitals say how many steps of the optimizer they made."""
        return self.name in ("scaffold", "fednova")

    @property
    def fit_rounds(self) -> int:
        """Rounds of local training."""
        return self.rounds if self.iterative else 0

    @property
    def local(self) -> LocalTraining:
        """What a hospital does in one round of local training.

        Raises:
            ConfigError: the method has none.
        """
        epochs, lr, batch_size = self.local_epochs, self.lr, self.batch_size
        optimizer, momentum, weight_decay = self.optimizer, self.momentum, self.weight_decay
        if None in (epochs, lr, batch_size, optimizer, momentum, weight_decay):
            raise ConfigError(f"method {self.name} has no local training")
        return LocalTraining(
            epochs=int(epochs or 0),
            lr=float(lr or 0),
            batch_size=int(batch_size or 0),
            optimizer=str(optimizer),
            momentum=float(momentum or 0),
            weight_decay=float(weight_decay or 0),
            class_weights=self.class_weights,
            proximal_mu=self.proximal_mu or 0.0,
        )
