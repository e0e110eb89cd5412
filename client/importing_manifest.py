"""The manifest of imported images: written anew after each import; the labels that people typed into it stay."""

import csv
import io
from collections.abc import Collection, Mapping
from pathlib import Path

from client.importing_journal import Entry
from client.manifest import COLUMNS
from common.artifact import write_atomically
from common.errors import DataError, StorageError

MANIFEST = "manifest.csv"
SEX_AGE = ("sex", "age_band")


def read_rows(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of the manifest that is there, by path; none if there is none.

    Raises:
        DataError: it is no longer a manifest.
    """
    file = folder / MANIFEST
    try:
        if not file.exists():
            return {}
        reader = csv.DictReader(
            io.StringIO(file.read_bytes().decode("utf-8").removeprefix("\ufeff"), newline=""), strict=True
        )
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        rows = [{str(key): (cell or "").strip() for key, cell in row.items()} for row in reader]
        return {row["path"]: row for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError) as error:
        raise DataError(
            f"{file} cannot be read as a manifest ({type(error).__name__}), and the labels in it shall not be lost; save it "
            f"as CSV UTF-8 with the columns {', '.join(COLUMNS)}, or move it away"
        ) from error


def write_manifest(
    folder: Path,
    entries: Mapping[str, Entry],
    rows: Mapping[str, Mapping[str, str]],
    labelled_now: Collection[str],
    sex_age: bool,
) -> int:
    """Write the manifest; returns how many of its images have no label.

    A label of this import (`labelled_now`, SOP instance UIDs) comes before one in the manifest, and that before one of an earlier
    import. Further columns and rows of people stay. sex_age: with the columns sex and age_band.

    Raises:
        StorageError: the disk is full, or cannot be written.
    """
    columns = list(
        dict.fromkeys([*COLUMNS, *(SEX_AGE if sex_age else ()), *(key for row in rows.values() for key in row)])
    )
    table: dict[str, Mapping[str, str]] = dict(rows)
    for entry in sorted(entries.values(), key=lambda one: one.path):
        old = rows.get(entry.path, {})
        label = entry.label if entry.sop_uid in labelled_now else old.get("label") or entry.label
        new = {"path": entry.path, "label": label, "patient_id": entry.patient_id}
        if sex_age:
            new |= {"sex": entry.sex or old.get("sex", ""), "age_band": entry.age_band or old.get("age_band", "")}
        table[entry.path] = {**old, **new}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.values())
    try:
        write_atomically(folder / MANIFEST, text.getvalue(), mode=0o600)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder / MANIFEST}: {error.strerror}; what is imported stays. Make room, and run the same "
            "command again"
        ) from error
    return sum(not row.get("label") for row in table.values())
