"""The report of a run as one HTML file: self-contained, opens offline, made from the files of the run directory alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from common.artifact import write_atomically
from common.errors import ArtifactError
from common.metrics import ClassificationCounts
from common.ranking import ranking
from common.wire import PARTS
from server.plots import confusion_matrix, learning_curves, ranking_curves, reliability_diagram
from server.report_page import PAGE

REPORT = "report.html"
COLUMNS = {
    "n": "images",
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "average_precision": "AP",
    "ece": "ECE",
    "brier": "Brier",
}
"""The metrics of the table per hospital, and their headings."""
_CARDS = ("auroc", "accuracy", "sensitivity", "specificity", "f1")


def write_report(folder: Path) -> Path:
    """Write report.html of a run directory.

    Raises:
        ArtifactError: the folder is no run directory, or a file of it is damaged.
    """
    summary, counts = _read_json(folder / "summary.json"), _read_json(folder / "counts.json")
    try:
        rounds = [json.loads(line) for line in _read(folder / "rounds.jsonl").splitlines()]
        page = _render(summary, counts, rounds)
    except (KeyError, IndexError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise ArtifactError(
            f"{folder}: summary.json, counts.json and rounds.jsonl do not fit together or are damaged "
            f"({type(error).__name__}: {error}); run the job again"
        ) from error
    write_atomically(folder / REPORT, page)
    return folder / REPORT


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"cannot read {path} ({error}); expected the directory of a finished run, as `consilium simulate` makes it"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: expected JSON, {error}; run the job again") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is damaged: expected a mapping, got {type(content).__name__}; run the job again")
    return content


def _render(summary: Mapping[str, Any], counts: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str:
    pooled = _counts(counts["pooled"])
    hospitals = {name: _counts(one) for name, one in counts["hospitals"].items()}
    classes = summary["classes"]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(PAGE).render(
        summary=summary,
        two=len(classes) == 2,
        error=_auroc_error(pooled),
        cards=_cards(summary["metrics"]["pooled"]),
        columns=list(COLUMNS.values()),
        rows=_rows(summary["metrics"]),
        parts=PARTS,
        sent=_sent(summary),
        rounds=[_round(one) for one in rounds],
        lost=any(one["lost"] for one in rounds),
        learning=learning_curves(rounds, summary["best_round"]),
        ranking=ranking_curves(pooled, hospitals, classes),
        calibration=reliability_diagram(pooled),
        confusion=confusion_matrix(pooled, classes),
        job_yaml=yaml.safe_dump(summary["job"], sort_keys=False, allow_unicode=True),
    )


def _counts(plain: Mapping[str, Any]) -> ClassificationCounts:
    return ClassificationCounts(
        **{name: np.asarray(plain[name], np.int64) for name in ("confusion", "histograms", "calibration", "losses")}
    )


def _auroc_error(pooled: ClassificationCounts) -> str | None:
    """The largest possible error of the pooled AUROC, over the classes it is a mean of."""
    rows = pooled.histograms[1:] if pooled.classes == 2 else pooled.histograms
    found = [one.auroc_error for one in map(ranking, rows) if one is not None]
    return f"{max(found):.4f}" if found else None


def _cards(pooled: Mapping[str, Any]) -> list[dict[str, str | None]]:
    cards = []
    for metric in _CARDS:
        interval = pooled["intervals"].get(metric)
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else None
        cards.append({"title": COLUMNS[metric], "value": number(pooled[metric]), "interval": shown})
    return cards


def _rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    named = [("pooled", metrics["pooled"]), *metrics["hospitals"].items(), ("worst", metrics["worst"])]
    return [
        {"name": name, "pooled": index == 0, "cells": [number(found.get(metric)) for metric in COLUMNS]}
        for index, (name, found) in enumerate(named)
    ]


def _sent(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    sent = summary["communication"]
    messages = max(1, len(summary["hospitals"]) * summary["rounds"])
    less = sent["times_less_than_whole_model"]
    return [
        ("up, hospitals to coordinator, in all", size(sent["bytes_up"])),
        ("down, coordinator to hospitals, in all", size(sent["bytes_down"])),
        (
            "per hospital and round, up / down",
            f"{size(sent['bytes_up'] / messages)} / {size(sent['bytes_down'] / messages)}",
        ),
        ("the head itself", size(sent["head_bytes"])),
        ("exchanging the whole model instead", size(sent["whole_model_bytes"])),
        ("times less than that", "–" if less is None else f"{less:,.0f}"),
    ]


def _round(one: Mapping[str, Any]) -> dict[str, Any]:
    validation = one["validation"] or {}
    answered, dropped = len(one["update_norms"]), len(one["dropped"])
    return {
        "number": one["round"],
        "dropped": one["dropped"],
        "cells": [
            *(number(validation.get(metric)) for metric in ("auroc", "accuracy", "log_loss")),
            number(one["train_loss"]),
            f"{answered} of {answered + dropped}" + (" (lost)" if one["lost"] else ""),
            size(one["bytes_up"] + one["bytes_down"]),
        ],
    }


def number(value: float | None) -> str:
    """A metric to three places, a count as it is, a dash where undefined."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def size(count: float) -> str:
    """Bytes in kB, MB or GB (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
