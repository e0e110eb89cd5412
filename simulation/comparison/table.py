"""A comparison on a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from server.summary_table import Cell
from simulation.comparison.results import COLUMNS, Comparison
from simulation.comparison.text import COSTS, footnotes, table_rows

WIDEST = 110
"""Characters; a console that is no terminal should be made this wide."""

_LONGEST_NAME, _LONGEST_WORST = 26, 23
_SHORT = {"worst hospital": "worst hospital", "bytes per hospital": "sent", "seconds": "s"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table, at most 110 characters wide, and its footnotes."""
    width = min(console.width, WIDEST)
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("trained by", no_wrap=True, overflow="ellipsis", max_width=_LONGEST_NAME)
    for heading in (*COLUMNS.values(), *COSTS.values()):
        longest = _LONGEST_WORST if heading == "worst hospital" else None
        table.add_column(
            _SHORT.get(heading, heading), justify="right", no_wrap=True, overflow="ellipsis", max_width=longest
        )
    for row in table_rows(comparison):
        name = row.name.removesuffix(" (simulation only)")
        italic = "italic" if name != row.name else ""
        if row.reason is None:
            table.add_row(escape(name), *map(_cell, row.metrics), *row.costs, style=italic)
        else:
            table.add_row(escape(name), *["–"] * (len(COLUMNS) + len(COSTS)), style="dim")
    console.print(table, width=width)
    for note in footnotes(comparison):
        console.print(note, markup=False, highlight=False, width=width, style="dim")


def _cell(cell: Cell) -> str:
    """The figure over its spread; a marked one is bold."""
    figure = f"[bold]{cell.text}{cell.mark}[/]" if cell.mark else f"{cell.text} "
    return f"{figure}\n[dim]{escape(cell.detail)} [/]" if cell.detail else figure
