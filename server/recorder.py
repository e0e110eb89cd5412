"""The run directory: what a run leaves behind for people and programs.

    job.json            the job, canonical
    rounds.jsonl        one line per round, as it is judged
    checkpoints/        last.safetensors: to go on from after a crash
    model.safetensors   the head and its manifest
    summary.json        everything worth knowing, for programs and people; it is there when the run is finished
    counts.json         the test counts the metrics come from: pooled, and of each hospital
    report.html         written by `server/report.py` from the files above
    MODEL_CARD.md, model_card.html   written by `server/model_card.py` from them, too
    failure.json        why the run stopped, if it did; gone as soon as it goes on
    now.json            what the run is doing now; gone when its process ends
    run.lock            held by the process that writes the directory

Predictions are never written: the coordinator has none.
"""

import json
import logging
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.artifact import Manifest, save_model, write_atomically
from common.errors import ArtifactError, ConfigError
from common.job import Job
from server.checkpoint import Checkpoint, Round, load_checkpoint, save_checkpoint
from server.now import NowFile
from server.rounds import Outcome
from server.storage import FAILURE, Lock, append_line, writing
from server.summary import plain_counts, summarise, versions

SUMMARY, COUNTS, ROUNDS, MODEL, JOB = "summary.json", "counts.json", "rounds.jsonl", "model.safetensors", "job.json"
LAST_CHECKPOINT = Path("checkpoints") / "last.safetensors"

log = logging.getLogger(__name__)


class Recorder:
    """Writes one run directory; its methods are hooks of the round loop. Close it, or use it as a context.

    Raises:
        ConfigError: the directory holds another run, unless it is resumed; or another process writes it.
        ArtifactError: the run that is to be resumed is damaged, or there is none.
        StorageError: the directory cannot be written.
    """

    def __init__(self, folder: Path, job: Job, engine: str, resume: bool = False) -> None:
        self.folder, self._job, self._engine = folder, job, engine
        self.checkpoint: Checkpoint | None = None
        self._saved: int | None = None
        self.now = NowFile(folder)
        if resume and not (folder / JOB).exists():
            raise ArtifactError(
                f"{folder} holds no run to go on with (it has no {JOB}); give the --out of the first run"
            )
        with writing(folder, None):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(folder)
        try:
            self._begin(resume)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write the directory."""
        self.now.remove()
        self._lock.release()

    def writing(self, name: str | Path) -> AbstractContextManager[None]:
        """Turns what the disk refuses into a StorageError, while the body writes a file of the directory."""
        return writing(self.folder / name, self._saved)

    def _begin(self, resume: bool) -> None:
        folder = self.folder
        if resume and (folder / SUMMARY).exists():
            raise ConfigError(f"{folder} holds a finished run, there is nothing to go on with; give another --out")
        if not resume and ((folder / ROUNDS).exists() or (folder / SUMMARY).exists()):
            raise ConfigError(f"{folder} holds a run already; give another --out, or --resume to go on with that one")
        kept: list[str] = []
        if resume and (folder / LAST_CHECKPOINT).exists():
            self.checkpoint = load_checkpoint(folder / LAST_CHECKPOINT)
            if self.checkpoint.job_id != self._job.job_id:
                raise ArtifactError(f"the checkpoint in {folder} is of another job; resume the job it was made by")
            self._saved = self.checkpoint.last.number
            kept = self._kept_lines(self.checkpoint.lines)
        elif resume:
            log.warning("%s has no checkpoint yet: the run begins anew", folder)
        with self.writing(""):
            (folder / FAILURE).unlink(missing_ok=True)
            write_atomically(folder / JOB, self._job.canonical_json())
            write_atomically(folder / ROUNDS, "".join(f"{line}\n" for line in kept))

    def _kept_lines(self, number: int) -> list[str]:
        """The lines of the rounds below `number`; later ones, and half a line, are of rounds that will be judged again."""
        path = self.folder / ROUNDS
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        kept: dict[int, str] = {}
        for line in text.split("\n")[:-1]:
            try:
                at = int(json.loads(line)["round"])
            except (ValueError, KeyError, TypeError):
                continue
            if at < number:
                kept[at] = line
        first = 0 if self._job.method.analytic and self._job.method.iterative else 1
        if lacking := [str(at) for at in range(first, number) if at not in kept]:
            raise ArtifactError(
                f"{path} is damaged: its checkpoint builds on {number - first} rounds, and round {', '.join(lacking)} is "
                "missing; copy the run directory again, or run the job again"
            )
        return [kept[at] for at in sorted(kept)]

    def judged(self, made: Round) -> None:
        """Append a round; it is on the disk before the next checkpoint is.

        Raises:
            StorageError: it cannot be written.
        """
        line = {"round": made.number, **{key: value for key, value in asdict(made).items() if key != "number"}}
        with self.writing(ROUNDS):
            append_line(self.folder / ROUNDS, json.dumps(line))

    def save(self, state: Checkpoint) -> None:
        """Replace the last checkpoint.

        Raises:
            StorageError: it cannot be written; the one before is as it was.
        """
        with self.writing(LAST_CHECKPOINT):
            save_checkpoint(self.folder / LAST_CHECKPOINT, state)
        self._saved = state.last.number

    def finish(self, outcome: Outcome) -> dict[str, Any]:
        """Write the model and the summary; returns the summary.

        Raises:
            StorageError: they cannot be written.
        """
        summary = summarise(self._job, outcome, self._engine)
        if self.checkpoint is not None:
            summary["resumed_after_round"] = self.checkpoint.last.number
        manifest = Manifest(
            job=self._job,
            job_id=self._job.job_id,
            fingerprint=outcome.members.fingerprint,
            backbone_digest=outcome.members.backbone_digest,
            rounds=outcome.best_round,
            hospitals=_hospitals_told(self._job, outcome),
            metrics=summary["metrics"]["pooled"],
            versions=versions(),
            calibration=outcome.bedside.calibration,
            operating_point=outcome.bedside.operating_point,
            unlike=outcome.bedside.unlike,
            missing=dict(outcome.bedside.missing),
        )
        with self.writing(MODEL):
            save_model(self.folder / MODEL, outcome.model, manifest, outcome.bedside.spread)
        with self.writing(COUNTS):
            write_atomically(self.folder / COUNTS, json.dumps(plain_counts(self._job, outcome)))
        # Last: it says that the others are there.
        with self.writing(SUMMARY):
            write_atomically(self.folder / SUMMARY, json.dumps(summary, indent=1))
        return summary


def _hospitals_told(job: Job, outcome: Outcome) -> int:
    """How many took part; where that is protected, how many are registered: the model file goes to others."""
    budget = job.privacy.differential_privacy
    return (budget and budget.hospitals) or len(outcome.members.members)
