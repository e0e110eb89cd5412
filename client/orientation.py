"""Images that lie on their side, stand on their head or are negatives, found by a head that a hospital's own images train.

Some of the hospital's images are turned, turned over and inverted, and a closed-form head learns to tell these copies from
the images as they are. Nothing else is needed: that a few of the images are themselves turned makes a head hardly worse.
The copies are also squeezed or stretched a little, so that the head does not go by the shape of the picture. A patient's
images are judged by heads that did not see that patient.

Letters: N images, D features, K kinds of copies.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from client.extractor import Extractor, Pixels
from client.feature_cache import FeatureCache, Key
from client.feature_space import columns_of
from client.features import SLICES_IF_ALL, averaged
from client.images import load_pictures, to_input
from client.progress import progress
from client.slices import reading_of
from common.errors import DataError
from common.head import Float32, Float64
from common.job import Job
from common.metrics import Int64

KINDS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda picture: picture,
    "turned by 90 degrees": lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    "upside down": lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
    "turned by 270 degrees": lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
    "a negative": ImageOps.invert,
}
"""What is made of the sampled images, counter-clockwise; the first is what all images should be."""

SAMPLED = 100
FEWEST = 20
"""Images without which nothing is learned."""
SURE = 0.25
"""By how much the score of another kind, out of about 1, must be above the one of `as it is`."""
_FOLDS = 5
_STRENGTH = 0.1
_SQUEEZE = 1.35


@dataclass(frozen=True)
class Turned:
    """Image number `image` looks `kind`; margin: by how much its score is above that of an image as it is."""

    image: int
    kind: str
    margin: float


def turned_images(
    paths: Sequence[Path],
    digests: Sequence[bytes],
    patients: Sequence[str],
    features: Float32,
    extractor: Extractor,
    cache: FeatureCache,
    job: Job,
) -> list[Turned]:
    """The images that look turned or inverted, the surest first. features (N, D): of the images as they are."""
    margins, kinds = margins_of(paths, digests, patients, features, extractor, cache, job)
    names = list(KINDS)
    found = [
        Turned(int(row), names[kinds[row]], float(margins[row])) for row in np.flatnonzero(margins > SURE).tolist()
    ]
    return sorted(found, key=lambda one: -one.margin)


def margins_of(
    paths: Sequence[Path],
    digests: Sequence[bytes],
    patients: Sequence[str],
    features: Float32,
    extractor: Extractor,
    cache: FeatureCache,
    job: Job,
) -> tuple[Float64, Int64]:
    """By how much the best other kind scores above `as it is` (N,), and which kind that is (N,)."""
    chosen = sorted(range(len(paths)), key=lambda row: digests[row])[:SAMPLED]
    copies = _copies({digests[row]: paths[row] for row in chosen}, extractor, cache, job)
    chosen = [row for row in chosen if (digests[row], 0) in copies]
    folds = np.array([_fold(patient) for patient in patients])
    margins, kinds = np.full(len(paths), -np.inf), np.zeros(len(paths), np.int64)
    for fold in range(_FOLDS):
        rows = [row for row in chosen if folds[row] != fold]
        judged = np.flatnonzero(folds == fold)
        if not rows or not len(judged):
            continue
        examples = np.stack([copies[digests[row], kind] for row in rows for kind in range(len(KINDS))])
        truth = np.tile(np.eye(len(KINDS)), (len(rows), 1))
        scores = _scores(examples, truth, features[judged])
        kinds[judged] = 1 + scores[:, 1:].argmax(axis=1)
        margins[judged] = scores[:, 1:].max(axis=1) - scores[:, 0]
    return margins, kinds


def _scores(examples: Float32, truth: Float64, features: Float32) -> Float64:
    """Ridge scores (N, K) of features by the head of examples, solved in the space of the examples, of which there are few."""
    mean, scale = examples.mean(axis=0), examples.std(axis=0)
    scale = np.where(scale > 1e-6 * np.abs(mean) + 1e-12, scale, np.inf).astype(np.float32)
    seen = ((examples - mean) / scale).astype(np.float64)
    centre = truth.mean(axis=0)
    gram = seen @ seen.T
    gram[np.diag_indices_from(gram)] += _STRENGTH * len(seen) * seen.shape[1] / 100
    weights = seen.T @ np.linalg.solve(gram, truth - centre)
    return np.asarray(centre + ((features - mean) / scale).astype(np.float64) @ weights, np.float64)


def _copies(chosen: Mapping[bytes, Path], extractor: Extractor, cache: FeatureCache, job: Job) -> Mapping[Key, Float32]:
    """Features of all kinds of copies of some images, by digest and number of the kind, from the cache or from the backbone."""
    columns = columns_of(job)
    wanted = [(digest, kind) for digest in chosen for kind in range(len(KINDS))]
    found = cache.get(wanted, columns)
    missing = [digest for digest in chosen if any((digest, kind) not in found for kind in range(len(KINDS)))]
    todo = iter(missing)
    with progress("turned copies through the backbone", len(missing)) as advance:
        slices = reading_of(job).slices or SLICES_IF_ALL
        while some := list(islice(todo, max(1, extractor.batch_size // (len(KINDS) * slices)))):
            keys: list[Key] = []
            pixels = []
            for digest in some:
                try:
                    made = [_copy(chosen[digest], digest, kind, job) for kind in KINDS]
                except DataError:  # named by whoever looked at the images before
                    continue
                keys += [(digest, number) for number, copies in enumerate(made) for _ in copies]
                pixels += made
            if keys:
                vectors = averaged(keys, extractor(np.concatenate(pixels)))
                cache.put(vectors)
                found.update({key: vector[columns] for key, vector in vectors.items()})
            advance(len(some))
    return found


def _copy(path: Path, digest: bytes, kind: str, job: Job) -> Pixels:
    """The network input (n, 3, H, W) of one kind of copy: of each picture that the job looks at."""
    rng = np.random.default_rng([int.from_bytes(digest[:8], "big"), list(KINDS).index(kind)])
    stretch = _SQUEEZE ** rng.uniform(-1.0, 1.0)
    found = []
    for upright in load_pictures(path, reading_of(job)):
        picture = KINDS[kind](upright)
        shape = (max(1, round(picture.width * stretch)), max(1, round(picture.height / stretch)))
        found.append(to_input(picture.resize(shape, Image.Resampling.BILINEAR), job.size_px, job.image.fit))
    return np.stack(found)


def _fold(patient: str) -> int:
    return hashlib.sha256(patient.encode("utf-8", "surrogateescape")).digest()[0] % _FOLDS
