"""The figures of a finished run row by row, for the report, and its table on a terminal."""

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.metrics import ClassificationCounts
from common.ranking import ranking
from server.afterwards_table import personal_rows
from server.failures import in_words
from server.numbers import number, size

_SHOWN = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "n": "images",
}
_WIDEST = 100
_LONGEST_NAME = 34


@dataclass(frozen=True)
class Cell:
    """A figure, what is known about it (interval, hospital), and the letter of the footnote that says why it is missing."""

    text: str
    detail: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table of metrics; `kind` is pooled, hospital or worst."""

    name: str
    kind: str
    cells: Sequence[Cell]


def metric_rows(
    metrics: Mapping[str, Any], reasons: Mapping[str, str], columns: Sequence[str]
) -> tuple[list[Row], dict[str, str]]:
    """Pooled, each hospital, worst: the rows for some metrics of `summary["metrics"]`, and the footnotes by letter.

    `reasons` says by hospital ("" is all of them) why a metric is undefined there.
    """
    marks: dict[str, str] = {}

    def undefined(reason: str) -> Cell:
        letter = marks.setdefault(reason, string.ascii_lowercase[len(marks)] if len(marks) < 26 else str(len(marks)))
        return Cell("–", mark=letter)

    def measured(found: Mapping[str, Any], reason: str) -> list[Cell]:
        bounds = {metric: interval(found["intervals"].get(metric)) for metric in columns}
        return [
            undefined(reason) if found[metric] is None else Cell(number(found[metric]), bounds[metric])
            for metric in columns
        ]

    rows = [Row("pooled", "pooled", measured(metrics["pooled"], reasons[""]))]
    rows += [Row(name, "hospital", measured(found, reasons[name])) for name, found in metrics["hospitals"].items()]
    if not metrics["hospitals"]:
        return rows, {letter: reason for reason, letter in marks.items()}
    lowest, where = metrics["worst"], metrics["worst_hospital"]
    cells = [
        undefined("defined at no hospital")
        if lowest.get(metric) is None
        else Cell(number(lowest[metric]), "fewest" if metric == "n" else where[metric])
        for metric in columns
    ]
    return [*rows, Row("worst", "worst", cells)], {letter: reason for reason, letter in marks.items()}


def why_undefined(counts: ClassificationCounts, classes: Sequence[str]) -> str:
    """The reason why some counts leave a metric undefined."""
    present = [name for name, images in zip(classes, counts.support, strict=True) if images]
    return f"every test image is of class {present[0]}" if len(present) == 1 else "no test image"


def auroc_error(pooled: ClassificationCounts) -> str | None:
    """The largest possible error of the pooled AUROC, rounded up; that of a mean over classes is the mean of theirs."""
    rows = pooled.histograms[1:] if pooled.classes == 2 else pooled.histograms
    found = [one.auroc_error for one in map(ranking, rows) if one is not None]
    return f"{math.ceil(sum(found) / len(found) * 1e4) / 1e4:.4f}" if found else None


def confusion_rows(pooled: ClassificationCounts) -> list[list[tuple[int, float | None]]]:
    """Images by true (row) and predicted class, with the share of the row; None in a row without images."""
    return [
        [(int(one), one / total if total else None) for one in row]
        for row, total in zip(pooled.confusion, pooled.support, strict=True)
    ]


def sent_rows(summary: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What was sent, in words and as amounts."""
    sent = summary["communication"]
    asked = sum(len(one["answered"]) + len(one["dropped"]) for one in rounds)
    each = [size(sum(one[way] for one in rounds) / asked) if asked else "–" for way in ("bytes_up", "bytes_down")]
    less = sent["times_less_than_whole_model"]
    return [
        ("hospitals to coordinator, in all", size(sent["bytes_up"])),
        ("coordinator to hospitals, in all", size(sent["bytes_down"])),
        ("per hospital and round, to / from the coordinator", f"{each[0]} / {each[1]}"),
        ("the head itself", size(sent["head_bytes"])),
        ("exchanging the whole model in every round instead", size(sent["whole_model_bytes"])),
        ("times less than that", "–" if less is None else f"{less:,.0f}"),
    ]


def protection(summary: Mapping[str, Any]) -> list[str]:
    """What protected hospitals and patients in this run, a sentence each; nothing if nothing did."""
    privacy, lines = summary["job"]["privacy"], []
    if privacy["secure_aggregation"]:
        lines.append(
            f"secure aggregation: the coordinator saw sums over hospitals only, so there are no figures by hospital; "
            f"{len(summary['taking_part'])} hospitals took part"
        )
    if (budget := privacy["differential_privacy"]) is not None and budget.get("unit") == "hospital":
        lines += _hospitals_protected(summary["privacy"])
    elif budget is not None:
        own = ", all of the noise from each hospital" if budget["noise"] == "own" else ""
        lines.append(
            f"differential privacy for each patient in training: epsilon {budget['epsilon']:g}, delta {budget['delta']:g}{own}; "
            f"about {summary['patients']:,} patients, by a noised count. The test counts have no noise"
        )
    return lines


def _hospitals_protected(found: Mapping[str, Any]) -> list[str]:
    """Of noise by the coordinator: what it protects, and whether hospitals were enough for it."""
    lines = [
        f"differential privacy for each hospital as a whole: epsilon {found['spent']:.3g} of {found['epsilon']:g}, delta "
        f"{found['delta']:g}, in the model only and against all but the coordinator, which saw every update; what is in this "
        "directory besides the model has no noise"
    ]
    if found["signal"] < found["useful_signal"]:
        lines.append(
            f"hospitals were too few for this epsilon: together they can move the model {found['signal']:.2g} times as far as "
            f"its noise is long, expected {found['useful_signal']:g} or more"
        )
    return lines


def interval(bounds: Sequence[float] | None) -> str:
    """A 95 % interval, nothing where there is none."""
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else ""


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the summary of a run (`summary.json`), at most 100 characters wide."""
    width = min(console.width, _WIDEST)
    metrics = summary["metrics"]
    table = Table(box=None, header_style="dim", title="\ntest patients", title_justify="left", pad_edge=False)
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=_LONGEST_NAME)
    for heading in _SHOWN.values():
        table.add_column(heading, justify="right", no_wrap=True)
    worst = [("worst", metrics["worst"])] if metrics["hospitals"] else []
    named = [("pooled", metrics["pooled"]), *metrics["hospitals"].items(), *worst]
    for index, (name, found) in enumerate(named):
        cells = [number(found.get(metric)) for metric in _SHOWN]
        table.add_row(escape(printable(name)), *cells, style="bold" if index == 0 else "")
    console.print(table, width=width)

    def say(text: str, style: str = "") -> None:
        console.print(printable(text), style=style, markup=False, highlight=False, width=width)

    if bounds := metrics["pooled"]["intervals"].get("auroc"):
        say(f"pooled AUROC 95 % CI {interval(bounds)}")
    for line in protection(summary):
        say(line)
    if chosen := summary["closed_form"]:
        say(
            f"closed form: {chosen['stages']}, ridge {chosen['ridge']:g}, class weights {chosen['class_weights']}, temperature "
            f"{chosen['temperature']:.2f}, of {chosen['candidates']} candidates"
        )
    if personal := personal_rows(summary["personalisation"]):
        for row in personal.rows:
            say(f"best for the patients of {row.name}, by its validation patients: {row.best or 'undefined'}")
    for name, lacking in summary["missing_classes"].items():
        say(f"{name} has no image of: {', '.join(lacking)}", "yellow")
    for one in summary["failures"]:
        say(f"{one['hospital']} {in_words(one)}", "yellow")
    sent, seconds = summary["communication"], summary["seconds"]
    less = sent["times_less_than_whole_model"]
    say(
        f"round {summary['best_round']} of {summary['rounds']} kept; sent {size(sent['bytes_up'])} up, "
        f"{size(sent['bytes_down'])} down" + ("" if less is None else f", {less:,.0f} times less than the whole model")
    )
    images = summary["images"]
    decoded = f"{images['decoded']} images decoded, {images['cached']} from the cache; " if summary["hospitals"] else ""
    say(
        f"{decoded}{seconds['total']:.1f} s, of which {seconds.get('fit', 0.0) + seconds.get('statistics', 0.0):.1f} s of rounds"
    )


def printable(text: str) -> str:
    """A hospital names itself: nothing in a name may steer the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
