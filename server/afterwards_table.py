"""The cross-site matrix and the personalised models of a finished run row by row, for the report and the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.wire import PERSONALISED
from server.numbers import number


@dataclass(frozen=True)
class CrossCell:
    """A figure of the cross-site matrix, its detail, and how dark its cell is, in [0, 1]."""

    text: str
    detail: str
    share: float


@dataclass(frozen=True)
class CrossRow:
    """Who trained a head, and how it does at each hospital."""

    name: str
    cells: Sequence[CrossCell]


@dataclass(frozen=True)
class CrossTable:
    """The cross-site matrix by AUROC."""

    metric: str
    columns: Sequence[str]
    rows: Sequence[CrossRow]


def cross_site_rows(cross_site: Mapping[str, Mapping[str, Any]]) -> CrossTable | None:
    """The cross-site matrix of a summary as rows; None if there is none. Cells darken from an AUROC of 0.5 to 1."""
    if not cross_site:
        return None
    columns = sorted({where for row in cross_site.values() for where in row})

    def cell(found: Mapping[str, Any] | None) -> CrossCell:
        auroc, accuracy = (found.get(metric) if found else None for metric in ("auroc", "accuracy"))
        share = min(1.0, max(0.0, 2 * auroc - 1)) if auroc is not None else 0.0
        return CrossCell(number(auroc), number(accuracy), share)

    rows = [CrossRow(name, [cell(row.get(where)) for where in columns]) for name, row in cross_site.items()]
    return CrossTable("AUROC", columns, rows)


@dataclass(frozen=True)
class PersonalRow:
    """AUROC and accuracy of each model on one hospital's test patients, and the model its validation patients favour."""

    name: str
    cells: Sequence[float | None]
    best: str | None


@dataclass(frozen=True)
class PersonalTable:
    """The models compared, and a row for each hospital."""

    models: Sequence[str]
    rows: Sequence[PersonalRow]


def personal_rows(personal: Mapping[str, Mapping[str, Any]]) -> PersonalTable | None:
    """The comparison of global, personalised and own models of a summary; None if there is none."""
    if not personal:
        return None
    rows = [
        PersonalRow(
            name,
            [one["test"][model].get(metric) for model in PERSONALISED for metric in ("auroc", "accuracy")],
            one["best"],
        )
        for name, one in personal.items()
    ]
    return PersonalTable(PERSONALISED, rows)
