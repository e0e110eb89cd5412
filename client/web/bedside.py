"""The one way from a page to a model: an image in memory in, an answer for people out. Nothing of it is written to a disk.

Everything that knows how a `Diagnostician` is asked is here.
"""

import base64
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from client.diagnosis import REFER, Diagnostician
from client.diagnosis_record import Heatmap, in_words
from client.images import IMAGE_SUFFIXES, Fit, shown_picture, to_input
from client.slices import reading_of
from client.web.asking import UnknownKind, about, accepted, ordered
from client.web.models import Answer, ModelSaid
from common.errors import DataError
from common.web.uploads import KINDS, suffix_of

SHOWN_PX = 640
"""Side of the square in which an image is shown, framed as the model sees it."""


@dataclass(frozen=True)
class Model:
    """A `Diagnostician` that answers one at a time. refer_below: the probability under which a radiologist decides."""

    diagnostician: Diagnostician
    refer_below: float
    most_bytes: int
    turn: threading.Lock

    def about(self) -> ModelSaid:
        """The model and its limits."""
        said = about(self.diagnostician.manifest, self.refer_below, self.most_bytes)
        return said.model_copy(update={"limits": [*said.limits, *map(sentence, self.diagnostician.lacking)]})

    def answer(self, data: bytes) -> Answer:
        """What the model says of the content of an image file.

        Raises:
            UnknownKind: it is no kind of file that is read here.
            DataError: it cannot be read.
        """
        suffix = suffix_of(data)
        if suffix not in IMAGE_SUFFIXES:
            raise UnknownKind(f"expected the content of one of {', '.join(accepted())}")
        start = time.perf_counter()
        with self.turn, as_file(data, suffix) as path:
            job = self.diagnostician.manifest.job
            shown = framed(shown_picture(path, reading_of(job)), job.image.fit)
            [found] = self.diagnostician.diagnose([path], self.refer_below, heatmaps=True)
        if found.problem is not None or found.leaning is None or found.confidence is None:
            raise DataError("the image cannot be read")
        refer = found.label == REFER
        heat = found.heatmap
        return Answer(
            label=None if refer else found.label,
            refer=refer,
            reasons=[sentence(one) for one in found.reasons],
            leaning=found.leaning,
            words=in_words(found.confidence),
            notes=[sentence(one.words) for one in found.findings if not one.refer],
            probabilities=ordered(found.probabilities),
            image=png(shown),
            heatmap=png(warm(heat)) if heat else None,
            heatmap_words=f"what speaks for {heat.shown} ({heat.kind})" if heat else None,
            kind=KINDS[suffix],
            seconds=round(time.perf_counter() - start, 3),
        )


def load_model(
    path: Path,
    weights_dir: Path | None,
    device: str,
    personal: Path | None,
    batch_norm: Path | None,
    refer_below: float,
    most_bytes: int,
) -> Model:
    """A model file, ready to be asked.

    Raises:
        ArtifactError, WeightsError: as `Diagnostician`.
    """
    diagnostician = Diagnostician(path, weights_dir, device, personal, batch_norm)
    return Model(diagnostician, refer_below, most_bytes, threading.Lock())


def sentence(words: str) -> str:
    """Words as a sentence."""
    return f"{words[:1].upper()}{words[1:]}."


def warm(heatmap: Heatmap, side_px: int = SHOWN_PX) -> Image.Image:
    """A heatmap over the square that the model sees, yellow to red where it speaks for the class, clear elsewhere."""
    positive = np.maximum(np.asarray(heatmap.grid, np.float32), 0.0)
    most = float(positive.max())
    small = Image.fromarray(positive / most if most > 0 else positive)
    heat = np.clip(np.asarray(small.resize((side_px, side_px), Image.Resampling.BILINEAR)), 0.0, 1.0)
    channels = (np.full_like(heat, 255.0), 230.0 * (1.0 - heat), np.zeros_like(heat), 255.0 * heat)
    return Image.fromarray(np.rint(np.stack(channels, axis=2)).astype(np.uint8))


def framed(image: Image.Image, fit: Fit, side_px: int = SHOWN_PX) -> Image.Image:
    """An image in the square that the model sees, at a side for people."""
    return Image.fromarray(to_input(image, side_px, fit).transpose(1, 2, 0))


def png(image: Image.Image) -> str:
    """A PNG in base64."""
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return base64.b64encode(data.getvalue()).decode()


@contextmanager
def as_file(data: bytes, suffix: str) -> Iterator[Path]:
    """A path that ends in `suffix` and holds `data`, while the body runs: the content is in memory, the path is a link to it.

    Where the system has no files in memory, the content is in a file without a name, which is gone with the process.
    """
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("upload", os.MFD_CLOEXEC)
        file = os.fdopen(handle, "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115  closed below
    with file, tempfile.TemporaryDirectory(prefix="consilium-") as folder:
        file.write(data)
        file.flush()
        file.seek(0)
        path = Path(folder) / f"image{suffix}"
        where = Path("/proc/self/fd")
        path.symlink_to((where if where.is_dir() else Path("/dev/fd")) / str(file.fileno()))
        yield path
