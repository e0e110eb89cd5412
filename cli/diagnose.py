"""consilium diagnose: a trained model on new images."""

import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.images import one_of
from cli.options import BatchNorm, Device, Personal, WeightsDir

if TYPE_CHECKING:
    from client.diagnosis import Diagnosis, Diagnostician

FORMATS = ("table", "json", "csv")
NOT_A_DEVICE = "A research model, not a medical device: a physician decides."


def diagnose(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", metavar="IMAGE...")],
    model: Annotated[Path, typer.Option(help="model.safetensors of a run.", metavar="FILE")],
    refer_below: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With less confidence the answer is 'refer to a radiologist'.")
    ] = 0.8,
    output_format: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    heatmaps: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a PNG of each image that shows what speaks for the class, in the image's own size "
            "(patient data: keep it private).",
            metavar="DIR",
        ),
    ] = None,
    dicom_out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results as DICOM: of each DICOM image a Secondary Capture with the heat map, and a "
            "Structured Report.",
            metavar="DIR",
        ),
    ] = None,
    personal: Personal = None,
    batch_norm: BatchNorm = None,
    weights_dir: WeightsDir = None,
    device: Device = "auto",
) -> None:
    """Diagnose IMAGEs with a trained model. Not a medical device. Exit code 3 if an image could not be read.

    A radiologist is asked where the model is not confident, the image is of bad quality, lies turned, or is unlike
    the images that the model was trained on; the reasons are told. docs/diagnosis.md says how.
    """
    one_of("format", output_format, FORMATS)
    from client.diagnosis import Diagnostician, files_of
    from client.progress import progress

    files = files_of(images)
    diagnostician = Diagnostician(model, weights_dir, device, personal, batch_norm)
    with progress("images diagnosed", len(files)) as advance:
        found = diagnostician.diagnose(files, refer_below, heatmaps=bool(heatmaps or dicom_out), told=advance)
    written = _written(found, diagnostician, model, heatmaps, dicom_out) if heatmaps or dicom_out else []
    if output_format == "json":
        typer.echo(json.dumps([one.to_dict() for one in found], indent=1))
    elif output_format == "csv":
        _print_csv(found, diagnostician.manifest.job.classes)
    else:
        _print_table(found, diagnostician, written)
    if any(one.problem for one in found):
        raise typer.Exit(3)


def _written(
    found: "Sequence[Diagnosis]",
    diagnostician: "Diagnostician",
    model: Path,
    heatmaps: Path | None,
    dicom_out: Path | None,
) -> list[str]:
    """Writes heat maps and DICOM results; says what was written, in sentences."""
    from client.diagnosis_files import write_dicom, write_heatmaps
    from client.slices import reading_of

    told = []
    if heatmaps is not None:
        number = write_heatmaps(found, reading_of(diagnostician.manifest.job), heatmaps)
        told.append(f"{number} heat maps are in {heatmaps}")
    if dicom_out is not None:
        number, passed = write_dicom(found, diagnostician, model, dicom_out)
        other = f"; {passed} images are not DICOM" if passed else ""
        told.append(f"DICOM results of {number} images are in {dicom_out}{other}")
    return told


def _print_csv(found: "Sequence[Diagnosis]", classes: Sequence[str]) -> None:
    header = [
        "image",
        "diagnosis",
        *classes,
        "confidence",
        "distance",
        "distance_limit",
        "turned",
        "reasons",
        "problem",
    ]
    rows = [
        [
            str(one.image),
            one.label,
            *(f"{one.probabilities[name]:.3f}" if one.probabilities else "" for name in classes),
            _number(one.confidence, 3),
            _number(one.distance, 3),
            _number(one.limit, 3),
            "" if one.turned is None else one.turned,
            "; ".join([*one.reasons, *(finding.words for finding in one.findings if not finding.refer)]),
            one.problem or "",
        ]
        for one in found
    ]
    csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])


def _print_table(found: "Sequence[Diagnosis]", diagnostician: "Diagnostician", written: Sequence[str]) -> None:
    classes, manifest = list(diagnostician.manifest.job.classes), diagnostician.manifest
    paths = [one.image.resolve() for one in found]
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    table = Table(box=None, title=f"images in {escape(str(folder))}" if len(found) > 1 else None, title_justify="left")
    table.add_column("image", overflow="fold")
    for heading in ("diagnosis", *classes, "distance"):
        table.add_column(heading, no_wrap=True)
    table.add_column("why")
    for one, path in zip(found, paths, strict=True):
        probabilities = [_number(one.probabilities.get(name), 3) for name in classes]
        remarks = [*one.reasons, *(finding.words for finding in one.findings if not finding.refer)]
        table.add_row(
            escape(os.path.relpath(path, folder)),
            one.label,
            *probabilities,
            _number(one.distance, 2),
            "; ".join(remarks) or one.words or "",
        )
    console = Console()
    console.print(table)
    for one in found:
        if one.problem:
            console.print(f"not diagnosed: {one.problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    point = diagnostician.point
    if point is not None:
        console.print(
            f"operating point: {point.name} is said from probability {point.threshold:.3f} on, which promises sensitivity "
            f"{point.sensitivity:.3f} and specificity {point.specificity:.3f} for patients like those in training",
            style="dim",
            highlight=False,
        )
    for sentence in [*diagnostician.lacking, *written]:
        console.print(sentence, style="dim", markup=False, highlight=False)
    if manifest.job.backbone.weights.random:
        console.print("[bold yellow]The backbone has random weights: a demonstration, never a diagnosis.[/]")
    console.print(NOT_A_DEVICE, style="dim")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
