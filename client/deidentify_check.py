"""Is a copy free of what identifies? The finished bytes are read again and looked through, by rules of their own.

Nothing of the cleaning is trusted: a copy for which any problem is found is not written. Problems name tags, never values.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from client import deidentify_rules as rules


@dataclass(frozen=True)
class Expected:
    """What a copy has to be: its pseudonyms, its pixel data as in the original, and what of the original must not be in it."""

    patient: str
    sop_uid: str
    pixel_keyword: str
    pixel_bytes: bytes
    identifying_words: frozenset[str]
    original_uids: frozenset[str]


def problems(data: bytes, expected: Expected) -> list[str]:
    """What is wrong with the bytes of a copy; nothing if it may be written."""
    copy = pydicom.dcmread(io.BytesIO(data))
    found = list(_meta_problems(copy, expected))
    found += _dataset_problems(copy, expected, rules.KEPT_BYTES, dummies_only=False)
    if copy.get("PatientID") != expected.patient or copy.get("SOPInstanceUID") != expected.sop_uid:
        found.append("the pseudonyms are not in it")
    if copy.get("PatientIdentityRemoved") != "YES" or copy.get("DeidentificationMethod") != rules.METHOD:
        found.append("it does not say that it is de-identified")
    if _unpadded(copy.get(expected.pixel_keyword), expected.pixel_bytes) != expected.pixel_bytes:
        found.append("the pixel data differ")
    return found


def _unpadded(got: bytes | None, expected: bytes) -> bytes | None:
    """DICOM wants an even number of bytes: an odd original gets a zero at its end."""
    return got[:-1] if got is not None and len(expected) % 2 and got[-1:] == b"\0" else got


def _meta_problems(copy: Dataset, expected: Expected) -> Iterator[str]:
    if copy.preamble != bytes(128):
        yield "the preamble is not empty"
    yield from (f"{tag} in the file meta information" for tag in copy.file_meta.keys() - rules.KEPT_META)
    if copy.file_meta.get("MediaStorageSOPInstanceUID") != expected.sop_uid:
        yield "the file meta information names another instance"


def _dataset_problems(
    dataset: Dataset, expected: Expected, kept_bytes: frozenset[int | None], dummies_only: bool
) -> Iterator[str]:
    """kept_bytes: tags that may hold bytes here. dummies_only: inside a sequence of which the profile leaves no value."""
    for tag, element in rules.elements(dataset):
        if tag.group % 2 or tag.group < 0x0008:
            yield f"private tag {tag}"
        elif element is None or rules.known_vr(tag) is None:
            yield f"unknown tag {tag}"
        else:
            yield from _element_problems(element, expected, kept_bytes, dummies_only)


def _element_problems(
    element: DataElement, expected: Expected, kept_bytes: frozenset[int | None], dummies_only: bool
) -> Iterator[str]:
    action = rules.action_of(element.tag)
    replaced = action is not None and not action.__name__.endswith("UID")
    ours = {0x00100020: expected.patient, 0x00120063: rules.METHOD}.get(element.tag)
    if element.VR == "SQ":
        for item in element.value or ():
            yield from _dataset_problems(item, expected, rules.KEPT_BYTES_INSIDE, dummies_only or replaced)
    elif ours is not None and not dummies_only and element.value == ours:
        return
    elif (replaced or dummies_only) and element.VR != "UI":
        if not all(_is_dummy(value, expected) for value in rules.values(element)):
            yield f"{element.tag} {element.keyword} has a value"
    else:
        yield from _kept_problems(element, expected, kept_bytes)


def _is_dummy(value: object, expected: Expected) -> bool:
    if isinstance(value, bytes):
        return value.rstrip(b"\0") in rules.DUMMY_BYTES
    if isinstance(value, int | float):
        return value == 0
    text = str(value)
    return text in rules.DUMMIES or _is_new_uid(text, expected) or (rules.is_decimal(text) and float(text) == 0)


def _is_new_uid(text: str, expected: Expected) -> bool:
    return text.startswith("2.25.") and text not in expected.original_uids


def _kept_problems(element: DataElement, expected: Expected, kept_bytes: frozenset[int | None]) -> Iterator[str]:
    """What is wrong with an element that the profile does not name, or with UIDs, wherever they are."""
    where = f"{element.tag} {element.keyword}"
    found = [str(value) for value in rules.values(element)] if element.VR not in rules.BYTES else []
    if element.VR == "UI":
        if not all(not one or rules.is_standard_uid(one) or _is_new_uid(one, expected) for one in found):
            yield f"{where} has a UID of the original"
    elif element.VR in rules.TEXT:
        if element.tag not in rules.KEPT_TEXT or rules.known_vr(element.tag) != element.VR:
            yield f"{where} has text"
        elif any(rules.words(one) & expected.identifying_words for one in found):
            yield f"{where} names what identifies"
    elif element.VR == "CS":
        named = rules.may_name(element) and any(rules.words(one) & expected.identifying_words for one in found)
        if named or not all(map(rules.is_code_string, found)):
            yield f"{where} is no code string"
    elif element.VR in rules.DECIMALS:
        if not all(map(rules.is_decimal, found)):
            yield f"{where} is no number"
    elif element.VR not in rules.NUMBERS and element.tag not in kept_bytes:
        yield f"{where} has bytes"
