"""Looking through hospitals' images before they are trained on: counts, sizes, damage, duplicates, labels.

Everything here is for the hospital itself: the result names files, so it never leaves.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.check_complaints import complaints, contradictions, leaks, shared_patients
from client.check_findings import CheckResult, ClassFindings, HospitalFindings, Image
from client.device import decoding_threads
from client.dicom_facts import DicomFindings
from client.duplicates import alike, near_pairs, same_files
from client.image_faults import FAULTS, fault_of
from client.images import load_image
from client.likeness import CHANGES, Change, like_pairs, same_film, words_of
from client.looks import Looks
from client.records import Row, parts_of, read_rows
from common.errors import DataError
from common.job import Evaluation, Job
from common.modalities import MODALITIES
from common.wire import PARTS

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def check_hospitals(
    folders: Mapping[str, Path],
    job: Job | None,
    progress: Progress,
    cache_dir: Path | None = None,
    key_folder: Path | None = None,
) -> CheckResult:
    """Look through hospitals (name -> folder); with a job also at its classes, parts and modality.

    cache_dir: where it is remembered what each file looked like; None: nowhere. key_folder: of the key by which patients in
    DICOM headers are hashed, by default the same.
    """
    rows: dict[str, list[Row]] = {}
    errors: list[str] = []
    for name, folder in folders.items():
        try:
            rows[name] = read_rows(folder, key_folder or cache_dir)
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
    of_hospital: defaultdict[str, list[Image]] = defaultdict(list)
    for image in images:
        of_hospital[image.hospital].append(image)
    findings = {name: replace(_findings(of_hospital[name], job), dicom=dicom.get(name)) for name in rows}
    for name, found in findings.items():
        problems, hints = complaints(name, found, rows[name], job)
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
    errors += contradictions(exact)
    warnings += leaks(
        {"exact": exact, "near": near, "turned or inverted": [pair for pair, _ in turned]}, _parts(rows, job)
    )
    warnings += shared_patients(rows)
    return CheckResult(
        findings,
        _names(exact),
        _names(near),
        tuple((one.full_name, two.full_name, words) for (one, two), words in turned),
        tuple(errors),
        tuple(warnings),
        job.name if job is not None else None,
        tuple(images),
    )


def _like(
    readable: Sequence[Image], near: Iterable[Sequence[Image]], looks: Looks
) -> tuple[list[list[Image]], list[tuple[tuple[Image, Image], str]]]:
    """Pairs that are one film and not among the `near` ones: as it is; and turned, mirrored or inverted, with what was done."""
    known = {frozenset((one.full_name, two.full_name)) for one, two in near}
    found: dict[tuple[int, int], list[Change]] = defaultdict(list)
    pairs_like = like_pairs([image.code for image in readable], lambda at: looks.thumbnail(readable[at].row.path))
    for i, j, change in pairs_like:
        one, two = readable[i], readable[j]
        if one.digest == two.digest or frozenset((one.full_name, two.full_name)) in known:
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
                        hospital=hospital,
                        row=row,
                        name=name,
                        digest=one.digest,
                        hash=one.hash,
                        size_px=one.size_px,
                        bits=one.bits,
                        problem=one.problem,
                        grey=one.grey,
                        code=one.code,
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


def _evaluation_parts(rows: Sequence[Row], job: Job | None) -> dict[str, str]:
    return parts_of(rows, job.seed if job else 0, job.evaluation if job else Evaluation())


def _parts(rows: Mapping[str, list[Row]], job: Job | None) -> dict[tuple[str, str], str]:
    """The part of each patient of each hospital."""
    return {
        (name, patient): part for name, some in rows.items() for patient, part in _evaluation_parts(some, job).items()
    }


def _names(groups: Iterable[Sequence[Image]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(image.full_name for image in group) for group in groups)
