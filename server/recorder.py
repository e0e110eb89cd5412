"""The run directory: what a run leaves behind for people and programs.

    job.json            the job, canonical
    rounds.jsonl        one line per round, as it is judged
    checkpoints/        last.safetensors: to go on from after a crash
    model.safetensors   the head and its manifest
    summary.json        everything worth knowing, for programs and people
    counts.json         the test counts the metrics come from: pooled, and of each hospital
    report.html         written by `server/report.py` from the files above

Predictions are never written: the coordinator has none.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from common.artifact import Manifest, save_model, write_atomically
from common.backbones import backbone_row
from common.candidates import improves
from common.errors import ConfigError
from common.job import Job
from common.metrics import ClassificationCounts, derive, intervals, worst
from common.wire import PARTS, PERSONALISED
from server.afterwards import Personal
from server.checkpoint import Checkpoint, Round, load_checkpoint, save_checkpoint
from server.rounds import Outcome

SUMMARY, COUNTS, ROUNDS, MODEL, JOB = "summary.json", "counts.json", "rounds.jsonl", "model.safetensors", "job.json"
LAST_CHECKPOINT = Path("checkpoints") / "last.safetensors"


class Recorder:
    """Writes one run directory; its methods are hooks of the round loop.

    Raises:
        ConfigError: the directory holds another run, unless it is resumed.
    """

    def __init__(self, folder: Path, job: Job, engine: str, resume: bool = False) -> None:
        self.folder, self._job, self._engine = folder, job, engine
        self.checkpoint: Checkpoint | None = None
        if resume:
            self.checkpoint = load_checkpoint(folder / LAST_CHECKPOINT)
            last = self.checkpoint.last.number
            self._forget_rounds_from(last + 1 if self.checkpoint.judged else last)
        elif (folder / ROUNDS).exists() or (folder / SUMMARY).exists():
            raise ConfigError(f"{folder} holds a run already; give another --out, or --resume to go on with that one")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / JOB, job.canonical_json())
            write_atomically(folder / ROUNDS, "")

    def _forget_rounds_from(self, number: int) -> None:
        path = self.folder / ROUNDS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["round"] < number]
        write_atomically(path, "".join(f"{line}\n" for line in kept))

    def judged(self, made: Round) -> None:
        """Append a round."""
        line = {"round": made.number, **{key: value for key, value in asdict(made).items() if key != "number"}}
        with (self.folder / ROUNDS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, state: Checkpoint) -> None:
        """Replace the last checkpoint."""
        save_checkpoint(self.folder / LAST_CHECKPOINT, state)

    def finish(self, outcome: Outcome) -> dict[str, Any]:
        """Write the model and the summary; returns the summary."""
        before = self.checkpoint.last.number if self.checkpoint is not None else 0
        summary = summarise(self._job, outcome, self._engine, before)
        if self.checkpoint is not None:
            summary["resumed_after_round"] = before
        manifest = Manifest(
            job=self._job,
            job_id=self._job.job_id,
            fingerprint=outcome.members.fingerprint,
            backbone_digest=outcome.members.backbone_digest,
            rounds=outcome.best_round,
            hospitals=len(outcome.members.members),
            metrics=summary["metrics"]["pooled"],
            versions=versions(),
        )
        save_model(self.folder / MODEL, outcome.model, manifest)
        counts = {
            "pooled": _plain(_sum(outcome)),
            "hospitals": {name: _plain(one) for name, one in outcome.test.items()},
        }
        if outcome.after.cross_site:
            counts["cross_site"] = {
                trained: {where: _plain(one) for where, one in row.items()}
                for trained, row in outcome.after.cross_site.items()
            }
        write_atomically(self.folder / COUNTS, json.dumps(counts))
        write_atomically(self.folder / SUMMARY, json.dumps(summary, indent=1))
        return summary


def versions() -> dict[str, str]:
    """Versions of the libraries that made the model, as far as they are installed."""
    found = {}
    for name in ("consilium", "flwr", "numpy", "torch", "torchvision"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summarise(job: Job, outcome: Outcome, engine: str, rounds_before: int = 0) -> dict[str, Any]:
    """Everything worth knowing of a run as plain JSON. Undefined metrics are null.

    Bytes and seconds are those of this process, so of the rounds after `rounds_before` if the run was resumed.
    """
    members = outcome.members
    pooled = _sum(outcome)
    by_hospital = {name: derive(counts) for name, counts in outcome.test.items()}
    lowest = worst(by_hospital)
    described = {member.name: member.description for member in members.members}
    return {
        "job": job.model_dump(mode="json"),
        "job_id": job.job_id,
        "engine": engine,
        "method": job.method.name,
        "rounds": outcome.rounds,
        "best_round": outcome.best_round,
        "classes": list(job.classes),
        "fingerprint": members.fingerprint,
        "backbone_digest": members.backbone_digest,
        "random_weights": job.backbone.weights.random,
        "versions": versions(),
        "metrics": {
            "pooled": {**asdict(derive(pooled)), "intervals": _intervals(pooled)},
            "hospitals": {
                name: {**asdict(metrics), "intervals": _intervals(outcome.test[name])}
                for name, metrics in by_hospital.items()
            },
            "worst": {
                **{metric: value for metric, (_, value) in lowest.items()},
                "n": min((metrics.n for metrics in by_hospital.values() if metrics.n), default=0),
            },
            "worst_hospital": {metric: name for metric, (name, _) in lowest.items()},
        },
        "hospitals": {
            name: {
                "images": {part: row.tolist() for part, row in zip(PARTS, one.images, strict=True)},
                "patients": dict(zip(PARTS, one.patients.tolist(), strict=True)),
                "examples": one.examples,
                "other_labels": one.other_labels,
                "unreadable": one.unreadable,
                "decoded": one.decoded,
                "cached": one.cached,
            }
            for name, one in described.items()
        },
        "closed_form": outcome.choice,
        "cross_site": {
            trained: {where: asdict(derive(counts)) for where, counts in row.items()}
            for trained, row in outcome.after.cross_site.items()
        },
        "personalisation": personalisation(outcome.after.personal, job.evaluation.select_by),
        "missing_classes": members.missing_classes(job.classes),
        "dropped": {
            **members.dropped,
            **outcome.after.dropped,
            **{name: f"at the test: {why}" for name, why in outcome.test_dropped.items()},
        },
        "images": {
            "decoded": sum(one.decoded for one in described.values()),
            "cached": sum(one.cached for one in described.values()),
            "unreadable": sum(one.unreadable for one in described.values()),
            "other_labels": sum(one.other_labels for one in described.values()),
        },
        "communication": _communication(job, outcome, outcome.rounds - rounds_before),
        "seconds": {phase: round(seconds, 3) for phase, seconds in outcome.seconds.items()},
    }


def _sum(outcome: Outcome) -> ClassificationCounts:
    """The test counts of all hospitals together."""
    return sum(outcome.test.values(), ClassificationCounts.zeros(len(outcome.model.head.bias)))


def _communication(job: Job, outcome: Outcome, rounds: int) -> dict[str, Any]:
    hospitals = len(outcome.members.members)
    # The closed-form round counts as one: the whole model would have been sent at least once.
    whole_model = 2 * hospitals * max(rounds, 1) * backbone_row(job.backbone.name).parameters * 4
    total = outcome.bytes_up + outcome.bytes_down
    return {
        "bytes_up": outcome.bytes_up,
        "bytes_down": outcome.bytes_down,
        "head_bytes": outcome.model.head.nbytes,
        "model_bytes": outcome.model.nbytes,
        "whole_model_bytes": whole_model,
        "times_less_than_whole_model": round(whole_model / total, 1) if total else None,
    }


def personalisation(personal: Personal, select_by: str) -> dict[str, Any]:
    """For each hospital the metrics of the global, the personalised and its own model on its own test patients.

    `best` is the model that its own validation patients favour, so the test patients have no say in it.
    """
    found = {}
    for name, parts in personal.items():
        best = None
        for model in PERSONALISED:
            metrics = derive(parts["validation"][model])
            if metrics.n and (best is None or improves(metrics, derive(parts["validation"][best]), select_by)):
                best = model
        found[name] = {
            "best": best,
            "validation": {model: asdict(derive(counts)) for model, counts in parts["validation"].items()},
            "test": {model: asdict(derive(counts)) for model, counts in parts["test"].items()},
        }
    return found


def _intervals(counts: ClassificationCounts) -> Mapping[str, list[float] | None]:
    return {metric: [bound.low, bound.high] if bound else None for metric, bound in intervals(counts).items()}


def _plain(counts: ClassificationCounts) -> dict[str, Any]:
    return {name: np.asarray(array).tolist() for name, array in asdict(counts).items()}
