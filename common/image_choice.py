"""The part of a job that says how an image, a slice or a volume becomes network input."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from common.config_file import Section, unknown
from common.windows import WINDOWS

MIDDLE, ALL = "middle", "all"


class Image(Section):
    """How an image becomes network input.

    `size` is the side in pixels (the backbone's own by default). `fit` is how an image becomes square: `pad` adds black
    borders, so that nothing is lost or squashed; `crop` scales the shorter side to 8/7 of `size` and cuts the centre
    (the ImageNet recipe); `stretch` changes the aspect.

    `window` is what of a scanner's range becomes black to white: a name of `common.windows.WINDOWS`, or centre and width;
    by default each file's own. `slices` are those of a series, a volume or a multi-frame file that are looked at: the
    middle one, so many evenly spaced, or all; the features of several are averaged, so a study is one example. Neither
    touches images that have no scanner's range and no slices.
    """

    size: Annotated[int, Field(ge=32, le=1024)] | None = None
    fit: Literal["crop", "pad", "stretch"] = "pad"
    window: str | tuple[float, float] | None = None
    slices: Annotated[int, Field(ge=1, le=1000)] | str = MIDDLE

    @field_validator("window", mode="before")
    @classmethod
    def _known_window(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str):
            if value not in WINDOWS:
                raise ValueError(f"{unknown('window', value, list(WINDOWS))}, or write [centre, width]")
            return value
        numbers = isinstance(value, list | tuple) and len(value) == 2
        if not numbers or not all(type(one) in (int, float) and math.isfinite(one) for one in value) or value[1] < 1:
            raise ValueError(
                f"expected [centre, width] with a width of 1 or more, or one of: {', '.join(WINDOWS)}; got another value"
            )
        return (float(value[0]), float(value[1]))

    @field_validator("slices")
    @classmethod
    def _known_slices(cls, value: int | str) -> int | str:
        if isinstance(value, str) and value not in (MIDDLE, ALL):
            raise ValueError(f"{unknown('slices', value, [MIDDLE, ALL])}, or a number of slices")
        return MIDDLE if value == 1 else value

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Window and slices are written only where they say something: jobs older than these keys keep their ids."""
        written: dict[str, Any] = handler(self)
        left_out = {"window": None, "slices": MIDDLE}
        return {key: value for key, value in written.items() if key not in left_out or value != left_out[key]}

    @property
    def slice_count(self) -> int:
        """How many slices are looked at; 0: all."""
        return {MIDDLE: 1, ALL: 0}[self.slices] if isinstance(self.slices, str) else self.slices
