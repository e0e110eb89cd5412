"""What an original says of itself, as far as importing needs it."""

import re
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from client import deidentify_rules as rules
from client.quiet_pydicom import quiet_pydicom
from common.groups import GROUPS


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


def read_facts(original: Dataset) -> Facts:
    """What an original says of its patient, its place and its labels' keys; empty where it says nothing."""
    with quiet_pydicom():
        sex = text_of(original, "PatientSex").upper()
        return Facts(
            patient_id=text_of(original, "PatientID"),
            sop_uid=text_of(original, "SOPInstanceUID"),
            series_uid=text_of(original, "SeriesInstanceUID"),
            study_uid=text_of(original, "StudyInstanceUID"),
            accession=text_of(original, "AccessionNumber"),
            sex=sex if sex in ("M", "F", "O") else "",
            age_band=age_band(original),
        )


def age_band(original: Dataset) -> str:
    """The patient's age at the time of the study, as a band of `common.groups`; empty if it is not known."""
    stated = re.fullmatch(r"(\d{3})([DWMY])", text_of(original, "PatientAge"))
    born, study = (
        re.fullmatch(r"(\d{4})(\d{4})", text_of(original, word)) for word in ("PatientBirthDate", "StudyDate")
    )
    if stated:
        years = int(stated[1]) if stated[2] == "Y" else int(stated[1]) // {"D": 365, "W": 52, "M": 12}[stated[2]]
    elif born and study:
        years = int(study[1]) - int(born[1]) - (study[2] < born[2])
    else:
        return ""
    if not 0 <= years <= 150:
        return ""
    return [band for band in GROUPS["age_band"] if int(band.rstrip("+").split("-")[0]) <= years][-1]


def text_of(dataset: Dataset, keyword: str) -> str:
    """A value as text, several of them joined as DICOM writes them."""
    try:
        element = dataset[BaseTag(tag_for_keyword(keyword) or 0)]
    except Exception:  # not there, or damaged
        return ""
    return "\\".join(str(value) for value in rules.values(element)).strip()
