"""The rounds and the figures of a run as TensorBoard event files, written by TensorBoard's own writer; no torch, no TensorFlow.

    DIR/RUN/events.out.tfevents.*.consilium      RUN is the name of the run directory: runs under one DIR are shown side by side

Step is the round; time is when the events are written, since rounds.jsonl has durations only.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import ArtifactError, ConfigError
from common.metrics import HIGHER_IS_BETTER

_SUFFIX = ".consilium"
_EVERY_S = 0.5
Scalars = Mapping[str, float]


def round_scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """What a line of rounds.jsonl says in numbers, by tag."""
    validation = line["validation"] or {}
    found = {f"validation/{metric}": validation.get(metric) for metric in HIGHER_IS_BETTER}
    found["train/loss"] = line["train_loss"]
    found |= {f"update norm/{hospital}": norm for hospital, norm in line["update_norms"].items()}
    found |= {f"sent/{way}": line[way] for way in ("bytes_up", "bytes_down")}
    found |= {
        "round/seconds": line["seconds"],
        "round/hospitals": len(line["answered"]),
        "round/missing": len(line["dropped"]),
        "round/lost": int(line["lost"]),
    }
    return {tag: float(value) for tag, value in found.items() if value is not None}


def figures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The metrics on test patients in a summary, by tag."""
    metrics = summary["metrics"]
    named = {"all hospitals": metrics["pooled"], **metrics["hospitals"], "worst hospital": metrics["worst"]}
    found = {f"test {metric}/{name}": one.get(metric) for name, one in named.items() for metric in HIGHER_IS_BETTER}
    return {tag: float(value) for tag, value in found.items() if value is not None}


class EventFile:
    """One new event file below a folder, in place of those that were written there before for the same run."""

    def __init__(self, folder: Path, run: str) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ConfigError(
                f"--tensorboard needs the package tensorboard ({error.name} is missing): pip install 'consilium[export]'"
            ) from error
        self._event, self._summary = Event, Summary
        self.folder = folder / run
        for old in self.folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
            old.unlink()
        self._writer = EventFileWriter(str(self.folder), filename_suffix=_SUFFIX)

    def add(self, scalars: Scalars, step: int) -> None:
        """Add numbers by tag at a step."""
        import time

        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        self._writer.add_event(event)

    def close(self) -> None:
        """All that was added is in the file."""
        self._writer.close()


def write_events(run_dir: Path, folder: Path) -> Path:
    """Write the events of a run directory, finished or not; returns the folder they are in.

    Raises:
        ArtifactError: the directory has no rounds.jsonl.
        ConfigError: tensorboard is not installed.
    """
    if not (run_dir / "rounds.jsonl").is_file():
        raise ArtifactError(
            f"{run_dir} has no rounds.jsonl; expected a run directory, as `consilium simulate` makes it"
        )
    with following(run_dir, folder) as written:
        pass
    return written


@contextmanager
def following(run_dir: Path, folder: Path) -> Iterator[Path]:
    """Events of the rounds of a run while the body runs, and at its end of what is left; yields the folder they are in."""
    file = EventFile(folder, run_dir.resolve().name)
    stop = threading.Event()
    follower = threading.Thread(target=_follow, args=(run_dir, file, stop), daemon=True)
    follower.start()
    try:
        yield file.folder
    finally:
        stop.set()
        follower.join()
        file.close()


def _follow(run_dir: Path, file: EventFile, stop: threading.Event) -> None:
    told: set[int] = set()
    ending = False
    while not ending:
        # Looked at before reading, so that the last reading is after the body has ended.
        ending = stop.wait(_EVERY_S)
        rounds = _rounds(run_dir / "rounds.jsonl")
        for line in rounds:
            if (number := int(line["round"])) not in told:
                told.add(number)
                file.add(round_scalars(line), number)
    try:
        summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    file.add(figures_of(summary), int(summary["best_round"]))


def _rounds(path: Path) -> Sequence[Mapping[str, Any]]:
    """The whole lines of rounds.jsonl so far."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
