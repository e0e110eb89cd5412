"""A de-identified copy of a DICOM image, or the reason why there is none.

PS3.15's Basic Profile at every level of nesting (dicom-anonymizer applies it to the outermost alone), then the removal of all
that is not on the lists of `deidentify_rules`; the hospital's own pseudonyms for patient and UIDs; and a second look at the
finished bytes (`deidentify_check`), without which there is no copy. The pixel data stay bit by bit: what is burned in, stays too.

Source: DICOM PS3.15 annex E (profile), PS3.3 C.12.1.1.1 and C.7.1.1 (identity removed), C.7.6.1 (burned-in annotation).
"""

import io
import re
from dataclasses import dataclass
from enum import StrEnum

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import get_expected_length
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from client import deidentify_rules as rules
from client.deidentify_check import Expected, problems
from client.pseudonyms import pseudonym, uid_pseudonym
from client.quiet_pydicom import quiet_pydicom


class Reason(StrEnum):
    """Why a file was not copied, in words for the summary."""

    NOT_DICOM = "not DICOM"
    UNREADABLE = "damaged, or not readable"
    NO_PIXELS = "no image in it (a report, a plan, an index, ...)"
    CUT_OFF = "cut off: less pixel data than rows and columns say"
    NO_PATIENT = "no patient id: it cannot be kept on one side of the split"
    NO_UID = "no study, series or SOP instance UID"
    BURNED_IN = (
        "text burned into the image is likely (marked so, secondary capture, or ultrasound); see --allow-burned-in"
    )
    NOT_VERIFIED = "its copy could not be shown to be free of identifying text"
    NOT_DELIVERED = "the PACS lists it but does not deliver it"


@dataclass(frozen=True)
class Refused:
    """No copy; `detail` is for the hospital's own debugging."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class Facts:
    """What the original says of itself. It identifies: it is held in memory and written nowhere."""

    patient_id: str
    sop_uid: str
    series_uid: str = ""
    study_uid: str = ""
    accession: str = ""
    sex: str = ""
    age_band: str = ""


FACTS_TAGS = (
    "PatientID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "AccessionNumber",
    "PatientSex",
    "PatientAge",
    "PatientBirthDate",
    "StudyDate",
    "SpecificCharacterSet",
)


@dataclass(frozen=True)
class Copy:
    """The bytes of a verified copy, with its pseudonyms."""

    data: bytes
    patient: str
    series_uid: str
    sop_uid: str


def read_facts(original: Dataset) -> Facts:
    """What an original says of its patient, its place and its labels' keys; empty where it says nothing."""
    sex = _text(original, "PatientSex").upper()
    return Facts(
        patient_id=_text(original, "PatientID"),
        sop_uid=_text(original, "SOPInstanceUID"),
        series_uid=_text(original, "SeriesInstanceUID"),
        study_uid=_text(original, "StudyInstanceUID"),
        accession=_text(original, "AccessionNumber"),
        sex=sex if sex in ("M", "F", "O") else "",
        age_band=age_band(original),
    )


def age_band(original: Dataset) -> str:
    """The patient's age at the time of the study, in bands of ten years and 90+; empty if it is not known."""
    stated = re.fullmatch(r"(\d{3})([DWMY])", _text(original, "PatientAge"))
    born, study = (re.fullmatch(r"(\d{4})(\d{4})", _text(original, word)) for word in ("PatientBirthDate", "StudyDate"))
    if stated:
        years = int(stated[1]) if stated[2] == "Y" else int(stated[1]) // {"D": 365, "W": 52, "M": 12}[stated[2]]
    elif born and study:
        years = int(study[1]) - int(born[1]) - (study[2] < born[2])
    else:
        return ""
    if not 0 <= years <= 150:
        return ""
    return "90+" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"


def deidentify(original: Dataset, salt: bytes, allow_burned_in: bool = False) -> Copy | Refused:
    """A verified copy of an image. `original` is used up: its elements are changed in memory.

    Raises:
        Nothing that a file can cause: whatever goes wrong inside is `Reason.UNREADABLE` or `NOT_VERIFIED`.
    """
    with quiet_pydicom():
        try:
            return _refusal(original, allow_burned_in) or _copy(original, salt)
        except Exception as error:  # a damaged file may raise anything here
            return Refused(Reason.UNREADABLE, type(error).__name__)


def _refusal(original: Dataset, allow_burned_in: bool) -> Refused | None:
    facts = read_facts(original)
    pixels = [word for word in rules.PIXELS if word in original]
    if len(pixels) != 1 or not original[pixels[0]].value or not original.get("Rows") or not original.get("Columns"):
        return Refused(Reason.NO_PIXELS)
    if not (facts.sop_uid and facts.series_uid and facts.study_uid and original.get("SOPClassUID")):
        return Refused(Reason.NO_UID)
    if not facts.patient_id:
        return Refused(Reason.NO_PATIENT)
    if not allow_burned_in and (why := likely_burned_in(original)):
        return Refused(Reason.BURNED_IN, why)
    compressed = _transfer_syntax(original).is_compressed
    if pixels[0] == "PixelData" and not compressed and len(original.PixelData) < get_expected_length(original):
        return Refused(Reason.CUT_OFF)
    return None


def likely_burned_in(original: Dataset) -> str:
    """Why text in the pixels is likely; empty if nothing says so, which does not mean that there is none."""
    sop_class, image_type = _text(original, "SOPClassUID"), _text(original, "ImageType").upper()
    if _text(original, "BurnedInAnnotation").upper() == "YES":
        return "Burned In Annotation (0028,0301) is YES"
    # Single-frame, and the four multi-frame classes .7.1 to .7.4.
    if sop_class == SecondaryCaptureImageStorage or sop_class.startswith(f"{SecondaryCaptureImageStorage}."):
        return "secondary capture"
    if "SCREEN SAVE" in image_type or "SCREENSHOT" in image_type:
        return "a picture of a screen"
    ultrasound = "Ultrasound" in UID(sop_class).name or _text(original, "Modality").upper() in ("US", "IVUS")
    return "ultrasound" if ultrasound else ""


def _copy(original: Dataset, salt: bytes) -> Copy | Refused:
    facts = read_facts(original)
    keyword = next(word for word in rules.PIXELS if word in original)
    words, old_uids = rules.identifying_words(original), rules.uids(original)
    patient, new_uid = pseudonym(salt, facts.patient_id), uid_pseudonym(salt, facts.sop_uid)
    expected = Expected(patient, new_uid, keyword, bytes(original[keyword].value), words, old_uids)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = _transfer_syntax(original)
    clean(original, salt, words)
    original.SpecificCharacterSet = "ISO_IR 192"
    original.PatientID = patient
    original.PatientIdentityRemoved = "YES"
    original.DeidentificationMethod = rules.METHOD
    original.LongitudinalTemporalInformationModified = "REMOVED"
    # Nothing of the old file meta information and preamble is taken over; pydicom fills in the rest.
    original.file_meta = meta
    original.preamble = bytes(128)
    buffer = io.BytesIO()
    original.save_as(buffer, enforce_file_format=True)
    found = problems(buffer.getvalue(), expected)
    if found:
        return Refused(Reason.NOT_VERIFIED, "; ".join(found))
    return Copy(buffer.getvalue(), patient, uid_pseudonym(salt, facts.series_uid), new_uid)


def clean(dataset: Dataset, salt: bytes, words: frozenset[str]) -> None:
    """Remove or replace, in place and at every level, all that may not stay."""
    for tag, element in rules.elements(dataset):
        outside = tag.group % 2 or tag.group < 0x0008 or tag.element == 0 or rules.known_vr(tag) is None
        if element is None or outside or tag == rules.CHARACTER_SET:
            del dataset[tag]
        elif action := rules.action_of(tag):
            _apply(action, dataset, element, salt, words)
        elif element.VR == "SQ":
            for item in element.value or ():
                clean(item, salt, words)
        elif element.VR == "UI":
            _replace_uids(element, salt)
        elif not _may_stay(element, words):
            del dataset[tag]


def _apply(action: rules.Action, dataset: Dataset, element: DataElement, salt: bytes, words: frozenset[str]) -> None:
    """The profile's action, with keyed UIDs for dicom-anonymizer's random ones, and whole sequences where it cannot go."""
    name = action.__name__
    if name.endswith("UID"):
        if element.VR == "SQ":
            for item in element.value or ():
                clean(item, salt, words)
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
        if element is None or tag.group % 2 or tag.group < 0x0008 or tag.element == 0 or rules.known_vr(tag) is None:
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
        str(one) if not one or str(one).startswith(rules.STANDARD_UIDS) else uid_pseudonym(salt, str(one))
        for one in rules.values(element)
    ]
    element.value = new[0] if len(new) == 1 else new


def _may_stay(element: DataElement, words: frozenset[str]) -> bool:
    """Whether an element that the profile does not name stays; no text, date or bytes but those of the short lists."""
    texts = [str(value) for value in rules.values(element)] if element.VR not in rules.BYTES else []
    named = any(rules.words(text) & words for text in texts)
    if element.VR in rules.TEXT:
        return element.tag in rules.KEPT_TEXT and rules.known_vr(element.tag) == element.VR and not named
    if element.VR == "CS":
        return all(map(rules.is_code_string, texts)) and not (named and rules.may_name(element))
    if element.VR in rules.DECIMALS:
        return all(map(rules.is_decimal, texts))
    return element.VR in rules.NUMBERS or element.tag in rules.KEPT_BYTES


def _transfer_syntax(original: Dataset) -> UID:
    """As the file says, or as it was read if it has no file meta information."""
    stated = getattr(original, "file_meta", Dataset()).get("TransferSyntaxUID")
    if stated:
        return UID(stated)
    implicit, little = original.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _text(dataset: Dataset, keyword: str) -> str:
    """A value as text, several of them joined as DICOM writes them."""
    try:
        element = dataset[BaseTag(tag_for_keyword(keyword) or 0)]
    except Exception:  # not there, or damaged
        return ""
    return "\\".join(str(value) for value in rules.values(element)).strip()
