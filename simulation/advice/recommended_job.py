"""From advice to the job file that follows it: the author's text with the keys changed that the advice changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from common.job import Job, parse_job
from common.methods import METHODS
from common.tuning import OPTIONS
from simulation.advice.job_text import Change, changed_content, changed_text
from simulation.advice.recommendation import Recommendation
from simulation.advice.situation import WeightsFile

_ANEW = ("rounds", "momentum", "optimizer", "class_weights")
"""Options of a method that another method takes in another way: they do not go over from one to the other."""


@dataclass(frozen=True)
class RecommendedJob:
    """The job advised, as text of a YAML file and parsed; changed: the keys that are written; removed: those that go."""

    text: str
    job: Job
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def recommended_job(
    text: str, content: Mapping[str, Any], job: Job, advice: Sequence[Recommendation]
) -> RecommendedJob:
    """The job file that follows the advice; text and content are the author's, job what they say.

    Raises:
        ConfigError: the author's file cannot be changed so that it is a job.
    """
    advised = {one.key: one for one in advice if one.kind == "recommended"}
    changes: tuple[Change, ...] = ()
    found = job
    # A change may change defaults of other keys, so what was as advised before is looked at once more.
    for _ in range(2):
        wanted = [one for one in advised.values() if one.value != _at(job, one.key) or one.value != _at(found, one.key)]
        changes = tuple(_changes(content, wanted))
        found = parse_job(changed_content(content, changes), "the recommended job")
    written = changed_text(text, changes)
    if yaml.safe_load(written) != changed_content(yaml.safe_load(text), changes):
        comments = "".join(f"# {change.key}: {change.comment}\n" for change in changes if change.comment)
        written = comments + yaml.safe_dump(changed_content(content, changes), sort_keys=False, width=120)
    keys = {removed: tuple(one.key for one in changes if one.removed is removed) for removed in (False, True)}
    return RecommendedJob(written, found, keys[False], keys[True])


def _changes(content: Mapping[str, Any], wanted: Sequence[Recommendation]) -> list[Change]:
    """What to write into the job file."""
    changes = [Change(one.key, _plain(one.value), f"{one.reason} ({one.source})") for one in wanted]
    keys = {change.key for change in changes}
    values = {change.key: change.value for change in changes}
    if "method.name" in keys:
        takes = set(METHODS[values["method.name"]].defaults()) - set(_ANEW)
        changes += _dropped(content, "method", "name", takes, keys)
    if "tune.part" in keys:
        changes += _dropped(content, "tune", "part", set(OPTIONS[values["tune.part"]]), keys)
    return changes


def _dropped(content: Mapping[str, Any], section: str, name: str, takes: set[str], keys: set[str]) -> list[Change]:
    """The options of a section that do not go with its new name."""
    own = content.get(section)
    options = own if isinstance(own, dict) else {}
    return [
        Change(f"{section}.{option}", removed=True)
        for option in options
        if option != name and option not in takes and f"{section}.{option}" not in keys
    ]


def _plain(value: object) -> object:
    """As YAML has it."""
    if isinstance(value, WeightsFile):
        return {"file": value.file, "sha256": value.sha256}
    return list(value) if isinstance(value, tuple) else value


def _at(job: Job, key: str) -> object:
    """The value a job has at a key; lists as tuples, and the size that an image really has; None for weights of no file."""
    if key == "image.size":
        return job.size_px
    if key == "backbone.weights":
        weights = job.backbone.weights
        return WeightsFile(job.backbone.name, weights.file, weights.sha256) if weights.file and weights.sha256 else None
    section, _, name = key.partition(".")
    found = getattr(getattr(job, section), name)
    return tuple(found) if isinstance(found, list) else found
