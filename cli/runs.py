"""consilium simulate, consilium report."""

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.hospital_choice import HospitalChoice, Hospitals, Include, NumHospitals, PartitionText, Phantoms
from cli.live import live_rounds
from cli.options import CacheDir, Device, WeightsDir
from common.errors import ConfigError
from common.job import load_job


def simulate(
    job: Annotated[Path, typer.Argument(help="The job, a YAML file; see configs/.", metavar="JOB")],
    hospitals: Hospitals = None,
    include: Include = None,
    phantoms: Phantoms = False,
    partition: PartitionText = None,
    num_hospitals: NumHospitals = None,
    engine: Annotated[str, typer.Option(help="in-process, or ray (Flower's simulation runtime).")] = "in-process",
    out: Annotated[
        Path | None, typer.Option(help="Run directory.", show_default="runs/JOB-TIME", metavar="DIR")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out from its last checkpoint.")
    ] = False,
    weights_dir: WeightsDir = None,
    cache_dir: CacheDir = None,
    device: Device = "auto",
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            help="Write the rounds as TensorBoard event files below this folder, as they happen.", metavar="DIR"
        ),
    ] = None,
) -> None:
    """Train JOB (a YAML file; see configs/) with simulated hospitals on this machine, and write a model and a report."""
    parsed = load_job(job)
    if resume and out is None:
        raise ConfigError("--resume needs --out, the run directory to go on with")
    folder = out or Path("runs") / f"{parsed.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    console = Console()

    from server.summary_table import print_summary
    from simulation.run import simulate as run

    choice = HospitalChoice(hospitals, include, phantoms, partition, num_hospitals)
    chosen = choice.hospitals(parsed, folder, cache_dir)
    console.print(
        f"[bold]{parsed.name}[/]: {', '.join(parsed.classes)}; {parsed.backbone.name}, {parsed.method.name}, "
        f"{parsed.method.rounds} rounds, {len(chosen)} hospitals, engine {engine}",
        highlight=False,
    )
    with _events(folder, tensorboard), live_rounds(folder, parsed, console):
        result = run(
            parsed,
            chosen,
            folder,
            engine=engine,
            weights_dir=weights_dir,
            cache_dir=cache_dir,
            device=device,
            resume=resume,
        )
    print_summary(dict(result.summary), console)
    console.print(
        f"\nmodel   {folder / 'model.safetensors'}\nreport  {folder / 'report.html'}\ncard    {folder / 'MODEL_CARD.md'}",
        highlight=False,
    )
    if tensorboard is not None:
        console.print(f"events  tensorboard --logdir {tensorboard}", highlight=False)


def _events(run_dir: Path, folder: Path | None) -> AbstractContextManager[object]:
    if folder is None:
        return nullcontext()
    from server.tensorboard_files import following

    return following(run_dir, folder)


def report(
    run_dir: Annotated[Path, typer.Argument(help="The run directory to report on.", metavar="RUN_DIR")],
) -> None:
    """Write report.html of RUN_DIR, the directory of a finished run, again, and print its table."""
    import json

    from server.report import write_report
    from server.summary_table import print_summary

    written = write_report(run_dir)
    console = Console()
    print_summary(json.loads((run_dir / "summary.json").read_text(encoding="utf-8")), console)
    console.print(f"\nreport  {written}", highlight=False)
