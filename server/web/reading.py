"""Run directories read for people who look on, while they are written: what is not there yet, or half a line, is passed over."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.errors import ConsiliumError
from common.job import Job, job_from_json
from server.now import NOW
from server.recorder import COUNTS, JOB, LAST_CHECKPOINT, MODEL, ROUNDS, SUMMARY
from server.report import REPORT
from server.storage import FAILURE
from server.web.models import HospitalState, QuestionNow, Result, RoundLine, Run, RunRow, RunStateName

log = logging.getLogger(__name__)

FILES: Mapping[str, str] = {
    REPORT: "text/html",
    MODEL: "application/octet-stream",
    SUMMARY: "application/json",
    COUNTS: "application/json",
    ROUNDS: "application/x-ndjson",
    JOB: "application/json",
}
"""What of a run directory can be fetched, and as what."""

_SILENT_AFTER_S = 300.0
"""Beyond the job's deadline: the coordinator computes, too, and says nothing meanwhile."""


def folders(runs: Path) -> dict[str, Path]:
    """The run directories below a folder by name, the latest first."""
    found = [path.parent for path in runs.glob(f"*/{JOB}")]
    return {one.name: one for one in sorted(found, key=lambda one: _changed(one / JOB), reverse=True)}


def signature(folder: Path) -> tuple[float, ...]:
    """Changes whenever there is something new to see."""
    return tuple(_changed(folder / name) for name in (NOW, ROUNDS, SUMMARY, FAILURE, REPORT))


def read_row(folder: Path) -> RunRow:
    """A run for the list."""
    run = read(folder)
    return RunRow.model_validate(run.model_dump(include=set(RunRow.model_fields)))


def read(folder: Path, now: float | None = None) -> Run:
    """A run in full. now: seconds since 1970."""
    now = time.time() if now is None else now
    try:
        job = job_from_json((folder / JOB).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConsiliumError) as error:
        log.warning("the job of a run cannot be read (%s)", type(error).__name__)
        return _damaged(folder)
    rounds = list(_rounds(folder))
    summary, failure = _mapping(folder / SUMMARY), _mapping(folder / FAILURE)
    result = _result(summary) if summary else None
    changed = max(*signature(folder), _changed(folder / JOB), _changed(folder / LAST_CHECKPOINT))
    state: RunStateName = "silent" if now > changed + job.quorum.deadline_s + _SILENT_AFTER_S else "running"
    if summary:
        state = "finished" if result else "damaged"
    elif failure:
        state = "failed"
    question = _question(folder, now) if state in ("running", "silent") else None
    budget = job.privacy.differential_privacy
    return Run(
        **_of_job(job),
        name=folder.name,
        state=state,
        rounds_done=len(rounds),
        auroc=result.pooled.get("auroc") if result else _best(rounds),
        changed=changed,
        question=question,
        rounds=rounds,
        bytes_up=result.bytes_up if result else _sum(rounds, question, "bytes_up"),
        bytes_down=result.bytes_down if result else _sum(rounds, question, "bytes_down"),
        failure=str(failure.get("error", "no reason given")) if state == "failed" and failure else None,
        result=result,
        files=[name for name in FILES if (folder / name).is_file()],
        seed=job.seed,
        secure_aggregation=job.privacy.secure_aggregation,
        epsilon=budget.epsilon if budget else None,
    )


def _of_job(job: Job) -> dict[str, Any]:
    return {
        "job": job.name,
        "job_id": job.job_id,
        "classes": list(job.classes),
        "method": job.method.name,
        "backbone": job.backbone.name,
        "rounds_planned": job.method.rounds,
    }


def _damaged(folder: Path) -> Run:
    nothing: dict[str, Any] = {
        "job": folder.name,
        "job_id": "",
        "classes": [],
        "method": "",
        "backbone": "",
        "rounds_planned": 0,
    }
    found: dict[str, Any] = {
        **{"name": folder.name, "state": "damaged", "rounds_done": 0, "auroc": None, "changed": _changed(folder / JOB)},
        **{
            "question": None,
            "rounds": [],
            "bytes_up": 0,
            "bytes_down": 0,
            "failure": None,
            "result": None,
            "files": [],
        },
        **{"seed": 0, "secure_aggregation": False, "epsilon": None},
    }
    return Run(**nothing, **found)


def _rounds(folder: Path) -> Iterator[RoundLine]:
    try:
        lines = (folder / ROUNDS).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError:
        return
    for line in lines:
        if not line.endswith("\n"):
            continue
        try:
            yield RoundLine.model_validate_json(line)
        except ValidationError:
            log.warning("a line of %s cannot be read", ROUNDS)


def _question(folder: Path, now: float) -> QuestionNow | None:
    plain = _mapping(folder / NOW)
    if not plain:
        return None
    try:
        hospitals = [HospitalState(name=name, **one) for name, one in plain["hospitals"].items()]
        left = max(0.0, float(plain["deadline"]) - now)
        return QuestionNow.model_validate({**plain, "hospitals": hospitals, "seconds_left": left})
    except (KeyError, TypeError, ValueError, AttributeError):
        log.warning("%s cannot be read", NOW)
        return None


def _result(summary: Mapping[str, Any]) -> Result | None:
    try:
        pooled = dict(summary["metrics"]["pooled"])
        bounds = pooled.pop("intervals")
        hospitals = {
            name: {key: value for key, value in one.items() if key != "intervals"}
            for name, one in summary["metrics"]["hospitals"].items()
        }
        sent = summary["communication"]
        return Result(
            best_round=summary["best_round"],
            pooled=pooled,
            bounds=bounds,
            hospitals=hospitals,
            taking_part=summary["taking_part"],
            bytes_up=sent["bytes_up"],
            bytes_down=sent["bytes_down"],
            seconds=summary["seconds"].get("total"),
            random_weights=summary["random_weights"],
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        log.warning("%s cannot be read", SUMMARY)
        return None


def _best(rounds: list[RoundLine]) -> float | None:
    values = [value for one in rounds if one.validation and (value := one.validation.get("auroc")) is not None]
    return max(values, default=None)


def _sum(rounds: list[RoundLine], question: QuestionNow | None, way: str) -> int:
    asking = getattr(question, way) if question else 0
    return int(sum(getattr(one, way) for one in rounds) + asking)


def _mapping(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _changed(path: Path) -> float:
    """Seconds since 1970 of its last change; 0 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
