"""consilium check: what a hospital runs on its own images before it trains."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.options import CacheDir, Device, WeightsDir
from common.errors import ConfigError
from common.job import load_job

if TYPE_CHECKING:
    from client.quality import Closer

CHECK_FORMATS = ("table", "json")


def check(
    folders: Annotated[
        list[Path], typer.Argument(help="Hospitals' folders, or one with a folder per hospital.", metavar="DIR...")
    ],
    job: Annotated[
        Path | None, typer.Option(help="Also check labels and classes against this job.", metavar="JOB")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page with pictures, for the hospital's own people; of several hospitals one each, FILE-NAME.html.",
            metavar="FILE",
        ),
    ] = None,
    backbone: Annotated[
        bool | None,
        typer.Option(
            "--backbone/--no-backbone",
            help="Also look through the job's backbone: labels in doubt, images turned or inverted, drift. Minutes at first.",
            show_default="with --html and --job",
        ),
    ] = None,
    weights_dir: WeightsDir = None,
    cache_dir: CacheDir = None,
    device: Device = "auto",
) -> None:
    """Look through the images of hospitals: counts, sizes, unreadable files, duplicates, labels. Exit code 1 on errors.

    DIR is a hospital's folder, or one with a folder per hospital. With --html everything is on one page with pictures. What a
    file looked like is remembered in the cache folder, so a check that was interrupted, or is made again, reads only files that
    are new.
    """
    one_of("format", output_format, CHECK_FORMATS)
    from client.check import check_hospitals
    from client.check_table import print_check
    from client.feature_cache import default_cache_dir
    from client.progress import progress
    from simulation.hospitals import find_hospitals

    if backbone and job is None:
        raise ConfigError("--backbone: needs --job, which names the backbone")
    parsed = load_job(job) if job else None
    hospitals = find_hospitals(folders)
    result = check_hospitals(hospitals, parsed, progress, cache_dir or default_cache_dir())
    closer: dict[str, Closer] = {}
    if parsed is not None and (backbone if backbone is not None else html is not None):
        from client.quality import look_closer
        from simulation.pooling import Machine

        machine = Machine(weights_dir, cache_dir, device)
        closer = look_closer({name: machine.hospital_file(name, folder) for name, folder in hospitals.items()}, parsed)
    if output_format == "json":
        found = {name: one.to_dict(hospitals[name]) for name, one in closer.items()}
        typer.echo(json.dumps({**result.to_dict(), "through_the_backbone": found}, indent=1))
    else:
        print_check(result, Console(), closer, hospitals)
    if html is not None:
        from client.check_page import page_paths, write_page
        from client.quality import NOTHING_SEEN

        for name, path in page_paths(html, list(hospitals)).items():
            write_page(path, name, hospitals[name], result, closer.get(name, NOTHING_SEEN), parsed)
            typer.echo(f"page    {path}", err=output_format == "json")
    if result.errors:
        raise typer.Exit(1)


def one_of(option: str, word: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError where an option has none of its choices."""
    if word not in choices:
        raise ConfigError(f"--{option}: expected one of {', '.join(choices)}, got '{word}'")
