"""What can only be seen through the backbone of a job: labels in doubt, images turned or inverted, drift from the federation.

Everything here is for the hospital itself and stays there. Letters: N images, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client import orientation
from client.duplicate_keys import kept_collisions
from client.extractor import Extractor
from client.feature_cache import FeatureCache
from client.feature_space import all_blocks, extraction_space, views_of
from client.features import extract
from client.hospital_drift import OUTSIDE, Drift, Federation, drift_of, kept_federation
from client.hospital_file import HospitalFile
from client.label_noise import FEWEST, doubts, probabilities_left_out
from client.orientation import turned_images
from client.preparation import extractor_of
from client.records import Record, assign, read_rows
from common.errors import DataError
from common.head import Float32
from common.job import Job
from common.metrics import Int64

_STRANGE = 12


@dataclass(frozen=True)
class Suspect:
    """An image, and what is to be looked at, in words."""

    path: Path
    words: str


@dataclass(frozen=True)
class Closer:
    """What was found in one hospital. strange: the images farthest from the federation.

    collisions: sha256 of the files that another hospital has too, as a run told this one, `exact` and `near`. unseen: what
    was not looked at, each with the reason.
    """

    labels: tuple[Suspect, ...] = ()
    turned: tuple[Suspect, ...] = ()
    drift: Drift | None = None
    strange: tuple[Suspect, ...] = ()
    collisions: Mapping[str, set[str]] | None = None
    unseen: tuple[str, ...] = ()

    def to_dict(self, folder: Path) -> dict[str, Any]:
        """As plain JSON; files as below `folder` where they are."""
        drift = self.drift
        return {
            "labels_in_doubt": [[named(one.path, folder), one.words] for one in self.labels],
            "turned": [[named(one.path, folder), one.words] for one in self.turned],
            "drift": None
            if drift is None
            else {
                "shift": drift.shift,
                "far": drift.far,
                "by_stage": dict(drift.by_stage),
                "outside": drift.outside,
                "compared_with": drift.source,
            },
            "not_looked_at": list(self.unseen),
        }


@dataclass(frozen=True)
class _Seen:
    """The readable images of a hospital: features (N, D) of the image as it is, and of the mean of its views."""

    records: Sequence[Record]
    digests: Sequence[bytes]
    upright: Float32
    features: Float32


NOTHING_SEEN = Closer(
    unseen=(
        "labels in doubt, images turned or inverted, drift from the other hospitals: these need the backbone of a job; "
        "give one with --job (and --weights-dir, where its weights are)",
    )
)


def look_closer(files: Mapping[str, HospitalFile], job: Job) -> dict[str, Closer]:
    """Look at hospitals (name -> file) through the backbone of a job.

    Drift is measured against all of them together where there are several, and else against what the hospital was sent in a run.

    Raises:
        DataError, WeightsError, ConfigError, MemoryError: as the features of the job.
    """
    extractor: Extractor | None = None
    seen: dict[str, _Seen | str] = {}
    for name, file in files.items():
        extractor = extractor_of(job, file) if extractor is None else extractor
        seen[name] = _see(job, file, extractor)
    usable = {name: one for name, one in seen.items() if isinstance(one, _Seen)}
    together = (
        Federation.of([one.features for one in usable.values()], f"the {len(usable)} hospitals looked at together")
        if len(usable) > 1
        else None
    )
    found = {}
    for name, one in seen.items():
        if isinstance(one, str) or extractor is None:
            found[name] = Closer(unseen=(str(one),))
        else:
            federation = together or kept_federation(files[name].cache_folder, name, job)
            found[name] = _closer(name, one, job, files[name], extractor, federation)
    return found


def examples_of(file: HospitalFile, job: Job) -> tuple[Float32, Int64, list[str]]:
    """Features (N, D), labels (N,) and patients of a hospital's readable images, as labels in doubt are looked for.

    Raises:
        DataError, WeightsError, ConfigError, MemoryError: as `look_closer`.
    """
    seen = _see(job, file, extractor_of(job, file))
    if isinstance(seen, str):
        raise DataError(seen)
    labels = np.array([record.label for record in seen.records], np.int64)
    return seen.features, labels, [record.patient_id for record in seen.records]


def named(path: Path, folder: Path) -> str:
    """A file as `consilium check` names it."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def in_words(name: str, closer: Closer, folder: Path, shown: int = 5) -> list[str]:
    """Sentences for the terminal."""
    said = []
    for what, some in (("label(s) in doubt", closer.labels), ("image(s) that look turned or inverted", closer.turned)):
        if some:
            listed = "; ".join(f"{named(one.path, folder)} ({one.words})" for one in some[:shown])
            said.append(f"{name}: {len(some)} {what}, the surest first: {listed}")
    if closer.drift is not None and closer.drift.far:
        said.append(
            f"{name}: its images are unlike those of {closer.drift.source}: the mean is {closer.drift.shift:.2f} deviations off, "
            f"{closer.drift.outside:.0%} of the images are far outside"
        )
    return said + [f"{name}: not looked at: {what}" for what in closer.unseen]


def _see(job: Job, file: HospitalFile, extractor: Extractor) -> _Seen | str:
    """The features of a hospital's images; in words, why there are none."""
    try:
        records = assign(read_rows(file.data.source, file.key_folder), job)
    except DataError as error:
        return f"anything that needs the backbone: {error}"
    images = [(record.path, views_of(job, "test")) for record in records.records]
    with _cache(job, file, extractor) as cache:
        extraction = extract(images, extractor, cache, job, skip_unreadable=True)
    kept = [
        (record, digest, vectors)
        for record, digest, vectors in zip(records.records, extraction.digests, extraction.vectors, strict=True)
        if vectors is not None
    ]
    if not kept:
        return "anything that needs the backbone: no readable image belongs to the job's classes"
    vectors = np.stack([one for _, _, one in kept])
    return _Seen([one for one, _, _ in kept], [one for _, one, _ in kept], vectors[:, 0], vectors.mean(axis=1))


def _closer(
    name: str, seen: _Seen, job: Job, file: HospitalFile, extractor: Extractor, federation: Federation | None
) -> Closer:
    unseen = []
    labels: tuple[Suspect, ...] = ()
    turned: tuple[Suspect, ...] = ()
    strange: tuple[Suspect, ...] = ()
    drift: Drift | None = None
    counts = np.bincount([record.label for record in seen.records], minlength=job.num_classes)
    if (counts >= FEWEST).sum() < 2:
        unseen.append(f"labels in doubt: fewer than two classes have {FEWEST} readable images or more")
    else:
        labels = _labels(seen, job)
    if len(seen.records) < orientation.FEWEST:
        unseen.append(f"images turned or inverted: fewer than {orientation.FEWEST} readable images")
    else:
        turned = _turned(seen, job, file, extractor)
    if federation is None:
        unseen.append(
            "drift from the other hospitals: this hospital has not taken part in a run of this job yet, so it was not told what "
            "their images are like on average"
        )
    else:
        drift = drift_of(seen.features, federation, job)
        strange = _strange(seen, drift)
    collisions = kept_collisions(file.cache_folder, name, job.job_id)
    if collisions is None:
        unseen.append("images that another hospital has too: no run of this job asked for them (duplicates: check)")
    return Closer(labels, turned, drift, strange, collisions, tuple(unseen))


def _labels(seen: _Seen, job: Job) -> tuple[Suspect, ...]:
    labels = np.array([record.label for record in seen.records], np.int64)
    patients = [record.patient_id for record in seen.records]
    found = doubts(probabilities_left_out(seen.features, labels, patients, job.num_classes), labels)
    return tuple(
        Suspect(
            seen.records[one.image].path,
            f"{'' if one.sure else 'perhaps: '}labelled {job.classes[one.label]} (probability {one.given:.2f}), "
            f"looks like {job.classes[one.likely]} ({one.instead:.2f})",
        )
        for one in found
    )


def _turned(seen: _Seen, job: Job, file: HospitalFile, extractor: Extractor) -> tuple[Suspect, ...]:
    paths, patients = [one.path for one in seen.records], [one.patient_id for one in seen.records]
    with _cache(job, file, extractor, "turned") as cache:
        found = turned_images(paths, seen.digests, patients, seen.upright, extractor, cache, job)
    return tuple(Suspect(paths[one.image], f"looks {_looks(one.kind)}") for one in found)


def _looks(kind: str) -> str:
    return f"like {kind}" if kind.startswith("a ") else kind


def _strange(seen: _Seen, drift: Drift) -> tuple[Suspect, ...]:
    farthest = np.argsort(-drift.distances)[:_STRANGE]
    return tuple(
        Suspect(seen.records[row].path, f"{drift.distances[row]:.1f} times the usual distance")
        for row in farthest
        if drift.distances[row] > OUTSIDE
    )


def _cache(job: Job, file: HospitalFile, extractor: Extractor, kind: str = "features") -> FeatureCache:
    space = f"{extraction_space(job, extractor.backbone.digest)}-{extractor.precision}"
    return FeatureCache(file.cache_folder, space, all_blocks(job.backbone.name)[-1].stop, kind)


__all__ = ["NOTHING_SEEN", "Closer", "Suspect", "in_words", "look_closer", "named"]
