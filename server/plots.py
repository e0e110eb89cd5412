"""The figures of the report, as SVG text to put into a page.

Letters: C classes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.metrics import ClassificationCounts, reliability
from common.ranking import precision_recall_curve, ranking, roc_curve

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""
_GREY = "#8a8f98"
_MOST_HOSPITALS_NAMED = 6
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "consilium",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "text.color": _GREY,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def learning_curves(rounds: Sequence[Mapping[str, Any]], best_round: int) -> str:
    """Validation AUROC and accuracy, and the losses, by round; the round that was kept is marked."""

    def draw(left: Axes, right: Axes) -> None:
        judged = [one for one in rounds if one["validation"]]
        numbers = [one["round"] for one in judged]
        for metric, label, colour in (("auroc", "AUROC", _COLOURS[0]), ("accuracy", "accuracy", _COLOURS[1])):
            left.plot(numbers, _values(judged, metric), marker=".", color=colour, label=label)
        right.plot(numbers, _values(judged, "log_loss"), marker=".", color=_COLOURS[0], label="validation log loss")
        losses = [np.nan if one["train_loss"] is None else one["train_loss"] for one in rounds]
        right.plot([one["round"] for one in rounds], losses, marker=".", color=_COLOURS[1], label="training loss")
        for axes in (left, right):
            axes.axvline(best_round, color=_GREY, linestyle=":", label=f"kept: round {best_round}")
            for one in rounds:
                if one["lost"]:
                    axes.axvspan(one["round"] - 0.5, one["round"] + 0.5, color=_COLOURS[4], alpha=0.2)
            axes.set_xlabel("round")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        left.set_title("validation patients", loc="left")
        right.set_title("losses", loc="left")

    return _svg(draw, columns=2)


def ranking_curves(
    pooled: ClassificationCounts, hospitals: Mapping[str, ClassificationCounts], classes: Sequence[str]
) -> str:
    """ROC and precision-recall of the test patients.

    Two classes: pooled and every hospital that has both. More: each class against the rest, pooled.
    """
    curves = _curves(pooled, hospitals, classes)

    def draw(roc: Axes, recall: Axes) -> None:
        roc.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
        for label, histogram, style in curves:
            found = ranking(histogram)
            roc.plot(*roc_curve(histogram), **style, label=label and f"{label}: {found.auroc:.3f}" if found else label)
            average = label and f"{label}: {found.average_precision:.3f}" if found else label
            recall.plot(*precision_recall_curve(histogram), **style, label=average)
        for axes, title, x, y in (
            (roc, "ROC curve (area)", "1 - specificity", "sensitivity"),
            (recall, "precision and recall (average precision)", "recall (sensitivity)", "precision"),
        ):
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y)
            axes.set_title(title, loc="left")
            if curves:
                axes.legend(loc="lower right" if axes is roc else "lower left")

    return _svg(draw, columns=2, height=4.4)


def _curves(
    pooled: ClassificationCounts, hospitals: Mapping[str, ClassificationCounts], classes: Sequence[str]
) -> list[tuple[str | None, Any, dict[str, Any]]]:
    """Label, score histogram and line style of every curve that is defined."""
    if len(classes) > 2:
        named = [
            (name, pooled.histograms[row], {"color": _COLOURS[row % len(_COLOURS)]}) for row, name in enumerate(classes)
        ]
        return [curve for curve in named if ranking(curve[1])]
    curves: list[tuple[str | None, Any, dict[str, Any]]] = []
    whole = [(name, counts) for name, counts in hospitals.items() if ranking(counts.histograms[1])]
    for index, (name, counts) in enumerate(whole):
        few = len(whole) <= _MOST_HOSPITALS_NAMED
        style = {"color": _COLOURS[(index + 1) % len(_COLOURS)] if few else _GREY, "linewidth": 1.0, "alpha": 0.8}
        curves.append((name if few else None, counts.histograms[1], style))
    if ranking(pooled.histograms[1]):
        curves.append(("pooled", pooled.histograms[1], {"color": _COLOURS[0], "linewidth": 2.4}))
    return curves


def reliability_diagram(pooled: ClassificationCounts) -> str:
    """Accuracy against confidence of the top class, with the number of test images at each confidence."""
    confidence, accuracy, number = reliability(pooled)

    def draw(curve: Axes, bars: Axes) -> None:
        curve.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":", label="perfectly calibrated")
        curve.plot(confidence, accuracy, marker="o", color=_COLOURS[0], label="model")
        curve.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="share that is right")
        curve.set_title("reliability", loc="left")
        curve.legend(loc="upper left")
        bars.bar(confidence, number, width=0.05, color=_COLOURS[0])
        bars.set(xlim=(0, 1.02), xlabel="confidence", ylabel="test images")
        bars.set_title("how confident the model is", loc="left")

    return _svg(draw, columns=2)


def confusion_matrix(pooled: ClassificationCounts, classes: Sequence[str]) -> str:
    """Test images by true class (rows, with their share of the row) and predicted class (columns)."""
    totals = pooled.support[:, None]
    shares = np.divide(pooled.confusion, totals, out=np.zeros(pooled.confusion.shape), where=totals > 0)
    side = 1.6 + 0.9 * len(classes)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), number in np.ndenumerate(pooled.confusion):
            share = shares[row, column]
            colour = "white" if share > 0.5 else "#1b2a41"
            axes.text(column, row, f"{number}\n{share:.0%}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(classes)), classes, rotation=30 if len(classes) > 2 else 0)
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="predicted", ylabel="true")

    return _svg(draw, columns=1, height=side, width=side + 0.8)


def _values(rounds: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    return [np.nan if one["validation"][metric] is None else one["validation"][metric] for one in rounds]


def _svg(draw: Callable[..., None], columns: int, height: float = 3.4, width: float = 9.6) -> str:
    """An SVG element without the XML prologue; equal input gives equal text."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        for one in axes:
            one.patch.set_alpha(0.0)
        draw(*axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
