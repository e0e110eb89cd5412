"""Groups of patients by which a job may ask how well the model does: their names, and the words of a manifest for them.

Letters: C classes, G groups of all attributes of a job, one after the other.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

Attribute = Literal["sex", "age_band"]

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"sex": ("female", "male"), "age_band": ("0-17", "18-39", "40-59", "60-79", "80+")}
)
"""By attribute, which is a column of the manifest, its groups. Age in years at the time of the image."""

ATTRIBUTES: tuple[str, ...] = get_args(Attribute)

WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "sex": {"female": "female", "f": "female", "male": "male", "m": "male"},
        "age_band": {band: band for band in GROUPS["age_band"]},
    }
)
"""What a cell of the column may say, in lower case, to the group it means."""

NO_GROUP = ("", "unknown", "u", "other", "o", "n/a")
"""Cells of images that are in none of the groups."""

LEAST_PATIENTS = 5
"""Test patients of every class that a group must have to be told, and the images outside all told groups as well."""


def group_names(attributes: Sequence[str]) -> list[tuple[str, str]]:
    """Attribute and name of each of the G groups."""
    return [(attribute, group) for attribute in attributes for group in GROUPS[attribute]]
