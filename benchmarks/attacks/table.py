"""What an attack found, as a Markdown table and as records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Value = float | str | Sequence[float]
"""A measure, a word (such as `refused`), or the same measure in several draws."""


@dataclass(frozen=True)
class Table:
    """title: the attack. source: where it is from. columns: what the attacker sees or does, then what is measured."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def markdown(self) -> str:
        """Title, source and table."""
        lines = [self.columns, ("---",) * len(self.columns), *(tuple(map(_shown, row)) for row in self.rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines).replace(" --- ", "---")
        return f"### {self.title}\n\nSource: {self.source}.\n\n{table}\n"

    def records(self) -> list[dict[str, object]]:
        """A record a row, for JSON: the columns by name, and the attack; of several draws the mean, and the draws."""
        return [
            {"attack": self.title, **{name: _plain(value) for name, value in zip(self.columns, row, strict=True)}}
            for row in self.rows
        ]


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return value
    draws = np.atleast_1d(np.asarray(value, np.float64))
    return f"{draws.mean():.3f}" + (f" ± {draws.std():.3f}" if draws.size > 1 else "")


def _plain(value: Value) -> object:
    if isinstance(value, str):
        return value
    draws = np.atleast_1d(np.asarray(value, np.float64)).tolist()
    return {"mean": float(np.mean(draws)), "draws": draws}
