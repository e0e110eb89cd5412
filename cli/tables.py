"""consilium backbones, consilium methods: what a job may name."""

from rich.console import Console
from rich.table import Table

from common.backbones import BACKBONES
from common.methods import LOCAL_TRAINING, METHODS
from common.privacy import HOSPITAL_METHODS, LOCAL_METHODS, PRIVATE_METHODS


def backbones() -> None:
    """The backbones a job may name: width of their features, input size, size of a head update and of the whole model."""
    table = Table(box=None, header_style="bold")
    for heading in ("name", "features", "input", "head, 2 classes", "whole model", "source"):
        left = heading in ("name", "source")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading == "name")
    for name, row in BACKBONES.items():
        head_kb = (2 * row.features + 2) * 4 / 1000
        table.add_row(
            name, str(row.features), f"{row.size_px} px", f"{head_kb:.0f} kB", f"{row.megabytes:.0f} MB", row.source
        )
    Console().print(table)


def methods() -> None:
    """The training methods a job may name, with their options and defaults."""
    table = Table(box=None, header_style="bold")
    for heading in ("name", "what it does", "own options", "source"):
        table.add_column(heading, no_wrap=heading == "name")
    for name, row in METHODS.items():
        options = ", ".join(f"{key}: {value}" for key, value in row.options.items())
        table.add_row(name, row.summary, options, row.source)
    console = Console()
    console.print(table)
    shared = ", ".join(f"{key}: {'none' if value is None else value}" for key, value in LOCAL_TRAINING.items())
    console.print(f"\nevery method but analytic also takes: {shared}", highlight=False)
    console.print(
        "\nwith privacy.differential_privacy: "
        f"{', '.join(PRIVATE_METHODS)} (noise in shares, or own); {', '.join(LOCAL_METHODS)} (noise: own, in local training); "
        f"{', '.join(HOSPITAL_METHODS)} (unit: hospital, noise by the coordinator)",
        highlight=False,
    )
