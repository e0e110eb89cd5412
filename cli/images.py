"""consilium check: what a hospital runs on its own images before it trains."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import ConfigError
from common.job import load_job

CHECK_FORMATS = ("table", "json")


def check(
    folders: Annotated[
        list[Path], typer.Argument(help="Hospitals' folders, or one with a folder per hospital.", metavar="DIR...")
    ],
    job: Annotated[
        Path | None, typer.Option(help="Also check labels and classes against this job.", metavar="JOB")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Look through the images of hospitals: counts, sizes, unreadable files, duplicates, labels. Exit code 1 on errors.

    DIR is a hospital's folder, or one with a folder per hospital.
    """
    one_of("format", output_format, CHECK_FORMATS)
    from client.check import check_hospitals
    from client.check_table import print_check
    from client.progress import progress
    from simulation.hospitals import find_hospitals

    parsed = load_job(job) if job else None
    hospitals = find_hospitals(folders)
    result = check_hospitals(hospitals, parsed, progress)
    if output_format == "json":
        typer.echo(json.dumps(result.to_dict(), indent=1))
    else:
        print_check(result, Console())
    if result.errors:
        raise typer.Exit(1)


def one_of(option: str, word: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError where an option has none of its choices."""
    if word not in choices:
        raise ConfigError(f"--{option}: expected one of {', '.join(choices)}, got '{word}'")
