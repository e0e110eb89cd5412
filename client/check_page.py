"""What `consilium check` found in one hospital as one HTML page with pictures: for the hospital's own people, and for
nobody else.

Self-contained, without scripts, readable in light and dark. Pictures are decoded one at a time, when they are drawn, and
there are at most `MOST_PICTURES` of a kind, so memory does not grow with the number of images.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from PIL import Image as Pillow

from client.check_findings import CheckResult, Image
from client.check_template import PAGE
from client.hospital_drift import FAR, OUTSIDE, Drift
from client.image_faults import FAULTS, fault_of
from client.images import load_image, load_pictures, to_input
from client.quality import Closer, Suspect, named
from client.slices import AS_IT_IS, reading_of
from common.artifact import write_atomically
from common.errors import ConfigError, DataError
from common.job import Job

MOST_PICTURES = 24
MOST_NAMES = 400
_SAMPLES = 6
_SIDE_PX = 144


class Picture(NamedTuple):
    """An image on the page: its name, what there is to say, and a data URI (empty if it cannot be drawn)."""

    name: str
    words: str
    data: str


class Gallery(NamedTuple):
    """Pictures, and the names of the images for which there was no room."""

    total: int
    pictures: Sequence[Picture]
    further: Sequence[tuple[str, str]]
    left_out: int


def page_paths(given: Path, hospitals: Sequence[str]) -> dict[str, Path]:
    """The file of each hospital's page: the one given, or with several hospitals one for each, with its name in it."""
    if len(hospitals) == 1:
        return {hospitals[0]: given}
    return {name: given.with_name(f"{given.stem}-{name}{given.suffix or '.html'}") for name in hospitals}


def write_page(path: Path, hospital: str, folder: Path, result: CheckResult, closer: Closer, job: Job | None) -> None:
    """Write the page of one hospital, readable by its owner only.

    Raises:
        ConfigError: the file cannot be written.
    """
    text = to_html(hospital, folder, result, closer, job)
    try:
        write_atomically(path, text, mode=0o600)
    except OSError as error:
        raise ConfigError(
            f"--html: cannot write {path}: {error.strerror}; name a file in a folder you may write to"
        ) from error


def to_html(hospital: str, folder: Path, result: CheckResult, closer: Closer, job: Job | None) -> str:
    """The page of one hospital. Of other hospitals that were looked at it says no more than their names."""
    images = [image for image in result.images if image.hospital == hospital]
    by_name = {image.name: image for image in images}
    found = result.hospitals.get(hospital)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    groups = _duplicates(hospital, result, by_name)
    elsewhere = _elsewhere(hospital, result, images, closer)
    faulty = [image for image in images if image.problem is None and fault_of(image.grey)]
    page = environment.from_string(PAGE).render(
        hospital=hospital,
        job=job,
        found=found,
        images=len(images),
        patients=len({image.row.patient_id for image in images}),
        sizes=_sizes,
        unreadable=[(image.name, str(image.problem)) for image in images if image.problem is not None],
        errors=_own(hospital, result.errors),
        warnings=_own(hospital, result.warnings),
        faults=_gallery((image.row.path, image.name, f"{fault_of(image.grey)}: {_means(image)}") for image in faulty),
        groups=groups[:MOST_PICTURES],
        more_groups=max(0, len(groups) - MOST_PICTURES),
        elsewhere=_gallery(elsewhere),
        labels=_suspects(closer.labels, folder),
        turned=_suspects(closer.turned, folder),
        strange=_suspects(closer.strange, folder),
        drift=closer.drift,
        bars=_bars(closer.drift),
        far=FAR,
        outside=OUTSIDE,
        unseen=closer.unseen,
        sheet=_sheet(images, job),
        size_px=job.size_px if job else 224,
    )
    # A name that is not UTF-8 gets question marks.
    return page.encode("utf-8", "replace").decode()


def _own(hospital: str, sentences: Iterable[str]) -> list[str]:
    """The sentences about this hospital alone: those about several name files of others."""
    return [one.removeprefix(f"{hospital}: ") for one in sentences if one.startswith(f"{hospital}: ")]


def _means(image: Image) -> str:
    return FAULTS[fault_of(image.grey) or ""][0]


def _sizes(found: Any) -> str:
    if not found.sizes_px:
        return "–"
    smallest, median, largest = (f"{width} × {height}" for width, height in found.sizes_px)
    return smallest if smallest == largest else f"{smallest} to {largest}, median {median}"


def _duplicates(
    hospital: str, result: CheckResult, by_name: Mapping[str, Image]
) -> list[tuple[str, Sequence[Picture]]]:
    """Groups inside this hospital, in words, with their pictures."""
    start = f"{hospital}/"
    every = [
        *(("the same file", group) for group in result.exact_duplicates),
        *(("nearly the same picture", group) for group in result.near_duplicates),
        *((f"the same picture, {words}", (one, two)) for one, two, words in result.turned_duplicates),
    ]
    found: list[tuple[str, Sequence[Picture]]] = []
    for words, group in every:
        own = [name.removeprefix(start) for name in group if name.startswith(start)]
        own = [name for name in own if name in by_name]
        if len(own) > 1 and len(found) < MOST_PICTURES:
            pictures = [
                Picture(name, by_name[name].row.label, _drawn(by_name[name].row.path)) for name in own[:_SAMPLES]
            ]
            found.append((words, pictures))
        elif len(own) > 1:
            found.append((words, []))
    return found


def _elsewhere(
    hospital: str, result: CheckResult, images: Sequence[Image], closer: Closer
) -> list[tuple[Path, str, str]]:
    """Images that another hospital has too, as far as is known here."""
    start, known = f"{hospital}/", {}
    pairs = [(one, two) for one, two, _ in result.turned_duplicates]
    for group in [*result.exact_duplicates, *result.near_duplicates, *pairs]:
        others = [name for name in group if not name.startswith(start)]
        for name in group:
            if name.startswith(start) and others:
                known[name.removeprefix(start)] = "found among the hospitals looked at together"
    for kind, digests in (closer.collisions or {}).items():
        for image in images:
            if image.digest in digests:
                known.setdefault(
                    image.name, f"told by a run of the job: {'the same pixels' if kind == 'exact' else 'alike'}"
                )
    return [(image.row.path, image.name, known[image.name]) for image in images if image.name in known]


def _suspects(some: Sequence[Suspect], folder: Path) -> Gallery:
    return _gallery((one.path, named(one.path, folder), one.words) for one in some)


def _gallery(some: Iterable[tuple[Path, str, str]]) -> Gallery:
    every = list(some)
    pictures = [Picture(name, words, _drawn(path)) for path, name, words in every[:MOST_PICTURES]]
    further = [(name, words) for _, name, words in every[MOST_PICTURES:MOST_NAMES]]
    return Gallery(len(every), pictures, further, max(0, len(every) - MOST_NAMES))


def _bars(drift: Drift | None) -> list[tuple[str, float, float]]:
    """Stages with their shift, and the length of a bar in per cent."""
    if drift is None:
        return []
    longest = max(FAR, *drift.by_stage.values())
    return [(stage, shift, 100 * shift / longest) for stage, shift in drift.by_stage.items()]


def _sheet(images: Sequence[Image], job: Job | None) -> list[tuple[str, list[Picture]]]:
    """By class a few images as the network will see them, of studies the middle slice, evenly taken from the manifest."""
    readable = [image for image in images if image.problem is None]
    present = sorted({image.row.label for image in readable})
    labels = [name for name in job.classes if name in present] if job else present
    fit, size_px = (job.image.fit, job.size_px) if job else ("pad", 224)
    reading = replace(reading_of(job), slices=1) if job else AS_IT_IS
    sheet = []
    for label in labels:
        some = [image for image in readable if image.row.label == label]
        chosen = some[:: max(1, len(some) // _SAMPLES)][:_SAMPLES]
        pictures = []
        for image in chosen:
            try:
                pixels = to_input(next(load_pictures(image.row.path, reading)), size_px, fit)
            except DataError:
                continue
            pictures.append(Picture(image.name, label, _uri(Pillow.fromarray(pixels.transpose(1, 2, 0)))))
        sheet.append((label, pictures))
    return sheet


def _drawn(path: Path) -> str:
    try:
        return _uri(load_image(path))
    except DataError:
        return ""


def _uri(picture: Pillow.Image) -> str:
    small = picture.copy()
    small.thumbnail((_SIDE_PX, _SIDE_PX), Pillow.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
