"""What kind of image a job is about, and which flips leave its meaning unchanged.

A mirrored image is a second example only where left and right mean nothing for the diagnosis.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

OTHER = "other"
"""Nothing is known of the images, so nothing is flipped."""


@dataclass(frozen=True)
class ModalityRow:
    """mirror: left and right may be exchanged. why: the reason, for people. grey: such images have no colour.

    upright: they have one way up, so that a turned one is a mistake.
    """

    mirror: bool
    why: str
    grey: bool = False
    upright: bool = False


MODALITIES: Mapping[str, ModalityRow] = MappingProxyType(
    {
        "chest-xray": ModalityRow(
            True,
            "lung findings lie on either side; for a reversed heart (situs inversus) set mirror: false",
            grey=True,
            upright=True,
        ),
        "bone-xray": ModalityRow(True, "limbs come in mirrored pairs", grey=True),
        "mammography": ModalityRow(True, "the two breasts mirror each other", grey=True),
        "brain-mri": ModalityRow(True, "the hemispheres mirror each other", grey=True, upright=True),
        "brain-ct": ModalityRow(True, "the hemispheres mirror each other", grey=True, upright=True),
        "chest-ct": ModalityRow(True, "lung findings lie on either side", grey=True, upright=True),
        "abdominal-ct": ModalityRow(False, "liver, spleen and stomach each have their side", grey=True, upright=True),
        "abdominal-mri": ModalityRow(False, "liver, spleen and stomach each have their side", grey=True, upright=True),
        "ultrasound": ModalityRow(True, "the probe may be held either way round, never from below"),
        "fundus": ModalityRow(True, "the two eyes mirror each other"),
        "oct": ModalityRow(True, "the two eyes mirror each other; the layers have an order from above"),
        "dermoscopy": ModalityRow(True, "skin has no direction"),
        "histology": ModalityRow(True, "a slide has no direction"),
        "ecg": ModalityRow(False, "time runs from left to right"),
        OTHER: ModalityRow(False, "nothing is known of the images; name the modality to allow mirrored views"),
    }
)
