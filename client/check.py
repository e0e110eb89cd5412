"""Looking through hospitals' images before they are trained on: counts, sizes, damage, duplicates, labels.

Everything here is for the hospital itself: the result names files, so it never leaves.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.device import decoding_threads
from client.dicom_facts import DicomFindings
from client.duplicates import alike, near_pairs, same_files
from client.image_faults import FAULTS, GreyValues, fault_of
from client.images import load_image
from client.likeness import CHANGES, Change, like_pairs, same_film, words_of
from client.looks import Looks
from client.records import Row, parts_of, read_rows, unknown_labels
from common.errors import DataError
from common.job import Evaluation, Job
from common.modalities import MODALITIES
from common.wire import PARTS

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
_SHOWN = 5


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


def check_hospitals(
    folders: Mapping[str, Path], job: Job | None, progress: Progress, cache_dir: Path | None = None
) -> CheckResult:
    """Look through hospitals (name -> folder); with a job also at its classes, parts and modality.

    cache_dir: where it is remembered what each file looked like; None: nowhere.
    """
    rows: dict[str, list[Row]] = {}
    errors: list[str] = []
    for name, folder in folders.items():
        try:
            rows[name] = read_rows(folder, cache_dir)
        except DataError as error:
            errors.append(f"{name}: {error}")
    with Looks(cache_dir) as looks:
        return _checked(rows, folders, job, looks, errors, progress)


def _checked(
    rows: Mapping[str, list[Row]],
    folders: Mapping[str, Path],
    job: Job | None,
    looks: Looks,
    errors: list[str],
    progress: Progress,
) -> CheckResult:
    warnings: list[str] = []
    images, dicom = _look(rows, folders, looks, progress)
    findings = {
        name: replace(_findings([image for image in images if image.hospital == name], job), dicom=dicom.get(name))
        for name in rows
    }
    for name, found in findings.items():
        problems, hints = _complaints(name, found, rows[name], job)
        errors += problems
        warnings += hints
        if found.dicom is not None:
            problems, hints = found.dicom.complaints(MODALITIES[job.modality].dicom if job else ())
            errors += [f"{name}: {problem}" for problem in problems]
            warnings += [f"{name}: {hint}" for hint in hints]
    readable = [image for image in images if image.problem is None]
    exact = [[readable[i] for i in group] for group in same_files([image.digest for image in readable])]
    pairs = near_pairs([image.hash for image in readable], [image.digest for image in readable])
    near = [
        [readable[i], readable[j]]
        for i, j in pairs
        if alike(looks.thumbnail(readable[i].row.path), looks.thumbnail(readable[j].row.path))
    ]
    again, turned = _like(readable, near, looks)
    near += again
    errors += _contradictions(exact)
    warnings += _leaks(
        {"exact": exact, "near": near, "turned or inverted": [pair for pair, _ in turned]}, _parts(rows, job)
    )
    warnings += _shared_patients(rows)
    return CheckResult(
        findings,
        _names(exact),
        _names(near),
        tuple((_name(one), _name(two), words) for (one, two), words in turned),
        tuple(errors),
        tuple(warnings),
        job.name if job is not None else None,
        tuple(images),
    )


def _like(
    readable: Sequence[Image], near: Iterable[Sequence[Image]], looks: Looks
) -> tuple[list[list[Image]], list[tuple[tuple[Image, Image], str]]]:
    """Pairs that are one film and not among the `near` ones: as it is; and turned, mirrored or inverted, with what was done."""
    known = {frozenset((_name(one), _name(two))) for one, two in near}
    found: dict[tuple[int, int], list[Change]] = defaultdict(list)
    pairs_like = like_pairs([image.code for image in readable], lambda at: looks.thumbnail(readable[at].row.path))
    for i, j, change in pairs_like:
        one, two = readable[i], readable[j]
        if one.digest == two.digest or frozenset((_name(one), _name(two))) in known:
            continue
        if same_film(load_image(one.row.path), load_image(two.row.path), change):
            found[i, j].append(change)
    pairs = [((readable[i], readable[j]), changes) for (i, j), changes in sorted(found.items())]
    return (
        [list(pair) for pair, changes in pairs if CHANGES[0] in changes],
        [(pair, words_of(changes)) for pair, changes in pairs if CHANGES[0] not in changes],
    )


def _look(
    rows: Mapping[str, list[Row]], folders: Mapping[str, Path], looks: Looks, progress: Progress
) -> tuple[list[Image], dict[str, DicomFindings]]:
    """Every image read and decoded once, several at a time; and what the DICOM files of each hospital say of themselves."""
    todo = [(name, row) for name, some in rows.items() for row in some]
    images: list[Image] = []
    dicom: dict[str, DicomFindings] = {}
    patients: defaultdict[str, set[str]] = defaultdict(set)
    pool = ThreadPoolExecutor(decoding_threads())
    try:
        with (
            progress("images checked", len(todo)) as advance,
            closing(looks.of([row.path for _, row in todo], pool)) as seen,
        ):
            for (hospital, row), one in zip(todo, seen, strict=True):
                name = _named(row.path, folders[hospital])
                images.append(
                    Image(
                        hospital,
                        row,
                        name,
                        one.digest,
                        one.hash,
                        one.size_px,
                        one.bits,
                        one.problem,
                        one.grey,
                        one.code,
                    )
                )
                if one.facts is not None:
                    dicom.setdefault(hospital, DicomFindings()).add(one.facts)
                    patients[hospital].add(row.patient_id)
                advance(1)
    finally:
        # Interrupted: what waits is not begun any more.
        pool.shutdown(cancel_futures=True)
    for hospital, found in dicom.items():
        found.patients = len(patients[hospital])
    return images, dicom


def _named(path: Path, source: Path) -> str:
    folder = source if source.is_dir() else source.parent
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _findings(images: Sequence[Image], job: Job | None) -> HospitalFindings:
    by_label: defaultdict[str, list[Image]] = defaultdict(list)
    labels_of: defaultdict[str, set[str]] = defaultdict(set)
    for image in images:
        by_label[image.row.label].append(image)
    parts = _evaluation_parts([image.row for image in images], job)
    wanted = [image for image in images if job is None or image.row.label in job.classes]
    for image in wanted:
        labels_of[image.row.patient_id].add(image.row.label)
    in_parts = Counter(parts[image.row.patient_id] for image in wanted)
    return HospitalFindings(
        classes={label: _class_findings(some) for label, some in sorted(by_label.items())},
        unreadable={image.name: image.problem for image in images if image.problem is not None},
        patients_with_several_labels=sum(len(labels) > 1 for labels in labels_of.values()),
        images_by_part={part: in_parts[part] for part in PARTS},
        missing_classes=tuple(name for name in job.classes if name not in by_label) if job else (),
        faults=_faults(images),
    )


def _faults(images: Iterable[Image]) -> dict[str, tuple[str, ...]]:
    """Names of readable images by their fault, in the order of `FAULTS`."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        if image.problem is None and (fault := fault_of(image.grey)):
            found[fault].append(image.name)
    return {fault: tuple(found[fault]) for fault in FAULTS if found[fault]}


def _class_findings(images: Sequence[Image]) -> ClassFindings:
    sizes = np.array([image.size_px for image in images if image.problem is None], np.int64).reshape(-1, 2)
    three = [np.quantile(sizes, share, axis=0).astype(int) for share in (0.0, 0.5, 1.0)] if len(sizes) else []
    return ClassFindings(
        images=len(images),
        patients=len({image.row.patient_id for image in images}),
        sizes_px=tuple((int(width), int(height)) for width, height in three),
        bit_depths=dict(sorted(Counter(image.bits for image in images if image.problem is None).items())),
    )


def _complaints(
    name: str, found: HospitalFindings, rows: Sequence[Row], job: Job | None
) -> tuple[list[str], list[str]]:
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


def _evaluation_parts(rows: Sequence[Row], job: Job | None) -> dict[str, str]:
    return parts_of(rows, job.seed if job else 0, job.evaluation if job else Evaluation())


def _parts(rows: Mapping[str, list[Row]], job: Job | None) -> dict[tuple[str, str], str]:
    """The part of each patient of each hospital."""
    return {
        (name, patient): part for name, some in rows.items() for patient, part in _evaluation_parts(some, job).items()
    }


def _contradictions(exact: Iterable[Sequence[Image]]) -> list[str]:
    return [
        f"the same file has different labels: {', '.join(f'{_name(image)} ({image.row.label})' for image in group)}"
        for group in exact
        if len({image.row.label for image in group}) > 1
    ]


def _leaks(duplicates: Mapping[str, Sequence[Sequence[Image]]], parts: Mapping[tuple[str, str], str]) -> list[str]:
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
            [" = ".join(_name(image) for image in group) for group in (leaking or groups)[:_SHOWN]],
            len(leaking or groups),
        )
        warnings.append(
            f"{len(groups)} group(s) of {what} duplicates, {len(across)} across hospitals, {len(leaking)} in different parts "
            f"(a test image that was trained on flatters the result): {shown}"
        )
    return warnings


def _shared_patients(rows: Mapping[str, list[Row]]) -> list[str]:
    hospitals_of: defaultdict[str, set[str]] = defaultdict(set)
    for name, some in rows.items():
        for row in some:
            hospitals_of[row.patient_id].add(name)
    shared = sorted(patient for patient, hospitals in hospitals_of.items() if len(hospitals) > 1)
    if not shared:
        return []
    return [f"{len(shared)} patient id(s) appear in several hospitals: {_some(shared[:_SHOWN], len(shared))}"]


def _names(groups: Iterable[Sequence[Image]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(_name(image) for image in group) for group in groups)


def _name(image: Image) -> str:
    return f"{image.hospital}/{image.name}"


def _some(shown: Sequence[str], total: int) -> str:
    more = f"; and {total - len(shown)} more" if total > len(shown) else ""
    return "; ".join(shown) + more


def _counted(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label} ({number})" for label, number in sorted(labels.items()))
