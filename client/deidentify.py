"""A de-identified copy of a DICOM image, or the reason why there is none.

PS3.15's Basic Profile at every level of nesting (dicom-anonymizer applies it to the outermost alone), then the removal of all
that is not on the lists of `deidentify_rules`; the hospital's own pseudonyms for patient and UIDs; and a second look at the
finished bytes (`deidentify_check`), without which there is no copy. The pixel data stay bit by bit: what is burned in, stays too.

Source: DICOM PS3.15 annex E (profile), PS3.3 C.12.1.1.1 and C.7.1.1 (identity removed), C.7.6.1 (burned-in annotation).
"""

import io
from dataclasses import dataclass
from enum import StrEnum

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from client import deidentify_rules as rules
from client.deidentify_check import Expected, problems
from client.deidentify_clean import clean
from client.importing_facts import read_facts, text_of
from client.pseudonyms import pseudonym, uid_pseudonym
from client.quiet_pydicom import quiet_pydicom


class Reason(StrEnum):
    """Why a file was not copied, in words for the summary."""

    NOT_DICOM = "not DICOM"
    UNREADABLE = "damaged, or not readable"
    NO_PIXELS = "no image in it (a report, a plan, an index, ...)"
    CUT_OFF = "cut off: less pixel data than rows and columns say"
    TOO_LONG = "more pixel data than rows, columns and frames say: nobody knows what is behind them"
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
class Copy:
    """The bytes of a verified copy, with its pseudonyms."""

    data: bytes
    patient: str
    series_uid: str
    sop_uid: str


def deidentify(original: Dataset, salt: bytes, allow_burned_in: bool = False) -> Copy | Refused:
    """A verified copy of an image. `original` is used up: its elements are changed in memory.

    Raises:
        MemoryError: there is too little for it. Nothing else: what goes wrong is `Reason.UNREADABLE` or `NOT_VERIFIED`.
    """
    with quiet_pydicom():
        try:
            return _refusal(original, allow_burned_in) or _copy(original, salt)
        except MemoryError:
            raise
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
    if pixels[0] == "PixelData" and not _transfer_syntax(original).is_compressed:
        got, expected = len(original.PixelData), get_expected_length(original)
        # An odd number of bytes gets one more; some writers fill up to four.
        if not expected <= got <= expected + 3:
            return Refused(Reason.CUT_OFF if got < expected else Reason.TOO_LONG)
    return None


def likely_burned_in(original: Dataset) -> str:
    """Why text in the pixels is likely; empty if nothing says so, which does not mean that there is none."""
    sop_class, image_type = text_of(original, "SOPClassUID"), text_of(original, "ImageType").upper()
    if text_of(original, "BurnedInAnnotation").upper() == "YES":
        return "Burned In Annotation (0028,0301) is YES"
    # Single-frame, and the four multi-frame classes .7.1 to .7.4.
    if sop_class == SecondaryCaptureImageStorage or sop_class.startswith(f"{SecondaryCaptureImageStorage}."):
        return "secondary capture"
    if "SCREEN SAVE" in image_type or "SCREENSHOT" in image_type:
        return "a picture of a screen"
    ultrasound = "Ultrasound" in UID(sop_class).name or text_of(original, "Modality").upper() in ("US", "IVUS")
    return "ultrasound" if ultrasound else ""


def _copy(original: Dataset, salt: bytes) -> Copy | Refused:
    facts = read_facts(original)
    keyword = next(word for word in rules.PIXELS if word in original)
    words, old_uids = rules.what_identifies(original)
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


def _transfer_syntax(original: Dataset) -> UID:
    """As the file says, or as it was read if it has no file meta information."""
    stated = getattr(original, "file_meta", Dataset()).get("TransferSyntaxUID")
    if stated:
        return UID(stated)
    implicit, little = original.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
