"""consilium simulate, consilium report."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.live import live_rounds
from cli.options import CacheDir, Device, WeightsDir
from common.errors import ConfigError
from common.job import Job, load_job


def simulate(
    job: Annotated[Path, typer.Argument(help="The job, a YAML file; see configs/.", metavar="JOB")],
    hospitals: Annotated[
        list[Path] | None,
        typer.Option(
            help="A hospital's folder, or one with a folder per hospital. May be given several times.", metavar="DIR"
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Take only this hospital. May be given several times.", metavar="NAME")
    ] = None,
    phantoms: Annotated[
        bool,
        typer.Option(
            "--phantoms", help="Use synthetic X-rays instead of --hospitals (4 hospitals, or --num-hospitals)."
        ),
    ] = False,
    partition: Annotated[
        str | None,
        typer.Option(
            help="Split the one folder given by --hospitals: dirichlet:hospitals=5,alpha=0.5, "
            "size:hospitals=5,exponent=1.2, or column:NAME of its manifest.",
        ),
    ] = None,
    num_hospitals: Annotated[
        int | None, typer.Option(min=1, help="How many hospitals take part: the first so many by name.")
    ] = None,
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
) -> None:
    """Train JOB (a YAML file; see configs/) with simulated hospitals on this machine, and write a model and a report."""
    parsed = load_job(job)
    if resume and out is None:
        raise ConfigError("--resume needs --out, the run directory to go on with")
    folder = out or Path("runs") / f"{parsed.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    console = Console()

    from server.summary_table import print_summary
    from simulation.run import simulate as run

    chosen = _hospitals(parsed, hospitals or [], include or [], phantoms, partition, num_hospitals, folder, cache_dir)
    console.print(
        f"[bold]{parsed.name}[/]: {', '.join(parsed.classes)}; {parsed.backbone.name}, {parsed.method.name}, "
        f"{parsed.method.rounds} rounds, {len(chosen)} hospitals, engine {engine}",
        highlight=False,
    )
    with live_rounds(folder, parsed, console):
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
    console.print(f"\nmodel   {folder / 'model.safetensors'}\nreport  {folder / 'report.html'}", highlight=False)


def _hospitals(
    job: Job,
    folders: list[Path],
    include: list[str],
    phantoms: bool,
    partition: str | None,
    number: int | None,
    out: Path,
    cache_dir: Path | None,
) -> Mapping[str, Path]:
    from client.feature_cache import default_cache_dir
    from client.phantom import make_phantoms
    from simulation.hospitals import find_hospitals, first_hospitals
    from simulation.partition import apply_partition, parse_partition

    if phantoms == bool(folders):
        raise ConfigError("give either --hospitals DIR or --phantoms, not both and not neither")
    if phantoms:
        count = number or 4
        where = (cache_dir or default_cache_dir()) / f"phantoms-{count}-seed-{job.seed}"
        return make_phantoms(where, hospitals=count, seed=job.seed, classes=job.classes)
    if partition is not None:
        if len(folders) != 1 or include:
            raise ConfigError("--partition splits the one folder given by --hospitals; --include does not go with it")
        made = apply_partition(folders[0], parse_partition(partition), out / "hospitals", job.seed)
        return first_hospitals(made, number)
    return first_hospitals(find_hospitals(folders, include), number)


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
