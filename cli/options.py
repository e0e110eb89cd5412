"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

WeightsDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the weights files that jobs name.", metavar="DIR", envvar="CONSILIUM_WEIGHTS_DIR"),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for cached features (patient data: keep it private).",
        metavar="DIR",
        envvar="CONSILIUM_CACHE_DIR",
        show_default="~/.cache/consilium",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Personal = Annotated[
    Path | None,
    typer.Option(help="This hospital's personalised head (personal-*.safetensors in its cache).", metavar="FILE"),
]
BatchNorm = Annotated[
    Path | None,
    typer.Option(
        help="This hospital's own batch normalisation (batch-norm-*.safetensors), for jobs that keep it local.",
        metavar="FILE",
    ),
]
