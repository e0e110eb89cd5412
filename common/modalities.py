"""What kind of image a job is about, and which flips leave its meaning unchanged.

A mirrored image is a second example only where left and right mean nothing for the diagnosis. DICOM files say in Modality
(0008,0060) what they are, by the defined terms of PS3.3 C.7.3.1.1.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

OTHER = "other"
"""Nothing is known of the images, so nothing is flipped."""

_XRAY = ("CR", "DX", "RG", "RF", "XA")


@dataclass(frozen=True)
class ModalityRow:
    """mirror: left and right may be exchanged. why: the reason, for people. dicom: what such images have as Modality.

    grey: such images have no colour. upright: they have one way up, so that a turned one is a mistake.
    """

    mirror: bool
    why: str
    dicom: tuple[str, ...] = ()
    grey: bool = False
    upright: bool = False


MODALITIES: Mapping[str, ModalityRow] = MappingProxyType(
    {
        "chest-xray": ModalityRow(
            True,
            "lung findings lie on either side; for a reversed heart (situs inversus) set mirror: false",
            _XRAY,
            True,
            True,
        ),
        "bone-xray": ModalityRow(True, "limbs come in mirrored pairs", _XRAY, True),
        "mammography": ModalityRow(True, "the two breasts mirror each other", ("MG", *_XRAY), True),
        "brain-mri": ModalityRow(True, "the hemispheres mirror each other", ("MR",), True, True),
        "brain-ct": ModalityRow(True, "the hemispheres mirror each other", ("CT",), True, True),
        "chest-ct": ModalityRow(True, "lung findings lie on either side", ("CT",), True, True),
        "abdominal-ct": ModalityRow(False, "liver, spleen and stomach each have their side", ("CT",), True, True),
        "abdominal-mri": ModalityRow(False, "liver, spleen and stomach each have their side", ("MR",), True, True),
        "ultrasound": ModalityRow(True, "the probe may be held either way round, never from below", ("US", "IVUS")),
        "fundus": ModalityRow(True, "the two eyes mirror each other", ("OP", "XC")),
        "oct": ModalityRow(
            True, "the two eyes mirror each other; the layers have an order from above", ("OPT", "IVOCT")
        ),
        "dermoscopy": ModalityRow(True, "skin has no direction", ("DMS", "XC", "ES")),
        "histology": ModalityRow(True, "a slide has no direction", ("SM", "GM")),
        "ecg": ModalityRow(False, "time runs from left to right", ("ECG", "OT")),
        OTHER: ModalityRow(False, "nothing is known of the images; name the modality to allow mirrored views"),
    }
)

DICOM_CODES = frozenset(
    {code for row in MODALITIES.values() for code in row.dicom}
    | {
        "PT",
        "NM",
        "SC",
        "PX",
        "IO",
        "DOC",
        "SEG",
        "SR",
        "PR",
        "KO",
        "REG",
        "HD",
        "RTIMAGE",
        "RTDOSE",
        "RTPLAN",
        "RTSTRUCT",
    }
)
"""The codes that a message may repeat: what else stands in a file's Modality is the file's own text."""
