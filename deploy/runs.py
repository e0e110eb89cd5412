"""Runs of a deployed federation: one folder each, and what Flower says of them.

runs/JOB-TIME/    the run directory of `server/recorder.py`, and besides
    run.toml      the run config that was given to Flower
    flower.json   the ids that Flower gave the run, the last one last
    failure.json  why it failed, if it did
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.artifact import write_atomically
from common.errors import ConfigError, FederationError
from common.job import Job
from deploy.bundle import toml, write_app
from deploy.federation import Federation
from deploy.flower import COMPLETED, Flower, Run
from server.recorder import JOB, LAST_CHECKPOINT, ROUNDS, SUMMARY

FAILURE, FLOWER, CONFIG = "failure.json", "flower.json", "run.toml"
_DEFAULTS: dict[str, str | bool] = {"job": "", "out": "", "engine": "deployment", "resume": False, "roster": ""}
_EVERY_S, _ASK_EVERY_S, _ENDING_S = 0.5, 10.0, 120.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: Flower's word, the failure in words (None if all is well) and the exit code it means."""

    status: str
    failure: str | None
    exit_code: int


def new_folder(federation: Federation, job: Job) -> Path:
    """A new run folder with its job."""
    name = f"{job.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = next(path for path in _numbered(federation.runs / name) if not path.exists())
    folder.mkdir(parents=True, mode=0o700)
    write_atomically(folder / JOB, job.canonical_json())
    return folder


def start(flower: Flower, folder: Path, roster: Path, resume: bool = False) -> int:
    """Start the run of a folder, or go on with it from its last checkpoint; returns Flower's run id.

    The run gets a copy of the roster into its folder: in containers, that is all it sees of the federation's.

    Raises:
        FederationError: Flower did not start it.
    """
    (folder / FAILURE).unlink(missing_ok=True)
    config = {**_DEFAULTS, "job": str(folder / JOB), "out": str(folder), "resume": resume}
    if roster.is_file():
        write_atomically(folder / roster.name, roster.read_bytes())
        config["roster"] = str(folder / roster.name)
    write_atomically(folder / CONFIG, toml(config))
    with tempfile.TemporaryDirectory(prefix="consilium-") as temporary:
        write_app(Path(temporary) / "app", _DEFAULTS, courier_only=True)
        run_id = flower.run(Path(temporary) / "app", folder / CONFIG)
    write_atomically(folder / FLOWER, json.dumps({"run_ids": [*run_ids(folder), run_id]}))
    return run_id


def require_resumable(flower: Flower, folder: Path) -> None:
    """Refuse to go on with a run that cannot be.

    Raises:
        ConfigError: it is finished, still going, or has no checkpoint.
    """
    if (folder / SUMMARY).exists():
        raise ConfigError(
            f"{folder} is a finished run; nothing is left to do. See it: consilium coordinator report {folder.name}"
        )
    for run_id in run_ids(folder)[-1:]:
        try:
            run = flower.status(run_id)
        except FederationError:  # a SuperLink with another database does not know it, so it does not run there
            continue
        if not run.finished:
            raise ConfigError(
                f"{folder.name} is still going (run {run_id}, {run.status}); stop it first: "
                f"consilium coordinator stop {folder.name}"
            )
    if not (folder / LAST_CHECKPOINT).exists():
        raise ConfigError(f"{folder} has no checkpoint yet, so there is nothing to go on from; run the job anew")


def find(federation: Federation, word: str) -> Path:
    """The folder of a run: given by its name, its path, or Flower's id.

    Raises:
        ConfigError: there is none.
    """
    for folder in (federation.runs / word, Path(word)):
        if (folder / JOB).is_file():
            return folder.resolve()
    for folder in folders(federation):
        if word.isdigit() and int(word) in run_ids(folder):
            return folder
    known = ", ".join(folder.name for folder in folders(federation)[:5]) or "(none yet)"
    raise ConfigError(f"no run '{word}' in {federation.runs}; the latest are: {known}")


def folders(federation: Federation) -> list[Path]:
    """All run folders, the latest first."""
    found = [path.parent for path in federation.runs.glob(f"*/{JOB}")]
    return sorted(found, key=lambda folder: (folder / JOB).stat().st_mtime, reverse=True)


def run_ids(folder: Path) -> list[int]:
    """The ids that Flower gave the run, the latest last."""
    content = _read(folder / FLOWER)
    return [one for one in content.get("run_ids", []) if isinstance(one, int)]


def rounds_done(folder: Path) -> int:
    """How many rounds were judged."""
    try:
        return (folder / ROUNDS).read_text(encoding="utf-8").count("\n")
    except OSError:
        return 0


def follow(flower: Flower, folder: Path, run_id: int, sleep: Callable[[float], None] = time.sleep) -> Outcome:
    """Wait until a run is over, by its files and now and then by asking Flower.

    Raises:
        FederationError: the run's files say it is over, and Flower does not say so within two minutes.
    """
    clock, ended = 0.0, None
    next_ask = _ASK_EVERY_S
    while True:
        if ended is None and ((folder / SUMMARY).exists() or (folder / FAILURE).exists()):
            ended, next_ask = clock, clock
        if clock >= next_ask:
            run = _ask(flower, run_id)
            if run is not None and run.finished:
                return outcome(folder, run)
            if ended is not None and clock - ended > _ENDING_S:
                raise FederationError(
                    f"{folder.name} is over, but Flower calls run {run_id} '{run.status if run else 'unknown'}'"
                )
            next_ask = clock + (2.0 if ended is not None else _ASK_EVERY_S)
        sleep(_EVERY_S)
        clock += _EVERY_S


def outcome(folder: Path, run: Run) -> Outcome:
    """How a finished run ended."""
    if run.status == COMPLETED and (folder / SUMMARY).exists():
        return Outcome(run.status, None, 0)
    failure = _read(folder / FAILURE)
    said = str(failure.get("error") or run.details or "its files do not say why; see logs/executor.log").strip()
    code = failure.get("exit_code")
    return Outcome(run.status, said, code if isinstance(code, int) and code > 0 else FederationError.exit_code)


def _ask(flower: Flower, run_id: int) -> Run | None:
    try:
        return flower.status(run_id)
    except FederationError:  # the SuperLink may be starting anew; the run goes on meanwhile
        return None


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
