"""What the headers of DICOM files say, for the hospital's own people: kinds, windows, compression, and who could be recognised.

No value of an element that may name somebody is kept: of identifying elements only which are filled in, of UIDs a hash.
Source: DICOM PS3.15 table E.1-1 (identifying attributes), PS3.3 C.7.6.1.1.1 (burned-in annotation), C.8.6.1 (secondary capture).
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydicom.tag import BaseTag, Tag

from common.modalities import DICOM_CODES

IDENTIFYING = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthDate",
    "PatientBirthName",
    "PatientMotherBirthName",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientComments",
    "MilitaryRank",
    "AccessionNumber",
    "StudyID",
    "InstitutionName",
    "InstitutionAddress",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
    "PhysiciansOfRecord",
    "RequestingPhysician",
    "StationName",
    "DeviceSerialNumber",
    "StudyDate",
    "AcquisitionDate",
    "AdditionalPatientHistory",
)
"""Elements that name a patient, or help to, as the standard lists them; the most frequent ones."""

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NOT_SAID = "not said"


@dataclass(frozen=True)
class DicomFacts:
    """One image: a file, or a series of which all headers were read.

    study, series: hashes. files: of the image; frames: of all of them. window: "centre/width", "table", or "none".
    identifying: elements that are filled in. burned_in: yes, no or not said.
    """

    modality: str
    study: str
    series: str
    files: int
    frames: int
    window: str
    bits_stored: int
    syntaxes: tuple[str, ...]
    identifying: tuple[str, ...]
    burned_in: str
    secondary_capture: bool


def facts_of(headers: Sequence[Any]) -> DicomFacts:
    """The facts of one image, from the headers (data sets) of its files."""
    first = headers[0]
    said = {str(header.get("BurnedInAnnotation") or "").upper() for header in headers}
    modality = str(first.get("Modality") or "")
    return DicomFacts(
        modality=modality if modality in DICOM_CODES else "another code" if modality else NOT_SAID,
        study=_hashed(first.get("StudyInstanceUID")),
        series=_hashed(first.get("SeriesInstanceUID")),
        files=len(headers),
        frames=sum(_frames(header) for header in headers),
        window=_window(first),
        bits_stored=int(first.get("BitsStored") or 0),
        syntaxes=tuple(sorted({_syntax(header) for header in headers})),
        identifying=tuple(name for name in IDENTIFYING if any(_filled_in(header, Tag(name)) for header in headers)),
        burned_in="yes" if "YES" in said else "no" if said == {"NO"} else NOT_SAID,
        secondary_capture=any(
            str(header.get("SOPClassUID") or "").startswith(_SECONDARY_CAPTURE) for header in headers
        ),
    )


def facts_from(content: Mapping[str, Any]) -> DicomFacts:
    """The facts as `dataclasses.asdict` and JSON left them."""
    tuples = {name: tuple(content[name]) for name in ("syntaxes", "identifying")}
    return DicomFacts(**{**content, **tuples})


@dataclass
class DicomFindings:
    """What the DICOM files of one hospital have in common, counted image by image: a few numbers however many there are.

    images, files, frames, secondary_captures, burned_in: counts; the others count images by what was found. `studies` and
    `series` hold hashes. patients: how many different ones the hospital's rows of DICOM images name.
    """

    images: int = 0
    files: int = 0
    frames: int = 0
    patients: int = 0
    secondary_captures: int = 0
    studies: set[str] = field(default_factory=set)
    series: set[str] = field(default_factory=set)
    modalities: Counter[str] = field(default_factory=Counter)
    windows: Counter[str] = field(default_factory=Counter)
    bits_stored: Counter[int] = field(default_factory=Counter)
    syntaxes: Counter[str] = field(default_factory=Counter)
    identifying: Counter[str] = field(default_factory=Counter)
    burned_in: Counter[str] = field(default_factory=Counter)

    def add(self, facts: DicomFacts) -> None:
        """Count one more image."""
        self.images += 1
        self.files += facts.files
        self.frames += facts.frames
        self.secondary_captures += facts.secondary_capture
        self.studies.update({facts.study} - {""})
        self.series.update({facts.series} - {""})
        self.modalities[facts.modality] += 1
        self.windows[facts.window] += 1
        self.bits_stored[facts.bits_stored] += 1
        self.syntaxes.update(facts.syntaxes)
        self.identifying.update(facts.identifying)
        self.burned_in[facts.burned_in] += 1

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON; of studies and series the number."""
        content = asdict(self)
        counts = {name: len(content[name]) for name in ("studies", "series")}
        tables = {
            name: {str(key): number for key, number in value.most_common()}
            for name, value in vars(self).items()
            if isinstance(value, Counter)
        }
        return {**content, **counts, **tables}

    def complaints(self, codes: Sequence[str]) -> tuple[list[str], list[str]]:
        """Errors and warnings. codes: what a job wants as Modality, empty for anything."""
        wrong = {code: count for code, count in self.modalities.items() if codes and code not in (*codes, NOT_SAID)}
        errors, warnings = [], []
        if wrong:
            found = ", ".join(f"{code} ({count})" for code, count in sorted(wrong.items()))
            errors.append(f"DICOM images of another modality than the job's ({', '.join(codes)}): {found}")
        if self.identifying:
            shown = ", ".join(f"{name} ({count})" for name, count in self.identifying.most_common(6))
            warnings.append(
                f"DICOM headers with identifying elements, by number of images: {shown}; they stay here, but people who open the "
                "files see them"
            )
        if self.burned_in["yes"] or self.secondary_captures:
            warnings.append(
                f"text may be burned into the pixels of DICOM images: BurnedInAnnotation is YES in {self.burned_in['yes']}, "
                f"{self.secondary_captures} are secondary captures; look at them, a network reads such text, too"
            )
        return errors, warnings


def _hashed(uid: Any) -> str:
    return hashlib.sha256(str(uid).encode("utf-8", "replace")).hexdigest()[:16] if uid else ""


def _filled_in(header: Any, tag: BaseTag) -> bool:
    # As stored, not converted: with so many elements that would take as long as decoding.
    element = header.get_item(tag) if tag in header else None
    value = element.value if element is not None else None
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def _frames(header: Any) -> int:
    return max(1, int(header.get("NumberOfFrames") or 1))


def _window(header: Any) -> str:
    if header.get("VOILUTSequence"):
        return "table"
    numbers = [header.get(name) for name in ("WindowCenter", "WindowWidth")]
    try:
        centre, width = (float(one[0] if hasattr(one, "append") else one) for one in numbers)
    except (TypeError, ValueError, IndexError):
        return "none"
    return f"{centre:g}/{width:g}"


def _syntax(header: Any) -> str:
    uid = header.file_meta.TransferSyntaxUID
    # Only names of the standard: what else stands there is the file's own text.
    return str(uid.name) if uid.is_transfer_syntax and not uid.is_private else "another transfer syntax"
