"""What may stay in a de-identified copy, and what PS3.15's Basic Profile does to each of its tags.

The profile is a list of what is known to identify; what it does not name, it keeps. A copy has to be safer than that: text,
dates and bytes stay only if they are on the short lists below, and of what is in no dictionary nothing stays.

Source: DICOM PS3.15 annex E, table E.1-1, as dicom-anonymizer has it, edition 2026c.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID

EDITION = "2026c"
METHOD = f"Consilium; PS3.15 Basic Profile {EDITION} by dicom-anonymizer"
"""The value of De-identification Method (0012,0063), at most 64 characters."""

Action = Callable[[Dataset, BaseTag], None]

TEXT = frozenset(("AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"))
"""Value representations that can hold who, when or where."""
BYTES = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "OB or OW", "US or OW", "US or SS or OW", "UN"))
NUMBERS = frozenset(("AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV", "US or SS"))
DECIMALS = frozenset(("DS", "IS"))

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_KEPT_TEXT = (
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
    "RescaleType",
    "ModalityLUTType",
    "CodeValue",
    "CodingSchemeDesignator",
    "CodingSchemeVersion",
)
_KEPT_BYTES = (
    *PIXELS,
    "LUTData",
    *(f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue", "Alpha")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue", "Alpha")),
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
KEPT_TEXT = frozenset(tag_for_keyword(keyword) for keyword in _KEPT_TEXT)
KEPT_BYTES = frozenset(tag_for_keyword(keyword) for keyword in _KEPT_BYTES)
KEPT_BYTES_INSIDE = frozenset(
    tag_for_keyword(keyword) for keyword in _KEPT_BYTES if keyword.endswith("Data")
) - frozenset(tag_for_keyword(keyword) for keyword in PIXELS)
"""In the items of sequences: tables of values and colours, and no second image, such as an icon."""
KEPT_META = frozenset((0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013))
"""Of the file meta information: its length, version, class, instance, transfer syntax, and who wrote it: pydicom."""

CHARACTER_SET = 0x00080005
DUMMIES = frozenset(
    ("", "ANONYMIZED", "000Y", "http://anonymized.invalid", "00010101", "00010101010101.000000+0000", "000000.00")
)
"""What dicom-anonymizer puts in the place of text."""
DUMMY_BYTES = (b"", b"Anonymized")

_CODE_STRING = re.compile(r"[A-Z0-9_ ]{0,16}")
_WORD = re.compile(r"\w+")
_LEAST_LETTERS = 4


@functools.cache
def profile() -> Mapping[tuple[int, ...], Action]:
    """What the Basic Profile does, by group and element, and for repeating groups the two masks behind them."""
    from dicomanonymizer.simpledicomanonymizer import initialize_actions

    found: Mapping[tuple[int, ...], Action] = initialize_actions(f"dicomfields_{EDITION}")
    return found


@functools.cache
def action_of(tag: int) -> Action | None:
    """What the profile does to a tag; None: it does not name it."""
    group, element = tag >> 16, tag & 0xFFFF
    exact = profile().get((group, element))
    if exact:
        return exact
    for masked, action in profile().items():
        if (
            len(masked) == 4
            and group & masked[2] == masked[0] & masked[2]
            and element & masked[3] == masked[1] & masked[3]
        ):
            return action
    return None


@functools.cache
def known_vr(tag: int) -> str | None:
    """The value representation that DICOM's dictionary has for a tag; None: it does not know the tag."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return None


def elements(dataset: Dataset) -> Iterator[tuple[BaseTag, DataElement | None]]:
    """The tags of a dataset with what they hold; None where that cannot be read as what it says it is."""
    for tag in list(dataset.keys()):
        try:
            yield BaseTag(tag), dataset[tag]
        except Exception:  # a damaged file may raise anything here
            yield BaseTag(tag), None


def values(element: DataElement) -> list[Any]:
    """The values of an element, none if it is empty."""
    value = element.value
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def is_standard_uid(text: str) -> bool:
    """Whether a UID is one of those that DICOM itself registers: classes, transfer syntaxes, well-known frames of reference."""
    return UID(text).name != text


def is_outside(tag: BaseTag) -> bool:
    """Whether nothing may stay under a tag: private, of no dictionary, of a file's frame, or of an overlay or curve."""
    framing = tag.group < 0x0008 or tag.element == 0 or tag.group >> 8 in (0x50, 0x60)
    return bool(tag.group % 2 or framing or known_vr(tag) is None)


def is_code_string(text: str) -> bool:
    """Whether this is a word of a vocabulary (CS) and not some text under a wrong name."""
    return _CODE_STRING.fullmatch(text) is not None


def is_decimal(value: object) -> bool:
    """Whether a decimal or integer string is a number."""
    try:
        return math.isfinite(float(str(value) or 0))
    except ValueError:
        return False


def words(text: str) -> set[str]:
    """The words of a text that are long enough to say something, folded."""
    return {
        word.casefold() for found in _WORD.findall(text) for word in found.split("_") if len(word) >= _LEAST_LETTERS
    }


def what_identifies(dataset: Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """Words that name the patient, persons or institution of an original, and all its UIDs but DICOM's own.

    Wherever else the words are, they have to go.
    """
    names: set[str] = set()
    uids: set[str] = set()
    for tag, element in elements(dataset):
        if element is None:
            continue
        if element.VR == "SQ":
            for item in element.value or ():
                inner = what_identifies(item)
                names |= inner[0]
                uids |= inner[1]
        elif element.VR == "UI":
            uids |= {str(value) for value in values(element) if value and not is_standard_uid(str(value))}
        elif element.VR == "PN" or (element.VR in TEXT and (tag.group == 0x0010 or int(tag) in _IDENTIFYING)):
            for value in values(element):
                names |= words(str(value))
    return frozenset(names - {"anonymized", "anonymous"}), frozenset(uids)


_IDENTIFYING = frozenset(tag_for_keyword(word) for word in ("AccessionNumber", "InstitutionName", "InstitutionAddress"))


def may_name(element: DataElement) -> bool:
    """Whether a code string could be a name: those that say how pixels are stored, and the modality, are not looked at."""
    return element.tag.group != 0x0028 and element.tag not in (0x00080060, CHARACTER_SET)
