"""A ledger for other programs: JSON with everything, CSV with a row for each array that left."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from client.ledger_entry import ArrayRecord, Entry, now, written
from client.ledger_reading import Reading

EXPORT_FORMAT = "consilium-ledger-export-1"
COLUMNS = (
    *(
        "entry",
        "time",
        "decision",
        "kind",
        "job",
        "job_id",
        "round",
        "part",
        "fields",
        "masked",
        "epsilon",
        "epsilon_total",
    ),
    *("code", "count", "array", "dtype", "shape", "bytes", "sha256", "l2"),
)
"""Of the CSV. `bytes` are those of the row's array, so that they add up. Why something was refused is in the JSON only."""


def as_dict(entry: Entry) -> dict[str, Any]:
    """An entry as plain content, without what is None."""
    return entry.model_dump(mode="json", exclude_none=True)


def to_json(reading: Reading) -> str:
    """Every entry in full, with the head and what verifying found."""
    content = {
        "format": EXPORT_FORMAT,
        "hospital": hospital_of(reading),
        "exported": written(now()),
        "verified": not reading.problems,
        "problems": [str(problem) for problem in reading.problems],
        "note": reading.note,
        "head": reading.last.text,
        "entries": [as_dict(entry) for entry in reading.entries],
    }
    return json.dumps(content, indent=1)


def to_csv(reading: Reading) -> str:
    """A row for each array of each entry, and one for an entry without arrays."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for entry in reading.entries:
        rows.writerows([*_cells(entry), *cells] for cells in _array_cells(entry.arrays))
    return text.getvalue()


def hospital_of(reading: Reading) -> str:
    """Whose ledger it is, by its first entry."""
    return str(reading.entries[0].about.get("hospital", "")) if reading.entries else ""


def _cells(entry: Entry) -> list[object]:
    about = {**entry.fields, **entry.about}
    fields = " ".join(f"{name}={value}" for name, value in sorted(about.items()))
    identity = [entry.seq, entry.time, entry.decision, entry.kind, entry.job, entry.job_id, entry.round, entry.part]
    spent = ["yes" if entry.masked else "no", entry.epsilon, entry.epsilon_total]
    return [*identity, fields, *spent, entry.code, entry.count if entry.decision == "refused" else None]


def _array_cells(arrays: Sequence[ArrayRecord]) -> Iterator[list[object]]:
    for one in arrays:
        yield [one.name, one.dtype, "x".join(map(str, one.shape)), one.bytes, one.sha256, one.l2]
    if not arrays:
        yield [None] * 6
