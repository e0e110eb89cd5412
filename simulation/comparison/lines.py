"""The lines of a comparison: chosen rows with the hospitals that train them and a job for each seed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.records import Records
from common.job import Job, parse_job
from simulation.comparison.rows import ROWS, ComparedRow, Content

BySeed = Mapping[int, Mapping[str, Records]]
"""Seed -> hospital -> records: with each seed the patients are split anew."""


@dataclass(frozen=True)
class Line:
    """One line of the table. `hospitals` train it by one of `jobs` for each seed; there are none if there is a `reason`.

    who: as in `ComparedRow`. slug: the name of its folder.
    """

    name: str
    slug: str
    summary: str
    who: str
    hospitals: Sequence[str]
    jobs: Sequence[Job]
    reason: str | None = None


def left_out(by_seed: BySeed) -> dict[str, str]:
    """Hospitals that cannot take part, because a split leaves them no training image, and a sentence on each."""
    found: dict[str, str] = {}
    for seed, hospitals in by_seed.items():
        for name, records in hospitals.items():
            if not records.of("train"):
                found.setdefault(name, f"{name} is left out: with seed {seed} it has no training image.")
    return found


def lines_of(
    content: Content, names: Sequence[str], by_seed: BySeed, scratch_rounds: int
) -> tuple[list[Line], list[str]]:
    """The lines of some rows in the order of their names, each once, and sentences on rows that turned out the same.

    Raises:
        ConfigError: the job cannot be changed as a row says.
    """
    lines: list[Line] = []
    for name in dict.fromkeys(names):
        row = ROWS[name]
        if row.who == "each alone":
            hospitals = next(iter(by_seed.values()))
            lines += [_alone(hospital, row, content, by_seed, scratch_rounds) for hospital in hospitals]
        else:
            lines.append(_line(name, row, content, by_seed, scratch_rounds))
    written = next((line for line in lines if line.slug == "job"), None)
    # A training is done once: the job as it is written may be one of the other rows.
    same = [line for line in lines if written and line is not written and list(line.jobs) == list(written.jobs)]
    if not written or not same:
        return lines, []
    lines.remove(written)
    return lines, [f"{same[0].name} is the job as it is written."]


def _line(name: str, row: ComparedRow, content: Content, by_seed: BySeed, scratch_rounds: int) -> Line:
    changed, everyone = row.change(content, scratch_rounds), list(next(iter(by_seed.values())))
    if row.who == "one place":
        jobs = _jobs(_renamed(changed, name), by_seed)
        return Line("all images in one place", name, row.summary, row.who, ["pooled"], jobs)
    if name == "random-backbone" and parse_job(content).backbone.weights.random:
        reason = "the backbone of the job itself has random weights"
        return Line(name, name, row.summary, row.who, everyone, [], reason)
    return Line(name, name, row.summary, row.who, everyone, _jobs(changed, by_seed))


def _alone(hospital: str, row: ComparedRow, content: Content, by_seed: BySeed, scratch_rounds: int) -> Line:
    jobs = _jobs(_renamed(row.change(content, scratch_rounds), f"alone-{hospital}"), by_seed)
    reason = next((why for job in jobs if (why := _cannot_train(job, by_seed[job.seed][hospital]))), None)
    name, slug = f"{hospital} alone", f"alone-{hospital}"
    return Line(name, slug, row.summary, row.who, [hospital], [] if reason else jobs, reason)


def _jobs(content: Content, by_seed: BySeed) -> list[Job]:
    return [parse_job({**content, "seed": seed}) for seed in by_seed]


def _renamed(content: Content, suffix: str) -> Content:
    """What a hospital keeps of a job goes by the job's id, so trainings by different hospitals get different names."""
    plain = re.sub(r"[^a-z0-9]+", "-", suffix.lower())[:40]
    return {**content, "name": f"{content['name'][: 62 - len(plain)]}-{plain}"}


def _cannot_train(job: Job, records: Records) -> str | None:
    """Why a hospital has nothing to learn from alone."""
    images = records.images(job.num_classes)[0]
    present = [job.classes[index] for index in np.flatnonzero(images)]
    if len(present) > 1:
        return None
    return f"with seed {job.seed} all its {images.sum()} training images are of class {present[0]}"
