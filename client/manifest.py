"""A hospital's manifest: a CSV file with the columns path, label, patient_id and, if the hospital likes, split, sex, age_band.

The patient may be left out, cell by cell or as a column, where the images are DICOM files that say whose they are. Capitals
in column names do not matter, other columns are passed over. Everything wrong with a manifest is reported at once, so that it
is corrected at once.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.config_file import nearest, unknown
from common.errors import DataError
from common.groups import ATTRIBUTES
from common.wire import PARTS

COLUMNS = ("path", "label", "patient_id")
SPLIT_WORDS: Mapping[str, str] = {**{part: part for part in PARTS}, "val": "validation", "valid": "validation"}
"""What the column split may say, to the part it means; an empty cell leaves the split to the job."""

PROBLEMS_SHOWN = 10
_PATIENT = "patient_id"


@dataclass(frozen=True)
class Row:
    """One image as the hospital describes it; `part` (of `PARTS`) is None where the hospital leaves the split to the job.

    sex, age_band: as written, in lower case; empty where the manifest does not say. Only jobs with `evaluation.groups` read them.
    """

    path: Path
    label: str
    patient_id: str
    part: str | None = None
    sex: str = ""
    age_band: str = ""


def read_manifest(manifest: Path, patient_of: Callable[[Path], str | None] | None = None) -> list[Row]:
    """The rows of a manifest, in its order. Paths are relative to the manifest's folder, or absolute.

    patient_of: says whose the image at a path is where the manifest does not, None where it cannot be said.

    Raises:
        DataError: not readable, not UTF-8, not CSV, or any of: columns missing, cells missing or in excess, an unknown
            split word, a path given twice, a patient in several parts. Up to ten problems are named by line.
    """
    try:
        content = manifest.read_bytes()
        # Spreadsheets write a byte order mark, which would otherwise become part of the first column's name.
        text = content.decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise DataError(f"cannot read {manifest}: {error.strerror}; give the path of a CSV file") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{manifest}, line {line}: not UTF-8 text; save it as CSV UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        problems = list(
            _column_problems(columns, [column for column in COLUMNS if column != _PATIENT or not patient_of])
        )
        lines = [] if problems else [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        # line_num is where the last good row ended; a quote left open swallows the rest of the file.
        line = reader.line_num + 1
        raise DataError(f"{manifest}, line {line}: not valid CSV ({error}); save it as CSV UTF-8") from error
    rows = [(line, _row(manifest.parent, cells)) for line, cells in lines]
    if patient_of is not None:
        rows, unknown_patients = _with_patients(rows, patient_of)
        problems += unknown_patients
    # A column that is not there is one problem, not one for each line.
    if _PATIENT not in columns and not problems and not all(row.patient_id for _, row in rows):
        problems += _column_problems(columns, COLUMNS)
    needed = [column for column in COLUMNS if column in columns]
    problems += [
        f"line {line}: {problem}"
        for (line, cells), (_, row) in zip(lines, rows, strict=True)
        for problem in _cell_problems(cells, [one for one in needed if one != _PATIENT or not row.patient_id])
    ]
    problems += _repeated_paths([(line, row) for line, row in rows if row.path != manifest.parent])
    problems += _divided_patients(rows)
    if problems:
        raise DataError(f"{manifest}: {_listed(problems)}")
    return [row for _, row in rows]


def shortened(items: list[str], shown: int = PROBLEMS_SHOWN) -> list[str]:
    """The first items, and how many more there are."""
    return items if len(items) <= shown else [*items[:shown], f"and {len(items) - shown} more"]


def _listed(problems: list[str]) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"{count}:\n" + "\n".join(f"  - {problem}" for problem in shortened(problems))


def _row(folder: Path, cells: Mapping[str, str | None]) -> Row:
    path, label, patient_id = ((cells.get(column) or "").strip() for column in COLUMNS)
    sex, age_band = ((cells.get(column) or "").strip().lower() for column in ATTRIBUTES)
    return Row(folder / path, label, patient_id, SPLIT_WORDS.get(_split_word(cells)), sex, age_band)


def _with_patients(
    rows: list[tuple[int, Row]], patient_of: Callable[[Path], str | None]
) -> tuple[list[tuple[int, Row]], list[str]]:
    """The rows with the patients that the images themselves name, and what kept some from it."""
    filled, problems = [], []
    for line, row in rows:
        if row.patient_id:
            filled.append((line, row))
            continue
        try:
            filled.append((line, replace(row, patient_id=patient_of(row.path) or "")))
        except DataError as error:
            filled.append((line, row))
            problems.append(f"line {line}: no '{_PATIENT}', and the image does not say whose it is: {error}")
    return filled, problems


def _split_word(cells: Mapping[str, str | None]) -> str:
    return (cells.get("split") or "").strip().lower()


def _column_problems(columns: list[str], needed: Sequence[str]) -> list[str]:
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        return ["the columns are separated by semicolons or tabs; save the file with commas"]
    problems = []
    for column in (*COLUMNS, "split", *ATTRIBUTES):
        if column in needed and column not in columns:
            # A near name may be meant, but not one that is a column of its own.
            hint = nearest(column, [name for name in columns if name not in COLUMNS])
            problems.append(f"column '{column}' is missing{hint}; the columns are: {', '.join(columns) or 'none'}")
        elif columns.count(column) > 1:
            problems.append(f"column '{column}' is there {columns.count(column)} times; keep one")
    return problems


def _cell_problems(cells: Mapping[str, str | None], needed: Sequence[str]) -> Iterator[str]:
    for column in needed:
        if not (cells.get(column) or "").strip():
            yield f"'{column}' is empty"
    # DictReader keeps the cells that have no column under None.
    if None in dict[str | None, object](cells):
        yield "more cells than columns; put a text that holds a comma into double quotes"
    word = _split_word(cells)
    if word and word not in SPLIT_WORDS:
        yield unknown("split", word, list(SPLIT_WORDS))


def _repeated_paths(rows: list[tuple[int, Row]]) -> Iterator[str]:
    first: dict[str, int] = {}
    for line, row in rows:
        if first.setdefault(os.path.normpath(row.path), line) != line:
            yield f"line {line}: '{row.path.name}' was given in line {first[os.path.normpath(row.path)]} already; keep one"


def _divided_patients(rows: list[tuple[int, Row]]) -> Iterator[str]:
    parts: dict[str, dict[str, int]] = {}
    for line, row in rows:
        if row.part and row.patient_id:
            parts.setdefault(row.patient_id, {}).setdefault(row.part, line)
    for patient_id, found in parts.items():
        if len(found) > 1:
            where = ", ".join(f"{part} (line {line})" for part, line in found.items())
            yield f"patient '{patient_id}' is in several parts: {where}; put all rows of a patient into one"
