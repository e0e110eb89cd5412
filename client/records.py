"""What a hospital holds, and what of it belongs to a job. Parts are drawn per patient, never per image."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.feature_cache import default_cache_dir
from client.images import IMAGE_SUFFIXES, is_image, stem_of
from client.manifest import COLUMNS, Row, read_manifest, shortened
from client.patients import patient_of
from client.progress import progress
from common.config_file import nearest
from common.errors import DataError
from common.groups import GROUPS, NO_GROUP, WORDS
from common.job import Evaluation, Job
from common.wire import PARTS

__all__ = [
    "MANIFEST",
    "Record",
    "Records",
    "Row",
    "assign",
    "is_series",
    "manifest_of",
    "part_of",
    "read_rows",
    "unknown_labels",
]

MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Record:
    """One image of a job: `label` is an index into the job's classes, `part` one of `common.wire.PARTS`.

    groups: for each attribute in the job's `evaluation.groups` the index of the group in `common.groups.GROUPS`, -1 for none.
    """

    path: Path
    label: int
    patient_id: str
    part: str
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Records:
    """All images of a hospital that belong to a job, sorted by path.

    `other_labels` counts the images left out, by label; `patients_with_several_labels` counts patients among `records`.
    """

    records: tuple[Record, ...]
    other_labels: Mapping[str, int]
    patients_with_several_labels: int

    def of(self, part: str) -> tuple[Record, ...]:
        """The records of one part."""
        return tuple(record for record in self.records if record.part == part)

    def images(self, num_classes: int) -> npt.NDArray[np.int64]:
        """Images by part (in the order of `PARTS`) and class: (3, C) int64."""
        counts = np.zeros((len(PARTS), num_classes), np.int64)
        for record in self.records:
            counts[PARTS.index(record.part), record.label] += 1
        return counts

    def patients(self) -> npt.NDArray[np.int64]:
        """Distinct patients by part (in the order of `PARTS`): (3,) int64."""
        return np.array([len({record.patient_id for record in self.of(part)}) for part in PARTS], np.int64)


def manifest_of(source: Path) -> Path | None:
    """The manifest that describes `source`, or None where sub-folders do."""
    if source.is_file():
        return source
    manifest = source / MANIFEST
    return manifest if manifest.is_file() else None


def read_rows(source: Path, key_folder: Path | None = None) -> list[Row]:
    """The images of a hospital. Whose a DICOM file is, where the manifest does not say it, is read from its header and hashed.

    Args:
        source: a folder holding manifest.csv, a manifest itself, or a folder with one sub-folder per class. In the last
            case the label is the sub-folder's name, and a sub-folder of it that holds the slices of one CT, MR or PET series
            is one image. The patient of a DICOM file is the hashed one of its header; of others it is the file's name without
            suffix: every image then counts as its own patient, so two images of one patient may fall into different parts.
            Hidden files and files that are no images by suffix (`IMAGE_SUFFIXES`) or, as DICOM, by content are passed over.
        key_folder: where the hospital's key for patients' ids is; by default the cache folder. A key is made there only if a
            DICOM file has to say whose it is.

    Raises:
        DataError: no images there, or the manifest is wrong (all its problems are named).
    """
    where = key_folder or default_cache_dir()
    manifest = manifest_of(source)
    rows = (
        _folder_rows(source, where)
        if manifest is None
        else read_manifest(manifest, lambda path: patient_of(path, where))
    )
    if not rows:
        raise DataError(
            f"{source}: found no images; expected a {MANIFEST} with the columns {', '.join(COLUMNS)} and at least one row, "
            f"or one sub-folder per class holding files of the types {' '.join(IMAGE_SUFFIXES)}"
        )
    return rows


def part_of(seed: int, patient_id: str, evaluation: Evaluation) -> str:
    """The part a patient falls into: a function of the seed and the patient alone, so the same in every hospital."""
    # surrogateescape: an id from a file name that is not UTF-8 is hashed as the bytes it has on disk.
    digest = hashlib.sha256(f"{seed}\n{patient_id}".encode("utf-8", "surrogateescape")).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < evaluation.test_fraction:
        return "test"
    return "validation" if draw < evaluation.test_fraction + evaluation.validation_fraction else "train"


def assign(rows: Iterable[Row], job: Job) -> Records:
    """Rows as records of a job: labels as class indices, every patient in one part.

    A row without a split follows its patient's rows that have one; a patient without any is drawn by `part_of`.

    Raises:
        DataError: labels that are no class of the job, unless the job says `other_labels: skip`; words that are no group of an
            attribute that the job asks for.
    """
    rows = sorted(rows, key=lambda row: str(row.path))
    index = {name: position for position, name in enumerate(job.classes)}
    others = Counter(row.label for row in rows if row.label not in index)
    if others and job.other_labels == "error":
        raise DataError(unknown_labels(others, job))
    if wrong := _unknown_groups(rows, job):
        raise DataError(wrong)
    parts = parts_of(rows, job.seed, job.evaluation)
    records = tuple(
        Record(row.path, index[row.label], row.patient_id, parts[row.patient_id], _groups(row, job))
        for row in rows
        if row.label in index
    )
    labels: defaultdict[str, set[int]] = defaultdict(set)
    for record in records:
        labels[record.patient_id].add(record.label)
    return Records(records, dict(others), sum(len(found) > 1 for found in labels.values()))


def _groups(row: Row, job: Job) -> tuple[int, ...]:
    found = []
    for attribute in job.evaluation.groups:
        group = WORDS[attribute].get(getattr(row, attribute))
        found.append(-1 if group is None else GROUPS[attribute].index(group))
    return tuple(found)


def _unknown_groups(rows: Iterable[Row], job: Job) -> str:
    """The sentence about cells that are no group of what a job asks for; empty where there are none."""
    problems = []
    for attribute in job.evaluation.groups:
        words = Counter(getattr(row, attribute) for row in rows)
        others = sorted(set(words) - set(WORDS[attribute]) - set(NO_GROUP))
        if others:
            found = [f"'{word}' ({words[word]} image{'' if words[word] == 1 else 's'})" for word in others]
            problems.append(
                f"column '{attribute}' of the manifest: {', '.join(shortened(found))}; expected one of "
                f"{', '.join(WORDS[attribute])}, or nothing where it is not known; correct the cells, or leave {attribute} out "
                f"of evaluation.groups of job '{job.name}'"
            )
    return "; ".join(problems)


def parts_of(rows: Iterable[Row], seed: int, evaluation: Evaluation) -> dict[str, str]:
    """The part of each patient: what the hospital wrote, else drawn by `part_of`."""
    parts: dict[str, str] = {}
    for row in rows:
        if row.part:
            parts[row.patient_id] = row.part
        elif row.patient_id not in parts:
            parts[row.patient_id] = part_of(seed, row.patient_id, evaluation)
    return parts


def unknown_labels(others: Mapping[str, int], job: Job) -> str:
    """The sentence about labels that are no class of a job; `others` has the number of images of each."""
    classes = list(job.classes)
    # 'NORMAL' has no letter in common with 'normal', so case is looked at apart.
    folded = {name.casefold(): name for name in classes}
    found = []
    for label, images in sorted(others.items()):
        same = folded.get(label.casefold())
        hint = f"; did you mean '{same}'?" if same else nearest(label, classes) or nearest(label.casefold(), classes)
        found.append(f"'{label}' ({images} image{'' if images == 1 else 's'}{hint})")
    return (
        f"labels that are no class of job '{job.name}': {', '.join(shortened(found))}; "
        f"the classes are: {', '.join(classes)}; correct the labels, or write `other_labels: skip` into the job"
    )


def _folder_rows(folder: Path, key_folder: Path) -> list[Row]:
    """One row per image in a sub-folder, at any depth; the label is the name of the uppermost one."""
    if not folder.is_dir():
        raise DataError(f"cannot find {folder}; give a hospital's folder, or its manifest")
    found = [(one.name, path) for one in sorted(folder.iterdir()) if _visible_folder(one) for path in images_below(one)]
    rows = []
    with progress("images listed", len(found)) as advance:
        for label, path in sorted(found, key=lambda item: item[1]):
            rows.append(Row(path, label, _patient(path, key_folder)))
            advance(1)
    return rows


def _patient(path: Path, key_folder: Path) -> str:
    try:
        return patient_of(path, key_folder) or stem_of(path)
    except DataError:
        # Whoever reads the pixels will say what is wrong with the file.
        return stem_of(path)


def images_below(folder: Path) -> Iterator[Path]:
    """The images in a folder, in no order: files, and folders that are a series. Links to folders are not followed."""
    inside: list[Path] = []
    with suppress(PermissionError):
        inside = list(folder.iterdir())
    for path in inside:
        if _visible_folder(path):
            if is_series(path):
                yield path
            else:
                yield from images_below(path)
        elif not path.name.startswith(".") and path.is_file() and is_image(path):
            yield path


def is_series(folder: Path) -> bool:
    """Whether a folder holds the slices of one CT, MR or PET series."""
    from client import dicom_series

    return dicom_series.is_series(folder)


def _visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
