"""A comparison as cells for people, as Markdown, as CSV and as plain JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.numbers import number, size
from server.summary_table import Cell
from simulation.comparison.results import COLUMNS, WORST, Comparison, RowResult, best

COSTS: Mapping[str, str] = {"rounds": "rounds", "bytes_per_hospital": "bytes per hospital", "seconds": "seconds"}
MARK = "*"


@dataclass(frozen=True)
class TableRow:
    """A row for people: `metrics` in the order of `COLUMNS`, `costs` in that of `COSTS`."""

    name: str
    summary: str
    reason: str | None
    metrics: Sequence[Cell]
    costs: Sequence[str]


def table_rows(comparison: Comparison) -> list[TableRow]:
    """The rows of the table; the detail of a cell is the spread and, for the worst hospital, its name."""
    marked = {metric: best(comparison.rows, metric) for metric in COLUMNS}
    return [
        TableRow(
            name=row.name + (" (simulation only)" if row.simulation_only else ""),
            summary=row.summary,
            reason=row.reason,
            metrics=[_cell(row, metric, marked[metric]) for metric in COLUMNS],
            costs=_costs(row),
        )
        for row in comparison.rows
    ]


def _cell(row: RowResult, metric: str, marked: str | None) -> Cell:
    spread = row.spread(metric)
    details = ["" if spread is None else f"± {spread:.3f}"]
    if metric == WORST and row.reason is None:
        details.append(row.worst_hospital or "")
    detail = " ".join(one for one in details if one)
    return Cell(number(row.mean(metric)), detail, MARK if row.name == marked else "")


def _costs(row: RowResult) -> list[str]:
    rounds, sent, seconds = (row.cost[one] for one in COSTS)
    return [
        "–" if rounds is None else f"{rounds:g}" if rounds == round(rounds) else f"{rounds:.1f}",
        "–" if sent is None else size(sent),
        "–" if seconds is None else f"{seconds:.1f}",
    ]


def footnotes(comparison: Comparison) -> list[str]:
    """What a reader of the table must know, one sentence or two each."""
    seeds, found = comparison.seeds, []
    images = comparison.images
    if images:
        many = f"{min(images):,} to {max(images):,}" if min(images) < max(images) else f"{images[0]:,}"
        judged = f"All rows are judged on the same {many} test images of all hospitals together"
        more = f"; the mean (± standard deviation) of {len(seeds)} seeds, each with other test patients."
        found.append(judged + (more if len(seeds) > 1 else f" (seed {seeds[0]})."))
    if len(seeds) > 1:
        found.append(
            f"{MARK} marks the best of a column only where its lead over the next row, seed by seed, has a mean above its "
            "standard deviation. Rows for simulations only are not marked."
        )
    else:
        found.append("One seed shows no spread, so no row is marked as best; --seeds 5 does.")
    found.append(
        "Worst hospital: the lowest AUROC of a hospital; the name is the one most often lowest. Bytes per hospital: sent and "
        "received in the whole run. Seconds: without making the features, which was done once before: "
        f"{comparison.decoded:,} images decoded, {comparison.extraction_s:.1f} s."
    )
    found += [f"{row.name}: {row.reason}." for row in comparison.rows if row.reason]
    return [*found, *comparison.notes]


def to_markdown(comparison: Comparison) -> str:
    """The table and its footnotes as Markdown."""
    headings = ["trained by", *COLUMNS.values(), *COSTS.values()]
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    for row in table_rows(comparison):
        metrics = [_markdown_cell(cell) for cell in row.metrics]
        lines.append(f"| {' | '.join([row.name, *metrics, *row.costs])} |")
    notes = [f"- {note}".replace(MARK, rf"\{MARK}") for note in footnotes(comparison)]
    return "\n".join([*lines, "", *notes]) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = f"{cell.text} {cell.detail}".rstrip()
    return rf"**{text}**\*" if cell.mark else text


def to_csv(comparison: Comparison) -> str:
    """One line per row and seed, then its mean and its spread; undefined cells are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "seed", *COLUMNS, "worst_hospital", *COSTS, "images", "best_in", "reason"])
    for row in comparison.rows:
        for run in row.runs:
            costs = [run.rounds, run.bytes_per_hospital, run.seconds]
            figures = [run.metrics[metric] for metric in COLUMNS]
            writer.writerow([row.name, run.seed, *figures, run.worst_hospital, *costs, run.images, "", ""])
        means = [row.mean(metric) for metric in COLUMNS]
        marked = " ".join(metric for metric in COLUMNS if best(comparison.rows, metric) == row.name)
        writer.writerow([row.name, "mean", *means, row.worst_hospital, *row.cost.values(), "", marked, row.reason])
        writer.writerow([row.name, "spread", *(row.spread(metric) for metric in COLUMNS)] + [""] * (len(COSTS) + 4))
    return text.getvalue()


def to_plain(comparison: Comparison) -> dict[str, Any]:
    """Everything as plain JSON values; undefined figures are null."""
    return {
        "job": comparison.job,
        "classes": list(comparison.classes),
        "hospitals": list(comparison.hospitals),
        "seeds": list(comparison.seeds),
        "test_images": list(comparison.images),
        "features": {"decoded": comparison.decoded, "seconds": round(comparison.extraction_s, 3)},
        "rows": [_plain_row(row, comparison.rows) for row in comparison.rows],
        "footnotes": footnotes(comparison),
    }


def _plain_row(row: RowResult, rows: Sequence[RowResult]) -> dict[str, Any]:
    return {
        "row": row.name,
        "summary": row.summary,
        "simulation_only": row.simulation_only,
        "reason": row.reason,
        "mean": {metric: row.mean(metric) for metric in COLUMNS},
        "spread": {metric: row.spread(metric) for metric in COLUMNS},
        "worst_hospital": row.worst_hospital,
        **row.cost,
        "best_in": [metric for metric in COLUMNS if best(rows, metric) == row.name],
        "runs": [
            {
                "seed": run.seed,
                **run.metrics,
                "worst_hospital": run.worst_hospital,
                "images": run.images,
                "rounds": run.rounds,
                "bytes_per_hospital": run.bytes_per_hospital,
                "seconds": run.seconds,
                "job_id": run.job_id,
                "folder": run.folder.as_posix(),
            }
            for run in row.runs
        ],
    }
