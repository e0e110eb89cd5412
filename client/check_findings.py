"""What a look through hospitals' images found, as values. They name files, so they never leave the hospital."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from client.dicom_facts import DicomFindings
from client.image_faults import GreyValues
from client.records import Row


@dataclass(frozen=True)
class Image:
    """One image as found: `problem` says why it cannot be read; then it has no digest, hash, size or depth.

    code: of `client.likeness`; None for a blank image.
    """

    hospital: str
    row: Row
    name: str
    digest: str = ""
    hash: int = 0
    size_px: tuple[int, int] = (0, 0)
    bits: int = 0
    problem: str | None = None
    grey: GreyValues = field(default_factory=GreyValues)
    code: int | None = None

    @property
    def full_name(self) -> str:
        """The hospital's name and the file's."""
        return f"{self.hospital}/{self.name}"


@dataclass(frozen=True)
class ClassFindings:
    """The images of one class in one hospital. sizes: smallest, median and largest width and height in pixels."""

    images: int
    patients: int
    sizes_px: tuple[tuple[int, int], ...]
    bit_depths: Mapping[int, int]


@dataclass(frozen=True)
class HospitalFindings:
    """One hospital: its classes by label, its unreadable files with the reason, its images by part.

    faults: names of images by what is wrong with them (`client.image_faults.FAULTS`). With a job, patients with several
    labels and images by part count only what belongs to its classes.
    """

    classes: Mapping[str, ClassFindings]
    unreadable: Mapping[str, str]
    patients_with_several_labels: int
    images_by_part: Mapping[str, int]
    missing_classes: tuple[str, ...] = ()
    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dicom: DicomFindings | None = None


@dataclass(frozen=True)
class CheckResult:
    """What was found. Duplicates are groups of `hospital/file` names; turned: pairs, and how the first was changed, in words."""

    hospitals: Mapping[str, HospitalFindings]
    exact_duplicates: tuple[tuple[str, ...], ...] = ()
    near_duplicates: tuple[tuple[str, ...], ...] = ()
    turned_duplicates: tuple[tuple[str, str, str], ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    job: str | None = field(default=None)
    images: tuple[Image, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "job": self.job,
            "hospitals": {
                name: {
                    "classes": {
                        label: {
                            "images": found.images,
                            "patients": found.patients,
                            "sizes_px": [list(size) for size in found.sizes_px],
                            "bit_depths": {str(bits): number for bits, number in found.bit_depths.items()},
                        }
                        for label, found in one.classes.items()
                    },
                    "unreadable": dict(one.unreadable),
                    "patients_with_several_labels": one.patients_with_several_labels,
                    "images_by_part": dict(one.images_by_part),
                    "missing_classes": list(one.missing_classes),
                    "faults": {fault: list(names) for fault, names in one.faults.items()},
                    "dicom": one.dicom.to_dict() if one.dicom else None,
                }
                for name, one in self.hospitals.items()
            },
            "exact_duplicates": [list(group) for group in self.exact_duplicates],
            "near_duplicates": [list(group) for group in self.near_duplicates],
            "turned_duplicates": [list(one) for one in self.turned_duplicates],
            "errors": list(self.errors),
            "warnings": list(self.warnings),
        }
