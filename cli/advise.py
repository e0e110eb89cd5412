"""consilium advise: which backbone, tuning, features and method, and why."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.options import CacheDir, Device, WeightsDir
from common.errors import ConfigError

FORMATS = ("table", "json")


def advise(
    job: Annotated[Path, typer.Argument(help="The job to begin with, a YAML file; see configs/.", metavar="JOB")],
    hospitals: Annotated[
        list[Path],
        typer.Option(
            help="A hospital's folder, or one with a folder per hospital. May be given several times.", metavar="DIR"
        ),
    ],
    include: Annotated[
        list[str] | None, typer.Option(help="Take only this hospital. May be given several times.", metavar="NAME")
    ] = None,
    inventory: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of the hospitals' machines (device, gpu_memory_gb, cores, ram_gb, disk_free_gb, images_per_s, "
            "network_mbit_per_s), instead of this one.",
            metavar="FILE",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Also try the backbones whose weights are at hand, on training and validation patients."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write the recommended job to this file, a new one.", metavar="FILE")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
    weights_dir: WeightsDir = None,
    cache_dir: CacheDir = None,
    device: Device = "auto",
) -> None:
    """Recommend backbone, tuning, features and method for JOB and these hospitals, each with its reason and source.

    It ends with the job file: JOB as written, with some keys changed. Test patients are counted, never judged on.
    """
    if output_format not in FORMATS:
        raise ConfigError(f"--format: expected one of {', '.join(FORMATS)}, got '{output_format}'")
    if out is not None and out.exists():
        raise ConfigError(f"--out: {out} is there already; name a new file")
    from cli.advice_table import print_advice, print_title
    from simulation.advice.advise import advice_for
    from simulation.hospitals import find_hospitals

    advice = advice_for(
        job,
        find_hospitals(hospitals, include or []),
        inventory=inventory,
        measured=measure,
        weights_dir=weights_dir,
        cache_dir=cache_dir,
        device=device,
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(advice.recommended.text, encoding="utf-8")
    if output_format == "json":
        typer.echo(json.dumps(advice.to_dict(), indent=1))
        return
    console = Console()
    print_advice(advice, console)
    print_title(advice.recommended, console)
    typer.echo(advice.recommended.text, nl=False)
