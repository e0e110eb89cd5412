"""What the check says of what it found: errors that stop a training, and warnings to look at."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from client.check_findings import HospitalFindings, Image
from client.image_faults import FAULTS
from client.records import Row, unknown_labels
from common.job import Job

_SHOWN = 5


def complaints(name: str, found: HospitalFindings, rows: Sequence[Row], job: Job | None) -> tuple[list[str], list[str]]:
    """Errors and warnings about one hospital on its own."""
    errors, warnings = [], []
    if found.unreadable:
        shown = [f"{file} ({reason})" for file, reason in list(found.unreadable.items())[:_SHOWN]]
        errors.append(f"{name}: {len(found.unreadable)} unreadable file(s): {_some(shown, len(found.unreadable))}")
    if job is not None:
        others = Counter(row.label for row in rows if row.label not in job.classes)
        if others and job.other_labels == "error":
            errors.append(f"{name}: {unknown_labels(others, job)}")
        elif others:
            warnings.append(f"{name}: left out because of their labels: {_counted(others)}")
        if found.missing_classes:
            warnings.append(f"{name}: has no image of: {', '.join(found.missing_classes)}")
        for part in ("train", "test"):
            if found.images_by_part[part] == 0:
                warnings.append(f"{name}: no image falls into the {part} part")
    for fault, names in found.faults.items():
        warnings.append(
            f"{name}: {len(names)} {fault} image(s), {FAULTS[fault][0]}: {_some(names[:_SHOWN], len(names))}"
        )
    if found.patients_with_several_labels:
        warnings.append(f"{name}: {found.patients_with_several_labels} patient(s) have images of several labels")
    return errors, warnings


def contradictions(exact: Iterable[Sequence[Image]]) -> list[str]:
    """Errors about files that are there twice, under different labels."""
    return [
        f"the same file has different labels: {', '.join(f'{image.full_name} ({image.row.label})' for image in group)}"
        for group in exact
        if len({image.row.label for image in group}) > 1
    ]


def leaks(duplicates: Mapping[str, Sequence[Sequence[Image]]], parts: Mapping[tuple[str, str], str]) -> list[str]:
    """Duplicates, and above all those that stand on both sides of a split."""
    warnings = []
    for what, groups in duplicates.items():
        if not groups:
            continue
        across = [group for group in groups if len({image.hospital for image in group}) > 1]
        leaking = [
            group for group in groups if len({parts[image.hospital, image.row.patient_id] for image in group}) > 1
        ]
        shown = _some(
            [" = ".join(image.full_name for image in group) for group in (leaking or groups)[:_SHOWN]],
            len(leaking or groups),
        )
        warnings.append(
            f"{len(groups)} group(s) of {what} duplicates, {len(across)} across hospitals, {len(leaking)} in different parts "
            f"(a test image that was trained on flatters the result): {shown}"
        )
    return warnings


def shared_patients(rows: Mapping[str, list[Row]]) -> list[str]:
    """A warning where hospitals have patients of the same id."""
    hospitals_of: defaultdict[str, set[str]] = defaultdict(set)
    for name, some in rows.items():
        for row in some:
            hospitals_of[row.patient_id].add(name)
    shared = sorted(patient for patient, hospitals in hospitals_of.items() if len(hospitals) > 1)
    if not shared:
        return []
    return [f"{len(shared)} patient id(s) appear in several hospitals: {_some(shared[:_SHOWN], len(shared))}"]


def _some(shown: Sequence[str], total: int) -> str:
    more = f"; and {total - len(shown)} more" if total > len(shown) else ""
    return "; ".join(shown) + more


def _counted(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label} ({number})" for label, number in sorted(labels.items()))
