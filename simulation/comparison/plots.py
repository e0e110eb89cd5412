"""The figures of a comparison: AUROC of each row, and AUROC against what it costs."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from server.numbers import size
from server.plots import COLOURS, SOFT, draw_svg
from simulation.comparison.results import Comparison, RowResult

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LONGEST_LABEL = 34
_COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "bytes_per_hospital": ("sent and received by a hospital in the whole run", size),
    "seconds": ("time without making the features", lambda seconds: f"{seconds:g} s"),
}


def auroc_by_row(comparison: Comparison) -> str | None:
    """Mean AUROC of each row with its spread, in the order of the table; None if no row has one."""
    rows = _defined(comparison)
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for height, row in enumerate(reversed(rows)):
            colour = SOFT if row.simulation_only else COLOURS[0]
            axes.errorbar(
                _auroc(row), height, xerr=row.spread("auroc"), fmt="o", color=colour, capsize=3, linewidth=1.4
            )
        axes.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)])
        axes.set(xlabel="AUROC of the test patients", ylim=(-0.6, len(rows) - 0.4))
        axes.set_title("AUROC, mean and standard deviation over the seeds", loc="left", fontsize=10.5)

    meaning = "Mean AUROC and its standard deviation, row by row"
    return draw_svg("compared-auroc", meaning, draw, height=1.2 + 0.27 * len(rows), width=7.2)


def auroc_by_cost(comparison: Comparison, cost: str) -> str | None:
    """Mean AUROC against bytes_per_hospital or seconds on a logarithmic axis; None if no row has both."""
    # Numbered before rows without the cost are left out: a row looks the same in both figures.
    rows = [(index, row) for index, row in enumerate(_defined(comparison)) if row.cost[cost]]
    if not rows:
        return None
    meaning, shown = _COSTS[cost]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, row in rows:
            axes.errorbar(
                row.cost[cost] or 0.0,
                _auroc(row),
                yerr=row.spread("auroc"),
                fmt=_MARKERS[index // len(COLOURS) % len(_MARKERS)],
                color=COLOURS[index % len(COLOURS)],
                capsize=2,
                linewidth=1,
                markersize=6,
                label=_label(row),
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_major_formatter(lambda value, _: shown(value))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=meaning, ylabel="AUROC")
        figure.legend(loc="outside lower left", ncols=2, labelspacing=0.35, handlelength=1.2)

    return draw_svg(f"compared-{cost}", f"AUROC against {meaning}", draw, height=3.2 + 0.1 * len(rows))


def _defined(comparison: Comparison) -> Sequence[RowResult]:
    return [row for row in comparison.rows if row.mean("auroc") is not None]


def _auroc(row: RowResult) -> float:
    return row.mean("auroc") or 0.0


def _label(row: RowResult) -> str:
    """A name to fit the figure; matplotlib would hide one that starts with an underscore."""
    name = f" {row.name}" if row.name.startswith("_") else row.name
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"
