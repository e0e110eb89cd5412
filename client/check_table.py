"""What `consilium check` prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.check_findings import CheckResult, ClassFindings
from client.dicom_facts import DicomFindings
from client.quality import Closer, in_words


def print_check(
    result: CheckResult,
    console: Console,
    closer: Mapping[str, Closer] | None = None,
    folders: Mapping[str, Path] | None = None,
) -> None:
    """One table of hospitals and classes, what the backbone showed of each (name -> folder), then the warnings and the errors."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("hospital", "class", "images", "patients", "size, px", "bits"):
        table.add_column(heading, justify="right" if heading in ("images", "patients") else "left")
    for name, found in result.hospitals.items():
        for index, (label, one) in enumerate(found.classes.items()):
            first = _as_it_is("" if index else name)
            numbers = (str(one.images), str(one.patients), _sizes(one), _depths(one))
            table.add_row(first, _as_it_is(label), *numbers)
    console.print(table)
    parts = Table(
        box=None, header_style="bold", pad_edge=False, title="\nimages by part of the patients", title_justify="left"
    )
    for heading in ("hospital", "train", "validation", "test"):
        parts.add_column(heading, justify="left" if heading == "hospital" else "right")
    for name, found in result.hospitals.items():
        parts.add_row(_as_it_is(name), *(str(number) for number in found.images_by_part.values()))
    console.print(parts)
    for name, found in result.hospitals.items():
        if found.dicom is not None:
            console.print(_dicom(name, found.dicom))
    console.print()
    for name, seen in (closer or {}).items():
        for sentence in in_words(name, seen, (folders or {})[name]):
            console.print(_as_it_is(f"to look at: {sentence}"), style="cyan")
    for kind, colour, sentences in (("warning", "yellow", result.warnings), ("error", "red", result.errors)):
        for sentence in sentences:
            console.print(_as_it_is(f"{kind}: {sentence}"), style=colour)
    images = sum(one.images for found in result.hospitals.values() for one in found.classes.values())
    problems = f"{len(result.errors)} errors, {len(result.warnings)} warnings"
    verdict = f"{images} images in {len(result.hospitals)} hospitals: {problems}"
    console.print(verdict, style="red" if result.errors else "green", highlight=False)


def _dicom(name: str, found: DicomFindings) -> Table:
    """What the DICOM files of a hospital are, in a few lines."""
    table = Table(box=None, show_header=False, pad_edge=False, title=f"\nDICOM of {name}", title_justify="left")
    told = {
        "images": f"{found.images} of {found.patients} patients, {len(found.studies)} studies, {len(found.series)} series, "
        f"{found.files} files, {found.frames} frames",
        "modality": _most(found.modalities),
        "window": _most(found.windows),
        "bits stored": _most(found.bits_stored),
        "transfer syntax": _most(found.syntaxes),
        "identifying": _most(found.identifying),
        "burned-in text": f"{_most(found.burned_in)}; secondary captures: {found.secondary_captures}",
    }
    for what, value in told.items():
        table.add_row(what, _as_it_is(value))
    return table


def _most(counted: Mapping[Any, int], shown: int = 5) -> str:
    """The most frequent ones, with their numbers."""
    most = sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))
    more = f", and {len(most) - shown} more" if len(most) > shown else ""
    return ", ".join(f"{key} ({number})" for key, number in most[:shown]) + more or "none"


def _as_it_is(text: str) -> Text:
    """Words of the hospital: [red] and :smile: in them are no markup, and a name that is not UTF-8 gets question marks."""
    return Text(text.encode("utf-8", "replace").decode())


def _sizes(one: ClassFindings) -> str:
    """Smallest to largest, with the median."""
    if not one.sizes_px:
        return "-"
    smallest, median, largest = (f"{width}x{height}" for width, height in one.sizes_px)
    return smallest if smallest == largest else f"{smallest} to {largest}, median {median}"


def _depths(one: ClassFindings) -> str:
    return ", ".join(str(bits) for bits in one.bit_depths) or "-"
