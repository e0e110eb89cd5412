"""consilium export: the model out of Consilium, and what belongs to it."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.options import BatchNorm, Personal, WeightsDir
from common.errors import ConfigError

_FOR_ONNX = ("torch", "onnx", "onnxscript", "onnxruntime")
MODEL = "model.safetensors"


def export(
    source: Annotated[
        Path,
        typer.Argument(help="A run directory, or a model.safetensors.", metavar="MODEL_OR_RUN", show_default=False),
    ],
    onnx: Annotated[
        Path | None, typer.Option(help="Write the model as an ONNX file, with FILE.json beside it.", metavar="FILE")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image that is diagnosed both ways; may be repeated.", metavar="IMAGE")
    ] = None,
    random_images: Annotated[int, typer.Option(min=0, help="Random images that are diagnosed both ways.")] = 16,
    card: Annotated[
        bool, typer.Option("--card", help="Write MODEL_CARD.md and model_card.html into the run again.")
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write TensorBoard event files of the run below this folder.", metavar="DIR")
    ] = None,
    personal: Personal = None,
    batch_norm: BatchNorm = None,
    weights_dir: WeightsDir = None,
) -> None:
    """Export the model of MODEL_OR_RUN as ONNX, its model card, or its rounds for TensorBoard.

    The ONNX file holds backbone, head and softmax, and is only kept if onnxruntime gives the probabilities of `consilium
    diagnose`; docs/export.md says what it must be given.
    """
    if onnx is None and not card and tensorboard is None:
        raise ConfigError("nothing to export: give --onnx FILE, --card or --tensorboard DIR")
    console = Console()
    if onnx is not None:
        model = source / MODEL if source.is_dir() else source
        _write_onnx(model, onnx, image or [], random_images, (weights_dir, personal, batch_norm), console)
    if card:
        from server.model_card import write_card

        for written in write_card(_run_of(source, "--card")):
            console.print(f"model card   {written}", highlight=False, soft_wrap=True)
    if tensorboard is not None:
        from server.tensorboard_files import write_events

        where = write_events(_run_of(source, "--tensorboard"), tensorboard)
        console.print(
            f"events       {where}; see them: tensorboard --logdir {tensorboard}", highlight=False, soft_wrap=True
        )


def _write_onnx(
    model: Path,
    file: Path,
    images: list[Path],
    random_images: int,
    own: tuple[Path | None, Path | None, Path | None],
    console: Console,
) -> None:
    if lacking := [name for name in _FOR_ONNX if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"--onnx needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed here: "
            "pip install 'consilium[hospital,export]'"
        )
    from client.diagnosis import Diagnostician
    from client.onnx_export import export_onnx

    weights_dir, personal, batch_norm = own
    # On the CPU: a GPU diagnoses with automatic mixed precision, which no file can be held to.
    diagnostician = Diagnostician(model, weights_dir, "cpu", personal, batch_norm)
    done = export_onnx(diagnostician, file, images, random_images)
    parity = done.parity
    console.print(
        f"ONNX         {done.file} ({done.file.stat().st_size / 1e6:.1f} MB)\ndescription  {done.description}\n"
        f"largest difference of a probability from the diagnosis: {parity.largest_difference:.1e} over "
        f"{parity.random_images} random and {parity.given_images} given images (at most {parity.tolerance:g})",
        highlight=False,
        soft_wrap=True,
    )
    if diagnostician.manifest.job.backbone.weights.random:
        console.print("[bold yellow]The backbone has random weights: a demonstration, never a diagnosis.[/]")
    console.print("A research model, not a medical device: not for clinical use without approval.", style="dim")


def _run_of(source: Path, option: str) -> Path:
    """The run directory that is meant, by itself or by the model in it."""
    folder = source if source.is_dir() else source.parent
    if not (folder / "job.json").is_file():
        raise ConfigError(
            f"{option} needs the run directory, and {folder} is none (it has no job.json); give that of the run"
        )
    return folder
