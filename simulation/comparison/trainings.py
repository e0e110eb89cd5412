"""The trainings of a comparison: each line of the table with each seed, in a run directory of its own, judged alike."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.artifact import load_model
from common.errors import ConsiliumError, FederationError
from common.job import Job
from common.metrics import ClassificationCounts
from server.recorder import MODEL, SUMMARY
from server.run_directory import read_run
from simulation.comparison.lines import Line
from simulation.comparison.results import RowResult, RunResult, run_metrics
from simulation.pooling import Machine, judge, pool
from simulation.run import simulate

RUNS = "runs"


@dataclass(frozen=True)
class Step:
    """One training is done: how many of how many, and its result or why there is none."""

    done: int
    total: int
    row: str
    seed: int
    result: RunResult | str


class Trainings:
    """Trains line after line in `out`, and counts what is done of `total` trainings."""

    def __init__(
        self, hospitals: Mapping[str, Path], out: Path, machine: Machine, told: Callable[[Step], None], total: int
    ) -> None:
        self._hospitals, self._out, self._machine, self._told = hospitals, out, machine, told
        self._total, self._done = total, 0

    def row(self, line: Line, images: Mapping[int, int]) -> RowResult:
        """All seeds of one line of the table; `images` has the number of test images with each."""
        runs, reasons = [], [line.reason] if line.reason else []
        for job in line.jobs:
            result: RunResult | str
            try:
                result = self._run(line, job, images[job.seed])
                runs.append(result)
            except ConsiliumError as error:
                result = f"failed with seed {job.seed}: {error}"
                reasons.append(result)
            self._done += 1
            self._told(Step(self._done, self._total, line.name, job.seed, result))
        return RowResult(line.name, line.summary, runs, "; ".join(reasons) or None, line.who == "one place")

    def _run(self, line: Line, job: Job, images: int) -> RunResult:
        folder = self._out / RUNS / line.slug / f"seed-{job.seed}"
        if not _finished(folder, job):
            self._train(line, job, folder)
        run = read_run(folder)
        by_hospital = run.hospitals if line.who == "together" else self._judged(job, folder)
        metrics, worst_hospital, judged_on = run_metrics(by_hospital, job.num_classes)
        if judged_on != images:
            raise FederationError(
                f"judged on {judged_on} of {images} test images, so not comparable; left out were: {run.summary['dropped']}"
            )
        sent, seconds = run.summary["communication"], run.summary["seconds"]
        total_bytes = sent["bytes_up"] + sent["bytes_down"]
        return RunResult(
            seed=job.seed,
            metrics=metrics,
            worst_hospital=worst_hospital,
            images=judged_on,
            # The closed-form head that rounds start from takes one more.
            rounds=run.summary["rounds"] + (job.method.iterative and job.method.analytic),
            bytes_per_hospital=total_bytes / len(self._hospitals) if line.who == "together" else None,
            seconds=seconds["total"] - seconds["describe"],
            job_id=job.job_id,
            folder=folder.relative_to(self._out),
        )

    def _train(self, line: Line, job: Job, folder: Path) -> None:
        if folder.exists():
            shutil.rmtree(folder)
        if line.who == "one place":
            # Always the same folder: a hospital keeps its features in memory as long as the process lives.
            hospitals = {
                name: pool(self._hospitals, job, self._out / name, self._machine.cache_dir) for name in line.hospitals
            }
        else:
            hospitals = {name: self._hospitals[name] for name in line.hospitals}
        machine = self._machine
        simulate(
            job,
            hospitals,
            folder,
            weights_dir=machine.weights_dir,
            cache_dir=machine.cache_dir,
            device=machine.device,
        )

    def _judged(self, job: Job, folder: Path) -> dict[str, ClassificationCounts]:
        model, manifest = load_model(folder / MODEL)
        return judge(model, job, self._hospitals, manifest.rounds, self._machine)


def _finished(folder: Path, job: Job) -> bool:
    summary = folder / SUMMARY
    return summary.exists() and json.loads(summary.read_text(encoding="utf-8")).get("job_id") == job.job_id
