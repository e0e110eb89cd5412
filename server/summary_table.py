"""The end of a run on a terminal: pooled, each hospital, the worst, and what it cost."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from server.report import COLUMNS, number, size

_SHOWN = ("n", "auroc", "accuracy", "sensitivity", "specificity", "f1")


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the summary of a run (`summary.json`)."""
    metrics = summary["metrics"]
    table = Table(box=None, header_style="dim", title="\ntest patients", title_justify="left", pad_edge=False)
    table.add_column("", no_wrap=True)
    for metric in _SHOWN:
        table.add_column(COLUMNS[metric], justify="right")
    rows = [("pooled", metrics["pooled"]), *metrics["hospitals"].items(), ("worst", metrics["worst"])]
    for index, (name, found) in enumerate(rows):
        cells = [number(found.get(metric)) for metric in _SHOWN]
        table.add_row(escape(name), *cells, style="bold" if index == 0 else "")
    console.print(table)
    interval = metrics["pooled"]["intervals"].get("auroc")
    if interval:
        console.print(f"pooled AUROC 95 % CI {interval[0]:.3f} to {interval[1]:.3f}", highlight=False)
    for name, lacking in summary["missing_classes"].items():
        console.print(f"{name} has no image of: {', '.join(lacking)}", style="yellow", markup=False, highlight=False)
    for name, reason in summary["dropped"].items():
        console.print(f"{name} was left out: {reason}", style="yellow", markup=False, highlight=False)
    sent, images = summary["communication"], summary["images"]
    less = sent["times_less_than_whole_model"]
    console.print(
        f"round {summary['best_round']} of {summary['rounds']} kept; sent {size(sent['bytes_up'])} up, "
        f"{size(sent['bytes_down'])} down" + ("" if less is None else f", {less:,.0f} times less than the whole model"),
        highlight=False,
    )
    console.print(
        f"{images['decoded']} images decoded, {images['cached']} from the cache; {summary['seconds']['total']:.1f} s, "
        f"of which {summary['seconds'].get('fit', 0.0):.1f} s of rounds",
        highlight=False,
    )
