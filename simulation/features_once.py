"""The features of several jobs made once, before any of them trains; afterwards the caches of the hospitals answer."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from client.preparation import prepare
from client.records import read_rows
from common.job import Job
from common.tuning import Tune
from simulation.pooling import Machine


def make_features(jobs: Iterable[Job], hospitals: Mapping[str, Path], machine: Machine) -> tuple[int, float]:
    """Send the images of all hospitals once through each network that the jobs read.

    Returns:
        Images decoded (an image counts once for each network), and seconds.

    Raises:
        DataError: an image cannot be read; all of a hospital's are named.
        WeightsError: a backbone's weights cannot be had.
    """
    start = time.perf_counter()
    decoded = 0
    for job in _covering(jobs):
        for name, folder in hospitals.items():
            decoded += prepare(job, machine.hospital_file(name, folder)).description.decoded
    return decoded, time.perf_counter() - start


def _covering(jobs: Iterable[Job]) -> list[Job]:
    """For each network one job whose views include those of all others; one for each seed where training images have more."""
    found: dict[tuple[str, ...], Job] = {}
    for job in jobs:
        seed = "" if job.features.views == 1 else str(job.seed)
        key = (job.backbone.model_dump_json(), job.image.fit, str(job.size_px), seed)
        other = found.get(key, job)
        features = job.features.model_copy(
            update={
                "views": max(job.features.views, other.features.views),
                "mirror": job.features.mirror or other.features.mirror,
            }
        )
        found[key] = job.model_copy(update={"features": features, "tune": Tune()})
    # The network that has fewer views goes last: what it needs is cached by then.
    return sorted(found.values(), key=lambda job: (job.backbone.model_dump_json(), -job.features.views))


def rows_digest(hospitals: Mapping[str, Path], cache_dir: Path | None = None) -> dict[str, str]:
    """For each hospital a digest (64 hex digits) of which images it lists with which labels, patients and parts."""
    found = {}
    for name, folder in hospitals.items():
        listed = read_rows(folder, cache_dir)
        rows = sorted(f"{row.path.resolve()}\t{row.label}\t{row.patient_id}\t{row.part}" for row in listed)
        found[name] = hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()
    return found
