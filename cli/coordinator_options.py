"""Options of `consilium coordinator` that several of its commands share."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[
    Path,
    typer.Option(help="The federation's folder on this machine.", metavar="DIR", envvar="CONSILIUM_FEDERATION"),
]
HERE = Path("federation")
RunName = Annotated[str, typer.Argument(help="A run: its folder's name, its path, or Flower's id.", metavar="RUN")]
