"""Which way of training is best for a job on these hospitals: every way tried, all judged on the same test patients.

from pathlib import Path
from common.config_file import load_yaml
from simulation.compare import compare
from simulation.hospitals import find_hospitals

found = compare(load_yaml(Path("configs/demo.yaml")), find_hospitals([Path("my-hospitals")]), Path("runs/compare"), seeds=3)
print({row.name: row.mean("auroc") for row in found.rows})
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.artifact import load_model
from common.errors import ConfigError, ConsiliumError, FederationError
from common.job import Job, parse_job, require_runnable
from common.metrics import ClassificationCounts
from server.recorder import MODEL, SUMMARY
from server.run_directory import read_run
from simulation.compared_lines import Line, left_out, lines_of
from simulation.compared_rows import (
    DEFAULT_METHODS,
    FRAME,
    SCRATCH_ROUNDS,
    Content,
    as_compared,
    require_rows,
)
from simulation.comparison import Comparison, RowResult, RunResult, run_metrics
from simulation.features_once import make_features, rows_digest
from simulation.pooling import Machine, judge, pool, records_of
from simulation.run import simulate

RUNS, CLAIM = "runs", "comparison-of.json"
DEFAULT_ROWS = (*FRAME, *DEFAULT_METHODS)


@dataclass(frozen=True)
class Step:
    """One training is done: how many of how many, and its result or why there is none."""

    done: int
    total: int
    row: str
    seed: int
    result: RunResult | str


def compare(
    content: Content,
    hospitals: Mapping[str, Path],
    out: Path,
    *,
    rows: Sequence[str] = DEFAULT_ROWS,
    seeds: int = 1,
    scratch_rounds: int = SCRATCH_ROUNDS,
    machine: Machine | None = None,
    told: Callable[[Step], None] = lambda _: None,
) -> Comparison:
    """Train a job in every way of `rows` with these hospitals (name -> folder), and judge every model alike.

    The features of all rows and seeds are made first. A training that is finished in `out` is not done again; one that fails
    is a row without figures.

    Args:
        content: the job as its YAML file says it, so that what it leaves open follows the row.
        hospitals: name -> folder.
        out: the folder of the comparison; each training has its run directory below `out`/runs.
        rows: names of `simulation.compared_rows.ROWS`.
        seeds: how many: the job's, the next whole number, and so on. With each, other patients are held out.
        scratch_rounds: rounds of the row `scratch`.
        machine: where weights and cached features are, and what computes.
        told: called after each training.

    Raises:
        ConfigError: the job, a row or `out` is wrong, or there are too few hospitals.
        DataError: a hospital's manifest, labels or images are wrong.
        WeightsError: a backbone's weights cannot be had.
    """
    require_rows(rows)
    machine = machine or Machine()
    require_runnable(parse_job(content))
    content = as_compared(content)
    job = parse_job(content)
    numbers = [job.seed + index for index in range(seeds)]
    by_seed = {seed: records_of(hospitals, parse_job({**content, "seed": seed})) for seed in numbers}
    out_of_it = left_out(by_seed)
    hospitals = {name: folder.resolve() for name, folder in hospitals.items() if name not in out_of_it}
    by_seed = {seed: {name: found[name] for name in hospitals} for seed, found in by_seed.items()}
    if len(hospitals) < job.quorum.min_hospitals:
        raise ConfigError(
            f"{len(hospitals)} hospitals with training images are given, job '{job.name}' needs "
            f"{job.quorum.min_hospitals} (quorum.min_hospitals); {' '.join(out_of_it.values())}"
        )
    _claim(out, job, hospitals)
    lines, merged = lines_of(content, rows, by_seed, scratch_rounds)
    decoded, extraction_s = make_features([job for line in lines for job in line.jobs], hospitals, machine)
    trainings = _Trainings(hospitals, out, machine, told, sum(len(line.jobs) for line in lines))
    images = {seed: sum(len(one.of("test")) for one in found.values()) for seed, found in by_seed.items()}
    return Comparison(
        job=job.name,
        classes=list(job.classes),
        hospitals=list(hospitals),
        seeds=numbers,
        rows=[trainings.row(line, images) for line in lines],
        notes=[*out_of_it.values(), *merged],
        decoded=decoded,
        extraction_s=extraction_s,
    )


def _claim(out: Path, job: Job, hospitals: Mapping[str, Path]) -> None:
    """Make sure that the runs in `out` are of this job and these images, so that they may be reused or replaced.

    Raises:
        ConfigError: they are not.
    """
    path = out / CLAIM
    wanted = json.dumps({"job": job.job_id, "hospitals": rows_digest(hospitals)})
    if not path.exists() and (out / RUNS).exists():
        raise ConfigError(f"{out} has a folder {RUNS} that is of no comparison; give another --out")
    if path.exists() and path.read_text(encoding="utf-8") != wanted:
        raise ConfigError(f"{out} holds the comparison of another job, or of other images; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(wanted, encoding="utf-8")


class _Trainings:
    """Trains row after row, and counts what is done."""

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
        metrics, worst_hospital, judged_on = run_metrics(by_hospital)
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
            hospitals = {name: pool(self._hospitals, job, self._out / name) for name in line.hospitals}
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
