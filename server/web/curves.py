"""Curves over rounds as SVG, drawn without a library: small, in the page's colours, without styles that the page forbids."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

COLOURS = 6
"""Lines are drawn in so many colours of the page, then in the same ones dashed."""

_WIDTH, _HEIGHT = 520.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 10.0, 30.0
_TICKS = 4


@dataclass(frozen=True)
class Curves:
    """A figure. lines: name -> value by round, None where undefined. lost: rounds without a quorum."""

    title: str
    lines: Mapping[str, Mapping[int, float | None]]
    lost: Sequence[int] = ()

    @property
    def defined(self) -> dict[str, dict[int, float]]:
        """The values that are there; lines without any are left out."""
        found = {
            name: {at: value for at, value in sorted(line.items()) if value is not None and math.isfinite(value)}
            for name, line in self.lines.items()
        }
        return {name: line for name, line in found.items() if line}

    def svg(self) -> Markup:
        """The figure, with its legend below it; nothing if there is nothing to draw."""
        lines = self.defined
        if not lines:
            return Markup("")
        rounds = [at for line in lines.values() for at in line]
        values = [value for line in lines.values() for value in line.values()]
        x = _Scale(min(rounds), max(rounds), _LEFT, _WIDTH - _RIGHT, whole=True)
        y = _Scale(min(values), max(values), _HEIGHT - _BOTTOM, _TOP)
        half = abs(x(1) - x(0)) / 2
        parts = [_band(max(_LEFT, x(at) - half), min(_WIDTH - _RIGHT, x(at) + half)) for at in self.lost]
        parts += [_across(y(at), y.shown(at)) for at in y.ticks()]
        parts += [_text(x(at), _HEIGHT - 10, x.shown(at), "middle") for at in x.ticks()]
        for index, line in enumerate(lines.values()):
            parts.append(_line(index, [(x(at), y(value)) for at, value in line.items()]))
        drawn = (
            f'<svg class="plot" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(self._said())}">'
        )
        legend = "".join(
            f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><line x1="0" x2="24" y1="4" y2="4"{_look(index)}/></svg>'
            f"{escape(name)}</li>"
            for index, name in enumerate(lines)
        )
        # Every text went through `escape`, every number is one.
        return Markup(f"{drawn}{''.join(parts)}</svg><ul class=legend>{legend}</ul>")  # noqa: S704

    def _said(self) -> str:
        """The figure in words, for who does not see it: the last value of each line."""
        last = [(name, *list(line.items())[-1]) for name, line in self.defined.items()]
        return f"{self.title}: " + "; ".join(f"{name} {value:.3f} after round {at}" for name, at, value in last)


class _Scale:
    """From values to pixels, with round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float, whole: bool = False) -> None:
        span = high - low or (1.0 if whole else max(abs(high) * 0.1, 0.01))
        step = 10 ** math.floor(math.log10(span / _TICKS))
        step *= next(one for one in (1, 2, 5, 10) if span / (step * one) <= _TICKS + 0.5)
        self._step = max(1.0, round(step)) if whole else step
        self._low = low if whole else math.floor(low / step) * step
        self._high = max(high, low + 1) if whole else math.ceil(high / step + 1e-9) * step
        self._start, self._end, self._whole = start, end, whole

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        first = math.ceil(self._low / self._step - 1e-9)
        last = math.floor(self._high / self._step + 1e-9)
        return [at * self._step for at in range(first, last + 1)]

    def shown(self, value: float) -> str:
        places = 0 if self._whole else max(0, -math.floor(math.log10(self._step) + 1e-9))
        return f"{value:.{places}f}"


def _look(index: int) -> str:
    dashes = "" if index < COLOURS else ' stroke-dasharray="6 3"'
    return f' class="line k{index % COLOURS}"{dashes}'


def _line(index: int, points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    radius = 3 if len(points) <= 40 else 0
    dots = "".join(
        f'<circle class="dot k{index % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in points if radius
    )
    return f'<polyline points="{path}"{_look(index)}/>{dots}'


def _across(y: float, said: str) -> str:
    line = f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(_LEFT - 6, y + 4, said, "end")


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def _band(left: float, right: float) -> str:
    size = f'width="{max(right - left, 1):.1f}" height="{_HEIGHT - _TOP - _BOTTOM:g}"'
    return f'<rect class="lost" x="{left:.1f}" y="{_TOP:g}" {size}/>'
