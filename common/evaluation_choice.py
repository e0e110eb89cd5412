"""The part of a job that says on whom the model is judged, and by what."""

from typing import Any, Literal, Self, get_args

from pydantic import SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from common.config_file import Section
from common.groups import Attribute
from common.methods import Fraction
from common.operating_point import OperatingRule

Selectable = Literal["auroc", "average_precision", "balanced_accuracy", "accuracy", "f1", "log_loss"]
SELECTABLE: tuple[str, ...] = get_args(Selectable)


class Evaluation(Section):
    """Parts of the data (fractions of patients) and the validation metric by which the best round is chosen.

    cross_site: every hospital also sends a head of its own examples alone, and every head is counted at every hospital.
    operating_point: the rule by which the probability is chosen from which on a class is said to be there; null: the most
    probable class is said. Left out of the job's text where there is none, so that jobs without one keep their ids.
    groups: by which columns of the manifest the test counts of the model are told apart (`common/groups.py`).
    """

    test_fraction: Fraction = 0.2
    validation_fraction: Fraction = 0.1
    select_by: Selectable = "auroc"
    cross_site: bool = False
    operating_point: OperatingRule | None = None

    groups: tuple[Attribute, ...] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        return {name: value for name, value in found.items() if name != "operating_point" or value is not None}

    @field_validator("groups")
    @classmethod
    def _each_once(cls, names: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"each attribute once, got twice: {', '.join(repeated)}")
        return names

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.test_fraction + self.validation_fraction >= 1.0:
            raise ValueError(
                "test_fraction + validation_fraction: expected less than 1 so that patients are left for training, "
                f"got {self.test_fraction} + {self.validation_fraction}"
            )
        return self
