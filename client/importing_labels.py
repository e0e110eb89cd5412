"""Which label an imported image gets: one for all, or from a hospital's own list by study, accession number or path."""

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from client.importing_facts import Facts
from client.manifest import shortened
from common.errors import DataError

KEYS = ("studyinstanceuid", "accessionnumber", "path")


@dataclass(frozen=True)
class Labels:
    """fixed: for all. by: labels by column of the list (`KEYS`) and by what is in it."""

    fixed: str = ""
    by: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, facts: Facts, path: Path | None) -> str:
        """The label of an image, empty if there is none. A folder in the list labels all files below it."""
        if self.fixed:
            return self.fixed
        for key, found in (("studyinstanceuid", facts.study_uid), ("accessionnumber", facts.accession)):
            if found and found in self.by.get(key, {}):
                return self.by[key][found]
        paths = self.by.get("path", {})
        if path is not None and paths:
            here = Path(os.path.normpath(path.absolute()))
            for place in (here, *here.parents):
                if str(place) in paths:
                    return paths[str(place)]
        return ""


def read_labels(file: Path) -> Labels:
    """A CSV file with a column label and one or more of StudyInstanceUID, AccessionNumber and path, relative to its folder.

    Raises:
        DataError: it cannot be read, lacks the columns, or gives two labels to the same study, number or path.
    """
    try:
        text = file.read_bytes().decode("utf-8").removeprefix("\ufeff")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; --labels-from takes the path of a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a CSV file in UTF-8 ({type(error).__name__}); save it as CSV UTF-8") from error
    keys = [key for key in KEYS if key in columns]
    if "label" not in columns or not keys:
        raise DataError(
            f"{file}: expected a column 'label' and one of StudyInstanceUID, AccessionNumber or path; the columns are: "
            f"{', '.join(columns) or 'none'}"
        )
    by: dict[str, dict[str, str]] = {key: {} for key in keys}
    problems = []
    for line, row in rows:
        label = (row["label"] or "").strip()
        for key in keys:
            value = (row[key] or "").strip()
            if key == "path" and value:
                value = str(Path(os.path.normpath(file.absolute().parent / value)))
            if value and label and by[key].setdefault(value, label) != label:
                problems.append(f"line {line}: a second label for the same {key}")
    if problems:
        raise DataError(f"{file}: {'; '.join(shortened(problems))}; keep one")
    return Labels(by=by)
