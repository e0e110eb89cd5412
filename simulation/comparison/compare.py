"""Which way of training is best for a job on these hospitals: every way tried, all judged on the same test patients.

from pathlib import Path
from common.config_file import load_yaml
from simulation.comparison.compare import compare
from simulation.hospitals import find_hospitals

found = compare(load_yaml(Path("configs/demo.yaml")), find_hospitals([Path("my-hospitals")]), Path("runs/compare"), seeds=3)
print({row.name: row.mean("auroc") for row in found.rows})
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common.errors import ConfigError
from common.job import Job, parse_job
from simulation.comparison.lines import left_out, lines_of
from simulation.comparison.results import Comparison
from simulation.comparison.rows import DEFAULT_METHODS, FRAME, SCRATCH_ROUNDS, Content, as_compared, require_rows
from simulation.comparison.trainings import RUNS, Step, Trainings
from simulation.features_once import make_features, rows_digest
from simulation.pooling import Machine, records_of

CLAIM = "comparison-of.json"
DEFAULT_ROWS = (*FRAME, *DEFAULT_METHODS)


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
        rows: names of `simulation.comparison.rows.ROWS`.
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
    _require_plain(parse_job(content))
    content = as_compared(content)
    job = parse_job(content)
    numbers = [job.seed + index for index in range(seeds)]
    by_seed = {seed: records_of(hospitals, parse_job({**content, "seed": seed}), machine.cache_dir) for seed in numbers}
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
    trainings = Trainings(hospitals, out, machine, told, sum(len(line.jobs) for line in lines))
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


def _require_plain(job: Job) -> None:
    if job.privacy.secure_aggregation or job.private:
        raise ConfigError(
            f"job '{job.name}': a comparison trains its rows without protection, so that each can be looked at; leave `privacy` "
            "out of the job, or run it with consilium simulate"
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
