"""Windows: which part of a scanner's range becomes black to white. A job names a preset or writes `[centre, width]`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Window(NamedTuple):
    """Centre and width, in the values of the image: Hounsfield units for CT. The width is 1 or more."""

    centre: float
    width: float


WINDOWS: Mapping[str, Window] = MappingProxyType(
    {
        "abdomen": Window(50, 400),
        "bone": Window(400, 1800),
        "brain": Window(40, 80),
        "liver": Window(30, 150),
        "lung": Window(-600, 1500),
        "mediastinum": Window(50, 350),
        "spine": Window(50, 250),
        "stroke": Window(40, 40),
        "subdural": Window(75, 215),
        "temporal-bone": Window(600, 2800),
    }
)
"""Presets in Hounsfield units, so for CT only.

Source: Murphy, "Windowing (CT)", Radiopaedia, article 52108; of a range its middle.
"""


def window_of(given: str | tuple[float, float] | None) -> Window | None:
    """The window that a job asks for, by its name or as centre and width; None: each file's own."""
    return WINDOWS[given] if isinstance(given, str) else None if given is None else Window(*given)
