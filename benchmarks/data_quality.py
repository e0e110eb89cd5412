"""Faults planted among the six public hospitals, and whether `consilium check` names them; and what it names where none is
planted.

    python -m benchmarks.data_quality SHARED --cache-dir CACHE [--pages DIR] [--seed 0] [--label-seeds 10]

SHARED holds data/chest_xray and weights, as for the other benchmarks. The first time 3,906 images and the copies that the
orientation heads learn from pass the backbone; after that it takes minutes. No image of the data set is changed: copies go
to a temporary folder.
"""

import argparse
import csv
import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from client.check import check_hospitals
from client.check_findings import CheckResult
from client.check_page import write_page
from client.duplicate_keys import keyed_hashes
from client.images import load_image
from client.label_noise import doubts, probabilities_left_out
from client.progress import progress
from client.quality import Closer, examples_of, look_closer, named
from client.records import Row, assign, read_rows
from common.config_file import load_yaml
from common.job import Job, parse_job
from server.duplicate_check import SharedImages, compare
from simulation.pooling import Machine

PROJECT = Path(__file__).resolve().parent.parent
CLASSES = ["normal", "pneumonia", "covid19"]
Edit = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Roles:
    """Which hospital gets which fault."""

    flipped: str = "guangzhou_children"
    turned: str = "nih_clinical_center"
    dark: str = "actualmed_spain"
    receiver: str = "figure1"
    faulty: str = "literature"


@dataclass
class Planted:
    """Names of planted images as `hospital/file`: by kind. flips: files whose label was changed."""

    faults: dict[str, str] = field(default_factory=dict)
    turned: dict[str, str] = field(default_factory=dict)
    turned_copies: list[frozenset[str]] = field(default_factory=list)
    across: list[frozenset[str]] = field(default_factory=list)
    flips: set[str] = field(default_factory=set)
    dark: str = ""


@dataclass(frozen=True)
class Look:
    """All that is found: by the check, through the backbone, by keyed hashes; and how long each took."""

    check: CheckResult
    closer: Mapping[str, Closer]
    shared: Sequence[SharedImages]
    seconds: Mapping[str, float]


def plant(
    hospitals: Mapping[str, Path], out: Path, roles: Roles, labels: Sequence[str], flips: int, seed: int
) -> tuple[dict[str, Path], Planted]:
    """Copies of the manifests of hospitals (name -> folder), with faults; images that are not changed stay where they are."""
    rng = np.random.default_rng(seed)
    rows = {name: [list(_cells(row)) for row in read_rows(folder)] for name, folder in hospitals.items()}
    planted = Planted(dark=roles.dark)
    taken: dict[str, set[int]] = {name: set() for name in hospitals}
    at_first = {name: len(some) for name, some in rows.items()}

    def pick(name: str, allowed: Sequence[str] | None = None) -> int:
        free = [
            at
            for at, row in enumerate(rows[name][: at_first[name]])
            if at not in taken[name] and (not allowed or row[1] in allowed)
        ]
        at = int(rng.choice(free))
        taken[name].add(at)
        return at

    def save(picture: Image.Image, name: str, file: str, **how: int) -> str:
        (out / name).mkdir(parents=True, exist_ok=True)
        picture.save(out / name / file, **how)
        return str(out / name / file)

    def edited(name: str, what: str, edit: Edit) -> str:
        at = pick(name)
        row = rows[name][at]
        row[0] = save(edit(load_image(Path(row[0]))), name, f"{what}.png")
        return f"{name}/{what}.png"

    for what, edit in {
        "blank": lambda p: p.point(lambda _: 17),
        "overexposed": lambda p: p.point(lambda v: min(255, 2 * v + 40)),
    }.items():
        planted.faults[edited(roles.faulty, what, edit)] = what
    for what, edit in {
        "turned by 90 degrees": lambda p: p.transpose(Image.Transpose.ROTATE_90),
        "upside down": lambda p: p.transpose(Image.Transpose.ROTATE_180),
        "a negative": ImageOps.invert,
    }.items():
        planted.turned[edited(roles.turned, what.replace(" ", "-"), edit)] = what
    for what, edit in {
        "rotated-copy": lambda p: p.transpose(Image.Transpose.ROTATE_90),
        "inverted-copy": ImageOps.invert,
    }.items():
        row = rows[roles.flipped][pick(roles.flipped)]
        copy = save(edit(load_image(Path(row[0]))), roles.flipped, f"{what}.jpg", quality=85)
        rows[roles.flipped].append([copy, row[1], f"{what}-patient"])
        planted.turned_copies.append(
            frozenset({_as_named(hospitals, roles.flipped, row[0]), f"{roles.flipped}/{what}.jpg"})
        )
    for what, giver in (("same", roles.flipped), ("smaller", roles.turned)):
        row = rows[giver][pick(giver)]
        picture = load_image(Path(row[0]))
        if what == "smaller":
            picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5), Image.Resampling.LANCZOS)
        copy = save(picture, roles.receiver, f"{what}.png")
        rows[roles.receiver].append([copy, row[1], f"{what}-patient"])
        planted.across.append(frozenset({_as_named(hospitals, giver, row[0]), f"{roles.receiver}/{what}.png"}))
    for _ in range(flips):
        row = rows[roles.flipped][pick(roles.flipped, labels)]
        row[1] = next(label for label in labels if label != row[1])
        planted.flips.add(_as_named(hospitals, roles.flipped, row[0]))
    for at, row in enumerate(rows[roles.dark]):
        darker = load_image(Path(row[0])).point(lambda v: v * 2 // 5)
        row[0] = save(darker, roles.dark, f"dark-{at}.png")
    for name, some in rows.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        with (out / name / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["path", "label", "patient_id"], *some])
    return {name: out / name for name in hospitals}, planted


def look(hospitals: Mapping[str, Path], job: Job, machine: Machine) -> Look:
    """Everything that a hospital and the coordinator look at."""
    seconds, start = {}, time.perf_counter()
    check = check_hospitals(hospitals, job, progress)
    seconds["check"] = time.perf_counter() - start
    start = time.perf_counter()
    closer = look_closer({name: machine.hospital_file(name, folder) for name, folder in hospitals.items()}, job)
    seconds["backbone"] = time.perf_counter() - start
    start = time.perf_counter()
    secret = secrets.token_bytes(32)
    hashes = {}
    for name, folder in hospitals.items():
        found = keyed_hashes([record.path for record in assign(read_rows(folder), job).records], secret, job.job_id)
        hashes[name] = {"exact": found.exact, "near": found.near}
    shared, _ = compare(hashes)
    seconds["keyed hashes"] = time.perf_counter() - start
    return Look(check, closer, shared, seconds)


def verdicts(
    found: Look, planted: Planted, hospitals: Mapping[str, Path], original: Mapping[str, Path]
) -> dict[str, tuple[int, int]]:
    """For each kind how many were planted, and how many of them are named for what they are."""
    faults = {
        f"{name}/{file}": fault
        for name, one in found.check.hospitals.items()
        for fault, files in one.faults.items()
        for file in files
    }
    turned = {
        _shown(hospitals, original, name, one.path): one.words
        for name, closer in found.closer.items()
        for one in closer.turned
    }
    doubtful = {
        _shown(hospitals, original, name, one.path) for name, closer in found.closer.items() for one in closer.labels
    }
    copies = {frozenset(_plain(name, original) for name in (one, two)) for one, two, _ in found.check.turned_duplicates}
    same = {
        frozenset(_plain(name, original) for name in group)
        for group in (*found.check.exact_duplicates, *found.check.near_duplicates)
    }
    drift = found.closer[planted.dark].drift
    dark = found.check.hospitals[planted.dark].faults.get("dark", ())
    pairs = {one.hospitals: one for one in found.shared}
    of = [tuple(sorted(name.split("/")[0] for name in pair)) for pair in planted.across]
    return {
        "blank, overexposed": (
            len(planted.faults),
            sum(faults.get(name) == what for name, what in planted.faults.items()),
        ),
        "turned or inverted in place": (
            len(planted.turned),
            sum(what in turned.get(name, "") for name, what in planted.turned.items()),
        ),
        "turned or inverted copy": (len(planted.turned_copies), sum(pair in copies for pair in planted.turned_copies)),
        "film at a second hospital, looked at together": (
            len(planted.across),
            sum(pair in same for pair in planted.across),
        ),
        "film at a second hospital, by keyed hashes": (len(of), sum(pair in pairs for pair in of)),
        "flipped labels": (len(planted.flips), len(planted.flips & doubtful)),
        "images of the darkened hospital": (
            sum(one.images for one in found.check.hospitals[planted.dark].classes.values()),
            len(dark),
        ),
        "drift of the darkened hospital": (1, int(drift is not None and drift.far)),
    }


def named_otherwise(found: Look) -> dict[str, str]:
    """What is named, by kind: with nothing planted these are false alarms, or faults of the data."""
    closer, check = found.closer, found.check
    sure = {
        name: sum(not one.words.startswith("perhaps") for one in one_closer.labels)
        for name, one_closer in closer.items()
    }
    drifts = {name: one.drift for name, one in closer.items() if one.drift is not None}
    return {
        "blank, overexposed, dark": str(
            sum(len(files) for one in check.hospitals.values() for files in one.faults.values())
        ),
        "turned or inverted": "; ".join(f"{name} {len(one.turned)}" for name, one in closer.items() if one.turned)
        or "0",
        "near duplicates": str(len(check.near_duplicates)),
        "turned or inverted copies": str(len(check.turned_duplicates)),
        "by keyed hashes": "; ".join(f"{'-'.join(one.hospitals)} {one.exact}, {one.near}" for one in found.shared)
        or "0",
        "labels in doubt": "; ".join(
            f"{name} {len(one.labels)}, {sure[name]} of them sure" for name, one in closer.items() if one.labels
        ),
        "drift": "; ".join(
            f"{name} {one.shift:.2f}, highest stage {max(one.by_stage.values()):.2f}{' FAR' if one.far else ''}, "
            f"outside {one.outside:.1%}"
            for name, one in drifts.items()
        ),
    }


def label_noise_by_seed(
    folder: Path, job: Job, machine: Machine, labels: Sequence[str], flips: int, seeds: int
) -> list[tuple[int, int, int]]:
    """Of flipped labels, for each seed: how many are named, how many of them as sure, and how many images are named in all."""
    features, truth, patients = examples_of(machine.hospital_file("one", folder), job)
    two = [job.classes.index(label) for label in labels]
    found = []
    for seed in range(seeds):
        noisy = truth.copy()
        chosen = np.random.default_rng(seed).choice(np.flatnonzero(np.isin(truth, two)), flips, replace=False)
        noisy[chosen] = [two[1] if label == two[0] else two[0] for label in truth[chosen]]
        doubtful = doubts(probabilities_left_out(features, noisy, patients, job.num_classes), noisy)
        images, sure = {one.image for one in doubtful}, {one.image for one in doubtful if one.sure}
        found.append((len(images & set(chosen.tolist())), len(sure & set(chosen.tolist())), len(images)))
    return found


def _cells(row: Row) -> tuple[str, str, str]:
    return str(row.path.resolve()), row.label, row.patient_id


def _as_named(hospitals: Mapping[str, Path], name: str, path: str) -> str:
    return f"{name}/{named(Path(path), hospitals[name].resolve())}"


def _shown(hospitals: Mapping[str, Path], original: Mapping[str, Path], name: str, path: Path) -> str:
    inside = named(path, hospitals[name])
    return f"{name}/{inside}" if not Path(inside).is_absolute() else _as_named(original, name, inside)


def _plain(shown: str, original: Mapping[str, Path]) -> str:
    """The name of an image that stayed in its first folder, as if that were the hospital's."""
    name, _, file = shown.partition("/")
    return _as_named(original, name, file) if file.startswith("/") else shown


def main() -> None:
    """Print what is named where nothing is planted, what of the planted faults is named, and the times."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--cache-dir", type=Path, required=True)
    arguments.add_argument("--pages", type=Path, help="write the pages of the planted hospitals there")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--label-seeds", type=int, default=10)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = parse_job({**load_yaml(PROJECT / "configs" / "chest_xray.yaml"), "classes": CLASSES, "duplicates": "check"})
    folders = sorted(path.parent for path in (given.shared / "data" / "chest_xray").glob("*/manifest.csv"))
    hospitals = {path.name: path for path in folders}
    machine = Machine(given.shared / "weights", given.cache_dir)
    clean = look(hospitals, job, machine)
    print("\nNothing planted; what is named:")
    for kind, text in named_otherwise(clean).items():
        print(f"  {kind}: {text}")
    print("  seconds:", ", ".join(f"{what} {spent:.0f}" for what, spent in clean.seconds.items()))
    for name, closer in clean.closer.items():
        for one in closer.turned:
            print(f"    {name}/{named(one.path, hospitals[name])}: {one.words}")
    roles = Roles()
    with tempfile.TemporaryDirectory() as temporary:
        changed, planted = plant(hospitals, Path(temporary), roles, CLASSES[:2], 10, given.seed)
        found = look(changed, job, machine)
        print("\nPlanted and named:")
        for kind, (number, seen) in verdicts(found, planted, changed, hospitals).items():
            print(f"  {kind}: {seen} of {number}")
        print("\nNamed with the planted ones among them:")
        for kind, text in named_otherwise(found).items():
            print(f"  {kind}: {text}")
        print("  seconds:", ", ".join(f"{what} {spent:.0f}" for what, spent in found.seconds.items()))
        if given.pages:
            start = time.perf_counter()
            for name, folder in changed.items():
                write_page(given.pages / f"{name}.html", name, folder, found.check, found.closer[name], job)
            print(f"  pages: {time.perf_counter() - start:.0f} s")
    print("\nTen flipped labels, by seed: named (of them sure), of all that are named")
    for name in (roles.flipped, roles.turned):
        rows = label_noise_by_seed(hospitals[name], job, machine, CLASSES[:2], 10, given.label_seeds)
        print(f"  {name}: " + "; ".join(f"{seen} ({sure}) of {every}" for seen, sure, every in rows))


if __name__ == "__main__":
    main()
