"""Runs side by side: a row for each figure, and what makes them hard to compare."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.metrics import HIGHER_IS_BETTER
from server.numbers import number, size
from server.report import COLUMNS
from server.web.curves import Curves
from server.web.models import Run

_METRICS = (*(one for one in COLUMNS if one in HIGHER_IS_BETTER), "log_loss")


@dataclass(frozen=True)
class Cell:
    """A figure, what is known about it, and whether it is the best of its row."""

    text: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True)
class Comparison:
    """about: how the runs were made. figures: of their test patients. warnings: what to know before comparing."""

    about: Sequence[tuple[str, Sequence[Cell]]]
    figures: Sequence[tuple[str, Sequence[Cell]]]
    warnings: Sequence[str]
    curves: Curves


def compare(runs: Sequence[Run]) -> Comparison:
    """Some runs, in their order."""
    curves = {run.name: {one.round: (one.validation or {}).get("auroc") for one in run.rounds} for run in runs}
    return Comparison(
        about=_about(runs),
        figures=[(COLUMNS.get(metric, metric.replace("_", " ")), _figures(runs, metric)) for metric in _METRICS],
        warnings=_warnings(runs),
        curves=Curves("AUROC of the validation patients", curves),
    )


def _about(runs: Sequence[Run]) -> list[tuple[str, list[Cell]]]:
    def row(words: str, values: Sequence[str]) -> tuple[str, list[Cell]]:
        return words, [Cell(value) for value in values]

    ends = [run.result for run in runs]
    return [
        row("job", [run.job for run in runs]),
        row("classes", [", ".join(run.classes) for run in runs]),
        row("backbone", [run.backbone for run in runs]),
        row("method", [run.method for run in runs]),
        row("rounds", [f"{run.rounds_done} of {run.rounds_planned}" for run in runs]),
        row("kept: round", ["–" if end is None else str(end.best_round) for end in ends]),
        row("hospitals", ["–" if end is None else str(len(end.taking_part)) for end in ends]),
        row("secure aggregation", ["yes" if run.secure_aggregation else "no" for run in runs]),
        row("epsilon", ["none" if run.epsilon is None else f"{run.epsilon:g}" for run in runs]),
        row("test images", ["–" if end is None else number(int(end.pooled.get("n") or 0)) for end in ends]),
        row("to the coordinator", [size(run.bytes_up) for run in runs]),
        row("to the hospitals", [size(run.bytes_down) for run in runs]),
        row("seconds", ["–" if end is None or end.seconds is None else f"{end.seconds:,.1f}" for end in ends]),
    ]


def _figures(runs: Sequence[Run], metric: str) -> list[Cell]:
    values = [run.result.pooled.get(metric) if run.result else None for run in runs]
    defined = [value for value in values if value is not None]
    better = max if HIGHER_IS_BETTER[metric] else min
    best = better(defined) if len(defined) > 1 and len(set(defined)) > 1 else None
    cells = []
    for run, value in zip(runs, values, strict=True):
        bounds = run.result.bounds.get(metric) if run.result else None
        detail = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else ""
        cells.append(Cell(number(value), detail, best is not None and value == best))
    return cells


def _warnings(runs: Sequence[Run]) -> list[str]:
    found = []
    if len({tuple(run.classes) for run in runs}) > 1:
        found.append("The runs tell different classes apart: their figures do not compare.")
    if len({run.seed for run in runs}) > 1:
        found.append("The runs have different seeds, so their test patients are different ones.")
    taking_part = {tuple(run.result.taking_part) for run in runs if run.result}
    if len(taking_part) > 1:
        found.append("Not the same hospitals took part, so the test patients are not the same.")
    if any(run.result and run.result.random_weights for run in runs):
        found.append("A backbone with random weights is a demonstration.")
    if any(run.result is None for run in runs):
        found.append("Not every run is finished: figures are of test patients, who are counted at the end.")
    return found
