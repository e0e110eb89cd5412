"""consilium check, consilium diagnose: what a hospital runs on its own images."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.options import CacheDir, Device, WeightsDir
from common.errors import ConfigError
from common.job import load_job

if TYPE_CHECKING:
    from client.quality import Closer

CHECK_FORMATS = ("table", "json")
DIAGNOSE_FORMATS = ("table", "json", "csv")


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
    _one_of("format", output_format, CHECK_FORMATS)
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


def diagnose(
    images: Annotated[
        list[Path],
        typer.Argument(help="Images to diagnose: files, or folders that hold a DICOM series.", metavar="IMAGE..."),
    ],
    model: Annotated[Path, typer.Option(help="model.safetensors of a run.", metavar="FILE")],
    refer_below: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Under this probability the answer is 'refer to a radiologist'.")
    ] = 0.8,
    output_format: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    personal: Annotated[
        Path | None,
        typer.Option(help="This hospital's personalised head (personal-*.safetensors in its cache).", metavar="FILE"),
    ] = None,
    batch_norm: Annotated[
        Path | None,
        typer.Option(
            help="This hospital's own batch normalisation (batch-norm-*.safetensors), for jobs that keep it local.",
            metavar="FILE",
        ),
    ] = None,
    weights_dir: WeightsDir = None,
    device: Device = "auto",
) -> None:
    """Diagnose IMAGEs with a trained model. Not a medical device. Exit code 3 if an image could not be read."""
    _one_of("format", output_format, DIAGNOSE_FORMATS)
    from client.diagnosis import Diagnosis, Diagnostician

    diagnostician = Diagnostician(model, weights_dir, device, personal, batch_norm)
    found = diagnostician.diagnose(images, refer_below)
    classes = list(diagnostician.manifest.job.classes)

    def cells(one: Diagnosis) -> list[str]:
        probabilities = [f"{one.probabilities[name]:.3f}" if one.probabilities else "" for name in classes]
        return [str(one.image), one.label, *probabilities, one.problem or ""]

    header = ["image", "diagnosis", *classes, "problem"]
    if output_format == "json":
        rows = [
            {
                "image": str(one.image),
                "diagnosis": one.label,
                "probabilities": one.probabilities,
                "problem": one.problem,
            }
            for one in found
        ]
        typer.echo(json.dumps(rows, indent=1))
    elif output_format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *map(cells, found)])
    else:
        table = Table(box=None)
        table.add_column("image", overflow="fold")
        for heading in header[1:-1]:
            table.add_column(heading, no_wrap=True)
        for one in found:
            table.add_row(*cells(one)[:-1])
        console = Console()
        console.print(table)
        for one in found:
            if one.problem:
                console.print(
                    f"not diagnosed: {one.problem}", style="red", markup=False, highlight=False, soft_wrap=True
                )
        if diagnostician.manifest.job.backbone.weights.random:
            console.print("[bold yellow]The backbone has random weights: a demonstration, never a diagnosis.[/]")
        console.print("A research model, not a medical device: a physician decides.", style="dim")
    if any(one.problem for one in found):
        raise typer.Exit(3)


def _one_of(option: str, word: str, choices: tuple[str, ...]) -> None:
    if word not in choices:
        raise ConfigError(f"--{option}: expected one of {', '.join(choices)}, got '{word}'")
