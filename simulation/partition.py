"""Make hospitals out of one pooled set of images, by patient: no patient is ever in two of them.

A partition is written as text, `name:options`; `PARTITIONERS` is the list of them. The result is one manifest.csv per
hospital, with absolute paths to the pooled images: no image is copied.
"""

import csv
import io
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from client.phantom import hospital_name
from client.records import manifest_of, read_rows
from common.config_file import unknown
from common.errors import ConfigError, DataError

log = logging.getLogger(__name__)

Option = int | float | str
Hospitals = dict[str, tuple[str, ...]]
"""Hospital name -> its patient ids, sorted."""

MAX_DRAWS = 100


@dataclass(frozen=True)
class Partition:
    """How to make hospitals of a pooled set: a row of `PARTITIONERS` and the values of its options."""

    name: str
    options: Mapping[str, Option]


@dataclass(frozen=True)
class Partitioner:
    """One way to make hospitals.

    `parser` turns the text after the colon into options. `function(values_by_patient, rng, **options)` gives each
    hospital its patients; the values are the patient's labels or, where there is an option "column", that column's.
    """

    parser: Callable[[str], dict[str, Option]]
    function: Callable[..., Hospitals]
    summary: str


def partition_dirichlet(
    labels_by_patient: Mapping[str, Sequence[str]], rng: np.random.Generator, *, hospitals: int, alpha: float
) -> Hospitals:
    """Label skew: the patients of each label are dealt out in shares drawn from Dirichlet(alpha, ..., alpha).

    A large alpha gives every hospital the pooled mix of labels, a small one gives most of a label to few hospitals. A
    patient with several labels counts by the most frequent one, ties by name. When a hospital comes out empty all
    shares are drawn anew, at most `MAX_DRAWS` times.

    Raises:
        ConfigError: there are fewer patients than hospitals, or every draw left a hospital empty.

    Source: Yurochkin et al. 2019, arXiv 1905.12022, section 4; Hsu et al. 2019, arXiv 1909.06335, section 3.
    """
    _check_enough(len(labels_by_patient), hospitals)
    patients_by_label = _by_most_frequent(labels_by_patient)
    for _ in range(MAX_DRAWS):
        dealt: list[list[str]] = [[] for _ in range(hospitals)]
        for patients in patients_by_label.values():
            ends = np.cumsum(rng.dirichlet(np.full(hospitals, alpha))) * len(patients)
            # A random offset rounds without favour: rounding to nearest gives a rare label to the middle hospital.
            cuts = np.floor(ends[:-1] + rng.random()).astype(np.int64)
            for hospital, part in zip(dealt, np.split(rng.permutation(np.array(patients, object)), cuts), strict=True):
                hospital.extend(part)
        if all(dealt):
            return _named(dealt)
    raise ConfigError(
        f"partition dirichlet: hospitals={hospitals}, alpha={alpha} left a hospital without patients in each of "
        f"{MAX_DRAWS} draws over {len(labels_by_patient)} patients; use fewer hospitals or a larger alpha"
    )


def partition_by_size(
    labels_by_patient: Mapping[str, Sequence[str]], rng: np.random.Generator, *, hospitals: int, exponent: float
) -> Hospitals:
    """Size skew: patients at random, hospital k = 1, 2, ... gets a number proportional to k^-exponent, at least one.

    Raises:
        ConfigError: there are fewer patients than hospitals.
    """
    _check_enough(len(labels_by_patient), hospitals)
    weights = np.arange(1, hospitals + 1, dtype=np.float64) ** -exponent
    sizes = _apportion(len(labels_by_patient), weights / weights.sum())
    return _named(np.split(rng.permutation(np.array(sorted(labels_by_patient), object)), np.cumsum(sizes)[:-1]))


def partition_by_column(
    values_by_patient: Mapping[str, Sequence[str]], _rng: np.random.Generator, *, column: str
) -> Hospitals:
    """One hospital per value of a column, named after it; a patient with several counts by the most frequent one.

    Raises:
        DataError: a patient has no value in the column.
        ConfigError: two values give the same hospital name, or a value gives none.
    """
    several = sum(len(set(values)) > 1 for values in values_by_patient.values())
    if several:
        log.warning("%d patients have several values of '%s'; each is in the most frequent one", several, column)
    blank = sum(not value.strip() for values in values_by_patient.values() for value in values)
    if blank:
        raise DataError(f"partition column: {blank} rows have no '{column}'; fill it in, or take another column")
    patients_by_value = _by_most_frequent(values_by_patient)
    for name, count in Counter(map(_safe_name, patients_by_value)).items():
        if count > 1:
            same = " and ".join(f"'{value}'" for value in patients_by_value if _safe_name(value) == name)
            raise ConfigError(f"partition column: {same} would all be hospital '{name}'; rename them in '{column}'")
    return {_safe_name(value): tuple(patients) for value, patients in patients_by_value.items()}


def parse_partition(text: str) -> Partition:
    """A partition from text such as `dirichlet:hospitals=5,alpha=0.5`, `size:hospitals=5,exponent=1.2`, `column:site`.

    Raises:
        ConfigError: the name or an option is unknown, missing or out of range; all problems with options at once.
    """
    name, options = (part.strip() for part in text.partition(":")[::2])
    if name not in PARTITIONERS:
        raise ConfigError(unknown("partition", name, list(PARTITIONERS)))
    return Partition(name, MappingProxyType(PARTITIONERS[name].parser(options)))


def apply_partition(source: Path, partition: Partition, folder: Path, seed: int) -> dict[str, Path]:
    """Write folder/<hospital>/manifest.csv for each hospital that `partition` makes of `source`.

    The order of the rows does not matter. Hospitals that are there already and differ are never overwritten.

    Args:
        source: a folder with a manifest.csv (its other columns are kept), the manifest itself, or a folder per class.
        partition: from `parse_partition`.
        folder: where the hospitals' folders go.
        seed: 0 or more.

    Returns:
        Hospital name -> its folder.

    Raises:
        ConfigError: the partition cannot be made of these rows.
        DataError: the rows cannot be read, or the folder holds the hospitals of another partition.
    """
    rows = _read_pooled(source)
    column = str(partition.options.get("column", "label"))
    if column not in rows[0]:
        raise ConfigError(f"partition column, {source}: " + unknown("column", column, list(rows[0])))
    values_by_patient: dict[str, list[str]] = {}
    for row in rows:
        values_by_patient.setdefault(row["patient_id"], []).append(row[column])
    function = PARTITIONERS[partition.name].function
    hospitals = function(values_by_patient, np.random.default_rng(seed), **partition.options)

    rows_of: dict[str, list[dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: row["path"]):
        rows_of.setdefault(row["patient_id"], []).append(row)
    try:
        manifests = {
            folder / name / "manifest.csv": _as_csv([row for patient in patients for row in rows_of[patient]])
            for name, patients in hospitals.items()
        }
        _check_free(folder, manifests)
        for path, content in manifests.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except (OSError, UnicodeEncodeError) as error:
        raise DataError(f"cannot write hospitals to {folder}: {error}; name a folder you may write to") from error
    return {name: folder / name for name in hospitals}


def _read_pooled(source: Path) -> list[dict[str, str]]:
    """The rows of `source`, column -> value, with absolute paths; from a folder per class only the three columns."""
    rows = read_rows(source.absolute())
    others: list[dict[str, str]] = [{} for _ in rows]
    manifest = manifest_of(source)
    if manifest is not None:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            others = [{name: cell.strip() for name, cell in cells.items()} for cells in reader]
    for other, row in zip(others, rows, strict=True):
        other.update(path=str(row.path), label=row.label, patient_id=row.patient_id)
    return others


def _as_csv(rows: Sequence[Mapping[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def _check_free(folder: Path, manifests: Mapping[Path, bytes]) -> None:
    """Raise unless every hospital already under `folder` is one we are about to write, with the same rows."""
    for path in sorted(folder.glob("*/manifest.csv")):
        if path.read_bytes() != manifests.get(path):
            raise DataError(f"{folder} holds other hospitals, '{path.parent.name}' is one; give a new or empty folder")


def _check_enough(patients: int, hospitals: int) -> None:
    if patients < hospitals:
        raise ConfigError(f"partition: {patients} patients are too few for {hospitals} hospitals; use fewer hospitals")


def _safe_name(value: str) -> str:
    """`value` as the name of a folder: lower case, of a-z, 0-9, - and _ only."""
    plain = unicodedata.normalize("NFKD", value).encode("ascii", "ignore").decode("ascii")
    name = re.sub(r"[^a-z0-9_]+", "-", plain.lower()).strip("-")
    if not name:
        raise ConfigError(f"no hospital can be named after '{value}'; rename it, with some of a-z, 0-9 and _ in it")
    return name


def _by_most_frequent(values_by_patient: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Value -> the patients whose most frequent value it is (ties go to the first by name), both sorted."""
    patients_by_value: dict[str, list[str]] = {}
    for patient in sorted(values_by_patient):
        counts = Counter(sorted(values_by_patient[patient]))
        patients_by_value.setdefault(max(counts, key=counts.__getitem__), []).append(patient)
    return dict(sorted(patients_by_value.items()))


def _apportion(total: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers (K,) of at least 1 that add up to `total`, by largest remainder; the largest give to empty ones."""
    exact = total * shares
    sizes = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: total - sizes.sum()]] += 1
    while (sizes == 0).any():
        sizes[np.argmax(sizes)] -= 1
        sizes[np.argmin(sizes)] += 1
    return sizes


def _named(parts: Sequence[Collection[str]]) -> Hospitals:
    return {hospital_name(index): tuple(sorted(part)) for index, part in enumerate(parts)}


def _numbers(partition: str, text: str, **ranges: tuple[type[int] | type[float], float, float]) -> dict[str, Option]:
    """`hospitals=5,alpha=0.5` as numbers, each within its (kind, low, high), none missing."""
    pieces = [[word.strip() for word in piece.partition("=")] for piece in text.split(",") if piece.strip()]
    given = {key: value for key, _, value in pieces}
    problems = [unknown("option", key, list(ranges)) for key in given if key not in ranges]
    if len(given) < len(pieces):
        problems.append("an option is given twice; keep one")
    options: dict[str, Option] = {}
    for key, (kind, low, high) in ranges.items():
        try:
            value: int | float = kind(given.get(key, ""))
        except ValueError:
            value = float("nan")
        options[key] = value
        if not low <= value <= high:
            got = f"'{given[key]}'" if key in given else f"none; add {key}=..."
            what = "a whole number" if kind is int else "a number"
            problems.append(f"{key}: expected {what} from {low:g} to {high:g}, got {got}")
    if problems:
        raise ConfigError(f"partition {partition}: " + "; ".join(problems))
    return options


def _column(text: str) -> dict[str, Option]:
    if not text:
        raise ConfigError("partition column: expected the name of a column, got none; write column:NAME")
    return {"column": text}


HOSPITALS = (int, 1, 10_000)
PARTITIONERS: Mapping[str, Partitioner] = MappingProxyType(
    {
        "dirichlet": Partitioner(
            partial(_numbers, "dirichlet", hospitals=HOSPITALS, alpha=(float, 1e-3, 1e6)),
            partition_dirichlet,
            "label skew, the stronger the smaller alpha: dirichlet:hospitals=5,alpha=0.5",
        ),
        "size": Partitioner(
            partial(_numbers, "size", hospitals=HOSPITALS, exponent=(float, 0.0, 10.0)),
            partition_by_size,
            "sizes proportional to k^-exponent: size:hospitals=5,exponent=1.2",
        ),
        "column": Partitioner(_column, partition_by_column, "one hospital per value of a column: column:site"),
    }
)
"""A new way to make hospitals is one row here."""
