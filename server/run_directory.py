"""A finished run read back: the files of its directory, checked against each other. `server/recorder.py` writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ArtifactError
from common.metrics import ClassificationCounts

_OF_A_ROUND = (
    "round",
    "lost",
    "answered",
    "train_loss",
    "validation",
    "update_norms",
    "dropped",
    "outside",
    "bytes_up",
    "bytes_down",
    "seconds",
)
REMEDY = "copy the run directory again, or run the job again"


@dataclass(frozen=True)
class FinishedRun:
    """What the files of a run directory say: job, summary, test counts pooled and by hospital, rounds.

    cross_site: counts by who trained a head and where it was counted; empty if the job did not ask.
    """

    job: Mapping[str, Any]
    summary: Mapping[str, Any]
    pooled: ClassificationCounts
    hospitals: Mapping[str, ClassificationCounts]
    rounds: Sequence[Mapping[str, Any]]
    cross_site: Mapping[str, Mapping[str, ClassificationCounts]]


def read_run(folder: Path) -> FinishedRun:
    """Read the files of a run directory.

    Raises:
        ArtifactError: the folder is no run directory, or a file of it is damaged or of another run.
    """
    job, summary = _read_mapping(folder / "job.json"), _read_mapping(folder / "summary.json")
    if summary.get("job") != job:
        raise ArtifactError(f"{folder}: job.json and summary.json do not belong together; {REMEDY}")
    path = folder / "counts.json"
    plain = _read_mapping(path)
    try:
        pooled = _counts(plain["pooled"], len(job["classes"]))
        hospitals = {name: _counts(one, len(job["classes"])) for name, one in plain["hospitals"].items()}
        cross_site = {
            trained: {where: _counts(one, len(job["classes"])) for where, one in row.items()}
            for trained, row in plain.get("cross_site", {}).items()
        }
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(
            f"{path} is damaged: expected counts of {len(job.get('classes', ()))} classes, pooled and by hospital, "
            f"got {type(error).__name__}: {error}; {REMEDY}"
        ) from error
    # Under secure aggregation there are none by hospital.
    if not job["privacy"]["secure_aggregation"] and not np.array_equal(
        pooled.confusion, sum((one.confusion for one in hospitals.values()), pooled.confusion * 0)
    ):
        raise ArtifactError(
            f"{path} is damaged: the counts of the hospitals do not add up to the pooled ones; {REMEDY}"
        )
    path = folder / "rounds.jsonl"
    lines = enumerate(_read(path).splitlines(), 1)
    rounds = [_mapping(line, f"{path}, line {at}", _OF_A_ROUND) for at, line in lines]
    return FinishedRun(job, summary, pooled, hospitals, rounds, cross_site)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"cannot read {path} ({error}); expected the directory of a finished run, as `consilium simulate` makes it"
        ) from error


def _read_mapping(path: Path) -> dict[str, Any]:
    return _mapping(_read(path), str(path))


def _mapping(text: str, where: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is damaged: expected JSON, got {error}; {REMEDY}") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{where} is damaged: expected a mapping, got {type(content).__name__}; {REMEDY}")
    if lacking := [key for key in keys if key not in content]:
        raise ArtifactError(f"{where} is damaged: expected the keys {', '.join(lacking)} too; {REMEDY}")
    return content


def _counts(plain: Mapping[str, Any], classes: int) -> ClassificationCounts:
    arrays = {}
    for name, zeros in asdict(ClassificationCounts.zeros(classes)).items():
        array = np.asarray(plain[name])
        if array.shape != zeros.shape or array.dtype.kind != "i" or (array < 0).any():
            raise ValueError(f"{name} should be whole numbers from 0 on of shape {zeros.shape}")
        arrays[name] = array
    return ClassificationCounts(**arrays)
