"""consilium compare."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.hospital_choice import HospitalChoice, Hospitals, Include, NumHospitals, PartitionText, Phantoms
from cli.options import CacheDir, Device, WeightsDir
from common.config_file import load_yaml, unknown
from common.errors import ConfigError
from common.job import parse_job
from simulation.comparison.rows import DEFAULT_METHODS, FRAME, METHOD_ROWS, ROWS, SCRATCH_ROUNDS, require_rows

if TYPE_CHECKING:
    from simulation.comparison.results import Comparison
    from simulation.comparison.trainings import Step

FORMATS = ("table", "markdown", "csv", "json")
ROWS_TEXT = "\n\n".join(
    [
        "Rows (default: " + ", ".join((*FRAME, *DEFAULT_METHODS)) + "). Those of a method train the head only; "
        "iterative ones take over the job's rounds and local training, or else the method's defaults (20 rounds):",
        *(
            f"{name}: {row.summary}"
            for name, row in ROWS.items()
            if not name.endswith("-warm") or name == "fedavg-warm"
        ),
        "and so NAME-warm for each iterative method.",
    ]
)


def compare(
    job: Annotated[Path, typer.Argument(help="The job, a YAML file; see configs/.", metavar="JOB")],
    hospitals: Hospitals = None,
    include: Include = None,
    phantoms: Phantoms = False,
    partition: PartitionText = None,
    num_hospitals: NumHospitals = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(help="These methods, beside what they are measured against (see below).", metavar="NAME,..."),
    ] = None,
    rows: Annotated[
        list[str] | None, typer.Option(help="Exactly these rows, instead of --methods.", metavar="NAME,...")
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Also the row scratch, which is not there by default: minutes to hours.")
    ] = False,
    scratch_rounds: Annotated[int, typer.Option(min=1, help="Rounds of the row scratch.")] = SCRATCH_ROUNDS,
    seeds: Annotated[
        int, typer.Option(min=1, help="So many: the job's seed, the next, ... With each, other patients are held out.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the comparison; one that was cut off goes on.",
            show_default="runs/compare-JOB-TIME",
            metavar="DIR",
        ),
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table, markdown, csv or json.")] = "table",
    weights_dir: WeightsDir = None,
    cache_dir: CacheDir = None,
    device: Device = "auto",
) -> None:
    """Train JOB in several ways with simulated hospitals, and show in one table which way is best for them.

    Every model is judged on the same test patients of all hospitals together. Also written are compare.csv, compare.json and
    compare.html. A way that fails is a row without figures.
    """
    if output_format not in FORMATS:
        raise ConfigError(unknown("format", output_format, list(FORMATS)))
    names = _names(rows, methods, scratch)
    content = load_yaml(job)
    parsed = parse_job(content, str(job))
    folder = out or Path("runs") / f"compare-{parsed.name}-{time.strftime('%Y%m%d-%H%M%S')}"

    from simulation.comparison.compare import compare as run
    from simulation.comparison.files import write_comparison
    from simulation.pooling import Machine

    choice = HospitalChoice(hospitals, include, phantoms, partition, num_hospitals)
    found = run(
        content,
        choice.hospitals(parsed, folder, cache_dir),
        folder,
        rows=names,
        seeds=seeds,
        scratch_rounds=scratch_rounds,
        machine=Machine(weights_dir, cache_dir, device),
        told=lambda step: _tell(step, Console(stderr=True)),
    )
    write_comparison(found, folder)
    _show(found, output_format)
    Console(stderr=True).print(f"\ntable   {folder / 'compare.html'}", highlight=False, soft_wrap=True)


def _names(rows: list[str] | None, methods: list[str] | None, scratch: bool) -> list[str]:
    """Names of rows, given one by one or with commas.

    Raises:
        ConfigError: an unknown one, or both options.
    """
    if rows and methods:
        raise ConfigError("give --rows (exactly these) or --methods (beside what they are measured against), not both")
    chosen = [name.strip() for words in rows or methods or DEFAULT_METHODS for name in words.split(",") if name.strip()]
    require_rows(chosen, METHOD_ROWS if methods else tuple(ROWS))
    names = [*([] if rows else FRAME), *chosen]
    return [*names, "scratch"] if scratch and "scratch" not in names else names


def _tell(step: "Step", console: Console) -> None:
    """A bar of what is done and the last result: a line each, so that it reads the same in a file."""
    width = 20
    filled = width * step.done // step.total
    if isinstance(step.result, str):
        said = step.result.splitlines()[0]
    else:
        auroc = step.result.metrics["auroc"]
        said = f"AUROC {'–' if auroc is None else f'{auroc:.3f}'}, {step.result.seconds:.1f} s"
    bar = f"{'━' * filled}{'─' * (width - filled)} {step.done:>3}/{step.total}"
    console.print(f"{bar}  {step.row}, seed {step.seed}: {said}", markup=False, highlight=False, soft_wrap=True)


def _show(found: "Comparison", output_format: str) -> None:
    from simulation.comparison.table import WIDEST, print_comparison
    from simulation.comparison.text import to_csv, to_markdown, to_plain

    if output_format == "table":
        print_comparison(found, Console() if sys.stdout.isatty() else Console(width=WIDEST))
    elif output_format == "json":
        typer.echo(json.dumps(to_plain(found), indent=1))
    else:
        typer.echo(to_markdown(found) if output_format == "markdown" else to_csv(found), nl=False)
