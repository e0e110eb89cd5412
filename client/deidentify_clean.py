"""The cleaning of a dataset, in place and at every level: PS3.15's Basic Profile, and the removal of what is on no list."""

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from client import deidentify_rules as rules
from client.pseudonyms import uid_pseudonym


def clean(dataset: Dataset, salt: bytes, words: frozenset[str], inside: bool = False) -> None:
    """Remove or replace, in place and at every level, all that may not stay. inside: this is an item of a sequence."""
    for tag, element in rules.elements(dataset):
        if element is None or rules.is_outside(tag) or tag == rules.CHARACTER_SET:
            del dataset[tag]
        elif action := rules.action_of(tag):
            _apply(action, dataset, element, salt, words)
        elif element.VR == "SQ":
            for item in element.value or ():
                clean(item, salt, words, inside=True)
        elif element.VR == "UI":
            _replace_uids(element, salt)
        elif not _may_stay(element, words, inside):
            del dataset[tag]


def _apply(action: rules.Action, dataset: Dataset, element: DataElement, salt: bytes, words: frozenset[str]) -> None:
    """The profile's action, with keyed UIDs for dicom-anonymizer's random ones, and whole sequences where it cannot go."""
    name = action.__name__
    if name.endswith("UID"):
        if element.VR == "SQ":
            for item in element.value or ():
                clean(item, salt, words, inside=True)
        elif element.VR == "UI":
            _replace_uids(element, salt)
        else:
            del dataset[element.tag]
    elif element.VR == "SQ" and name != "delete":
        # A dummy item is needed where the object would else not be valid (PS3.15 E.1.1: D).
        element.value = Sequence([_dummy(item, salt) for item in element.value or ()] if "replace" in name else [])
    elif element.VR == "UI" and name != "delete":
        _replace_uids(element, salt)
    else:
        try:
            action(dataset, element.tag)
        except (NotImplementedError, TypeError, ValueError):
            del dataset[element.tag]


def _dummy(item: Dataset, salt: bytes) -> Dataset:
    """An item with the same tags and no value of the original."""
    from dicomanonymizer.simpledicomanonymizer import replace_element

    for tag, element in rules.elements(item):
        if element is None or rules.is_outside(tag):
            del item[tag]
        elif element.VR == "SQ":
            element.value = Sequence([_dummy(one, salt) for one in element.value or ()])
        elif element.VR == "UI":
            _replace_uids(element, salt)
        else:
            try:
                replace_element(element)
            except (NotImplementedError, TypeError, ValueError):
                del item[tag]
    return item


def _replace_uids(element: DataElement, salt: bytes) -> None:
    """Keyed UIDs for all but those of DICOM itself, such as classes and transfer syntaxes."""
    new = [
        str(one) if not one or rules.is_standard_uid(str(one)) else uid_pseudonym(salt, str(one))
        for one in rules.values(element)
    ]
    element.value = new[0] if len(new) == 1 else new


def _may_stay(element: DataElement, words: frozenset[str], inside: bool) -> bool:
    """Whether an element that the profile does not name stays; no text, date or bytes but those of the short lists."""
    texts = [str(value) for value in rules.values(element)] if element.VR not in rules.BYTES else []
    named = any(rules.words(text) & words for text in texts)
    if element.VR in rules.TEXT:
        return element.tag in rules.KEPT_TEXT and rules.known_vr(element.tag) == element.VR and not named
    if element.VR == "CS":
        return all(map(rules.is_code_string, texts)) and not (named and rules.may_name(element))
    if element.VR in rules.DECIMALS:
        return all(map(rules.is_decimal, texts))
    return element.VR in rules.NUMBERS or element.tag in (rules.KEPT_BYTES_INSIDE if inside else rules.KEPT_BYTES)
