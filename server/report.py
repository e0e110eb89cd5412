"""The report of a run as one HTML file: self-contained, opens offline, made from the files of the run directory alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from common.artifact import write_atomically
from common.errors import ArtifactError
from common.metrics import SCORE_BINS
from common.wire import PARTS
from server import afterwards_table, plots, summary_table
from server.failures import in_words
from server.numbers import number, size
from server.report_page import PAGE
from server.run_directory import REMEDY, FinishedRun, read_run

REPORT = "report.html"
COLUMNS = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "average_precision": "AP",
    "ece": "ECE",
    "brier": "Brier",
    "n": "images",
}
"""The metrics of the table per hospital, and their headings."""
_TRAINED = {"head": "head", "last-blocks": "head and last blocks", "full": "the whole network"}
_CARDS = ("auroc", "accuracy", "sensitivity", "specificity", "f1")
_UNREADABLE = (KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError, jinja2.UndefinedError)


def write_report(folder: Path) -> Path:
    """Write report.html of a run directory, all or nothing; returns its path.

    Raises:
        ArtifactError: the folder is no run directory, or a file of it is damaged or of another run.
    """
    run = read_run(folder)
    try:
        page = _render(run)
    except _UNREADABLE as error:
        raise ArtifactError(
            f"{folder / 'summary.json'} is damaged, or of another version: expected the summary of a run, "
            f"got {type(error).__name__}: {error}; {REMEDY}"
        ) from error
    write_atomically(folder / REPORT, page)
    return folder / REPORT


def _render(run: FinishedRun) -> str:
    summary, classes = run.summary, run.job["classes"]
    reasons = {
        name: summary_table.why_undefined(one, classes) for name, one in {"": run.pooled, **run.hospitals}.items()
    }
    rows, footnotes = summary_table.metric_rows(summary["metrics"], reasons, list(COLUMNS))
    shown: tuple[Callable[..., str | None], ...] = (plots.roc_curves, plots.precision_recall_curves)
    learning = (plots.validation_by_round, plots.losses_by_round)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, size=size, in_words=in_words)
    light, dark = plots.palette_css()
    weights = run.job["backbone"]["weights"]
    template = environment.from_string(PAGE)
    return template.render(
        summary=summary,
        light=light,
        dark=dark,
        classes=classes,
        weights=", ".join(f"{key} {weights[key]}" for key in ("name", "file", "seed") if weights[key] is not None),
        test_patients=sum(one["patients"]["test"] for one in summary["hospitals"].values()) or None,
        cards=_cards(summary["metrics"]["pooled"]),
        error=summary_table.auroc_error(run.pooled),
        bins=SCORE_BINS,
        one_class=[name for name, lacking in summary["missing_classes"].items() if len(lacking) == len(classes) - 1],
        columns=COLUMNS.values(),
        rows=rows,
        footnotes=footnotes,
        ranking=[draw(run.pooled, run.hospitals, classes) for draw in shown],
        fewest=plots.FEWEST_FOR_A_CURVE,
        calibration=plots.reliability_diagram(run.pooled),
        confusion=summary_table.confusion_rows(run.pooled),
        learning=[draw(run.rounds, summary["best_round"]) for draw in learning],
        trained=_TRAINED[run.job["tune"]["part"]],
        cross_site=afterwards_table.cross_site_rows(summary["cross_site"]),
        personal=afterwards_table.personal_rows(summary["personalisation"]),
        duplicates=summary.get("duplicates"),
        parts=PARTS,
        protection=summary_table.protection(summary),
        sent=summary_table.sent_rows(summary, run.rounds),
        rounds=run.rounds,
        resumed=summary.get("resumed_after_round"),
        job_yaml=yaml.safe_dump(_without_nulls(run.job), sort_keys=False, allow_unicode=True),
    )


def _cards(pooled: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Heading, value and interval of the headline metrics."""
    return [(COLUMNS[one], number(pooled[one]), summary_table.interval(pooled["intervals"].get(one))) for one in _CARDS]


def _without_nulls(value: Any) -> Any:
    """Of a job, what is set: null stands for the default."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value
