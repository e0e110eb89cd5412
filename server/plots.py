"""The figures of the report, as SVG elements to put into a page.

Every colour is a CSS variable of the page with the printed colour to fall back on, so that one figure reads well on
white, on black and on paper. Text stays text.

Letters: C classes.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.intervals import wilson
from common.metrics import ClassificationCounts, Float64, Int64, reliability
from common.ranking import precision_recall_curve, ranking, roc_curve

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#7b61c9")
"""Of lines and markers, in this order; on a page they are CSS variables, and so is `SOFT`, the colour of what stands back."""

_ON_DARK = ("#5cb8ef", "#f28a3c", "#2cc295", "#e39bc5", "#f2c14e", "#b3a4f5")
_INK, SOFT, _LOST = "#1b2a41", "#5f6b7a", "#b45309"
_VARIABLES = {one: f"c{index}" for index, one in enumerate(COLOURS)} | {_INK: "ink", SOFT: "soft", _LOST: "warn"}
_COLOUR = re.compile("|".join(_VARIABLES))
_TAG = re.compile(r"<[^>]+>")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
FEWEST_FOR_A_CURVE = 5
"""A hospital gets curves of its own from this number of test images of each kind on; fewer make a line that says nothing."""

_MOST_HOSPITALS_NAMED = 5
_MOST_MARKERS = 40
_LONGEST_LABEL = 26
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "axes.grid": True,
    "grid.color": SOFT,
    "grid.alpha": 0.18,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class _Curve:
    """One line of a ranking figure: the score histograms (2, B) behind it; a thin one is a single hospital.

    `area`: whether its label gives the area under it.
    """

    label: str | None
    histogram: Int64
    colour: str
    thin: bool
    area: bool = True
    dashes: Any = "-"


def palette_css() -> tuple[str, str]:
    """Declarations of the variables the figures use: on a light page and on a dark one."""
    light, dark = (";".join(f"--c{index}:{one}" for index, one in enumerate(row)) for row in (COLOURS, _ON_DARK))
    return light, dark


def validation_by_round(rounds: Sequence[Mapping[str, Any]], best_round: int) -> str | None:
    """AUROC and accuracy on the validation patients after each round; None if no round has either, or there is one round."""
    lines = {"AUROC": _validation(rounds, "auroc"), "accuracy": _validation(rounds, "accuracy")}
    return _by_round("validation", "AUROC and accuracy of the validation patients", rounds, lines, best_round)


def losses_by_round(rounds: Sequence[Mapping[str, Any]], best_round: int) -> str | None:
    """Validation log loss and training loss after each round; None if no round has either, or there is one round."""
    training = np.array([np.nan if one["train_loss"] is None else one["train_loss"] for one in rounds], np.float64)
    lines = {"validation log loss": _validation(rounds, "log_loss"), "training loss": training}
    return _by_round("losses", "Loss", rounds, lines, best_round)


def _validation(rounds: Sequence[Mapping[str, Any]], metric: str) -> Float64:
    values = [(one["validation"] or {}).get(metric) for one in rounds]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _by_round(
    name: str, title: str, rounds: Sequence[Mapping[str, Any]], lines: Mapping[str, Float64], best_round: int
) -> str | None:
    defined = {label: values for label, values in lines.items() if np.isfinite(values).any()}
    if not defined or len(rounds) < 2:
        return None
    numbers = np.array([one["round"] for one in rounds])
    lost = [one["round"] for one in rounds if one["lost"]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for index, (label, values) in enumerate(defined.items()):
            marker = "." if len(numbers) <= _MOST_MARKERS else None
            axes.plot(numbers, values, marker=marker, color=COLOURS[index], linewidth=1.6, label=label)
            kept = numbers == best_round
            axes.plot(numbers[kept], values[kept], "o", markersize=9, markerfacecolor="none", color=COLOURS[index])
        axes.axvline(best_round, color=SOFT, linewidth=1, linestyle=":", label=f"kept: round {best_round}")
        for index, number in enumerate(lost):
            said = "no quorum" if index == 0 else None
            axes.axvspan(number - 0.5, number + 0.5, color=_LOST, alpha=0.18, linewidth=0, label=said)
        axes.set(xlabel="round", xlim=(min(numbers.min(), best_round) - 0.6, max(numbers.max(), best_round) + 0.6))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, loc="left", fontsize=10.5)
        axes.legend(loc="best")

    return draw_svg(name, f"{title} by round; round {best_round} was kept", draw, height=3.3)


def roc_curves(
    pooled: ClassificationCounts, hospitals: Mapping[str, ClassificationCounts], classes: Sequence[str]
) -> str | None:
    """ROC of the test patients; None if it is nowhere defined.

    Two classes: pooled and, thin, every hospital with `FEWEST_FOR_A_CURVE` images of either. More: each class against
    the rest, alike.
    """
    curves = _curves(pooled, hospitals, classes)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=":")
        _draw_curves(axes, curves, roc_curve, lambda found: found.auroc, step=False)
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        axes.set_title("ROC (area under the curve)", loc="left", fontsize=10.5)
        _legend(axes, "lower right")

    return draw_svg("roc", "ROC curves of the test patients", draw, height=4.5) if curves else None


def precision_recall_curves(
    pooled: ClassificationCounts, hospitals: Mapping[str, ClassificationCounts], classes: Sequence[str]
) -> str | None:
    """Precision against recall of the test patients, curves as in `roc_curves`; None if nowhere defined."""
    curves = _curves(pooled, hospitals, classes)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if len(classes) == 2 and pooled.n:
            share = pooled.support[1] / pooled.n
            axes.axhline(share, color=SOFT, linewidth=0.9, linestyle=":", label=f"chance (pooled) {share:.3f}")
        _draw_curves(axes, curves, precision_recall_curve, lambda found: found.average_precision, step=True)
        axes.set(xlabel="recall (sensitivity)", ylabel="precision")
        axes.set_title("Precision and recall (average precision)", loc="left", fontsize=10.5)
        _legend(axes, "lower left")

    meaning = "Precision-recall curves of the test patients"
    return draw_svg("precision-recall", meaning, draw, height=4.5) if curves else None


def _curves(
    pooled: ClassificationCounts, hospitals: Mapping[str, ClassificationCounts], classes: Sequence[str]
) -> list[_Curve]:
    """The curves that are defined, thin ones first so that the pooled ones lie on top."""
    two = len(classes) == 2
    thin, thick = [], []
    for row in [1] if two else range(len(classes)):
        own = COLOURS[0 if two else row % len(COLOURS)]
        histograms = {name: one.histograms[row] for name, one in hospitals.items()}
        enough = {name: one for name, one in histograms.items() if one.sum(axis=1).min() >= FEWEST_FOR_A_CURVE}
        named = two and len(enough) <= _MOST_HOSPITALS_NAMED
        for index, (name, histogram) in enumerate(enough.items()):
            if named:
                thin.append(_Curve(_short(name), histogram, COLOURS[index + 1], thin=True))
            else:
                crowd = f"each of {len(enough)} hospitals" if two and index == 0 else None
                thin.append(_Curve(crowd, histogram, SOFT if two else own, thin=True, area=False))
        if ranking(pooled.histograms[row]):
            label = "pooled" if two else _short(classes[row])
            dashes = _DASHES[row // len(COLOURS) % len(_DASHES)]
            thick.append(_Curve(label, pooled.histograms[row], own, thin=False, dashes=dashes))
    return [*thin, *thick]


def _draw_curves(
    axes: Axes,
    curves: Sequence[_Curve],
    points: Callable[[Int64], tuple[Float64, Float64]],
    area: Callable[[Any], float],
    step: bool,
) -> None:
    """Draw curves with their area in the legend; those of single hospitals fade as they get many."""
    crowd = sum(curve.thin for curve in curves)
    for curve in curves:
        x, y = points(curve.histogram)
        label = f"{curve.label}  {area(ranking(curve.histogram)):.3f}" if curve.area else curve.label
        width, alpha = (0.9, 0.75 if crowd <= 8 else 0.35) if curve.thin else (2.2, 1.0)
        drawn = axes.plot(x, y, color=curve.colour, linestyle=curve.dashes, linewidth=width, alpha=alpha, label=label)
        drawn[0].set_drawstyle("steps-pre" if step else "default")
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.025), aspect="equal")


def _legend(axes: Axes, place: Literal["lower right", "lower left"]) -> None:
    """A legend with the last line, the pooled one, first."""
    lines, labels = axes.get_legend_handles_labels()
    axes.legend(lines[::-1], labels[::-1], loc=place, labelspacing=0.35, handlelength=1.6)


def reliability_diagram(pooled: ClassificationCounts) -> str | None:
    """Share that is right against confidence of the top class, with 95 % intervals, over a histogram of confidence."""
    confidence, right, number = reliability(pooled)
    if not len(number):
        return None
    bounds = [wilson(round(share * n), int(n)) for share, n in zip(right, number, strict=True)]
    reach = np.array([[b.low, b.high] if b else [np.nan, np.nan] for b in bounds]).T
    least = 1 / pooled.classes

    def draw(figure: Figure) -> None:
        curve, bars = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        curve.plot([least, 1], [least, 1], color=SOFT, linewidth=0.9, linestyle=":", label="perfectly calibrated")
        curve.vlines(confidence, reach[0], reach[1], color=COLOURS[0], linewidth=1.1, alpha=0.6, label="95 % interval")
        curve.plot(confidence, right, marker="o", markersize=5, color=COLOURS[0], label="share that is right")
        curve.set(xlim=(min(least, confidence.min()) - 0.03, 1.03), ylim=(-0.02, 1.04), ylabel="share that is right")
        curve.set_title("Reliability", loc="left", fontsize=10.5)
        curve.legend(loc="lower right")
        bars.bar(confidence, number, width=0.035, color=COLOURS[0])
        bars.set(xlabel="confidence in the class predicted", ylabel="test images")
        bars.yaxis.set_major_locator(MaxNLocator(3, integer=True))

    return draw_svg("reliability", "Reliability diagram with the number of test images", draw, height=4.5)


def _short(label: str) -> str:
    """A name to fit a legend; matplotlib would hide one that starts with an underscore."""
    label = f" {label}" if label.startswith("_") else label
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"


def draw_svg(name: str, meaning: str, draw: Callable[[Figure], None], height: float, width: float = 5.2) -> str:
    """An SVG element that says what it means; equal input gives equal text, and two figures share no id."""
    text = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": f"consilium-{name}"}), warnings.catch_warnings():
        # A name may be in a script the measuring font lacks; the reader's own font shows it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _for_page(text.getvalue(), meaning)


def _for_page(svg: str, meaning: str) -> str:
    """An SVG document as an element of a page: colours as variables, the page's font, no prologue, no id unused.

    Only tags are changed, never a text: a name reads as it is.
    """
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], count=1, flags=re.DOTALL)
    used = {one for tag in _TAG.findall(svg) for one in re.findall(r'(?:url\(#|href="#)([^")]+)', tag)}

    def tidy(found: re.Match[str]) -> str:
        tag = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", found[0]).replace("xlink:href=", "href=")
        tag = re.sub(r' id="([^"]+)"', lambda one: one[0] if one[1] in used else "", tag)
        tag = re.sub(r"font-family: [^;\"]*", "font-family: inherit", tag)
        return _COLOUR.sub(lambda one: f"var(--{_VARIABLES[one[0]]}, {one[0]})", tag)

    return _TAG.sub(tidy, svg).replace("<svg ", f'<svg role="img" aria-label="{escape(meaning)}" ', 1)
