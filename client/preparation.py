"""A job made ready at one hospital: which images, which parts, their features, and what the hospital says of itself.

Letters: N examples, V views, D features.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.backbone import Backbone
from client.deep import DeepTraining, Source
from client.device import choose_device
from client.extractor import Extractor
from client.feature_cache import FeatureCache
from client.feature_space import all_blocks, extraction_space, fingerprint_of, views_of
from client.features import Extraction, extract
from client.hospital_file import HospitalFile
from client.policy import require_backbone, require_enough
from client.records import Record, Records, assign, read_rows
from client.suppression import Suppression, hospital_key
from client.training import Examples
from client.tuned import cut_of, pretrained
from client.weights import load_backbone
from common.dp.private_features import stage_normalised
from common.head import Float32
from common.job import Backbone as BackboneChoice
from common.job import Job
from common.messages import Description, Space
from common.model import digest_of_arrays
from common.wire import PARTS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A job with everything about this hospital that does not change from round to round.

    parts: examples of raw features by part; in training every view is one, elsewhere an image with its mirror image is.
    tuned: the backbone's arrays that the job tunes, as pretrained; deep: what trains them, None for `tune: head`.
    suppression: how small counts are hidden, None where they are not. digests: sha256 of the file of each record.
    """

    job: Job
    fingerprint: str
    records: Records
    parts: Mapping[str, Examples]
    description: Description
    tuned: Mapping[str, Float32]
    deep: DeepTraining | None
    suppression: Suppression | None
    digests: tuple[bytes, ...]


def prepare(job: Job, file: HospitalFile) -> Prepared:
    """Read the hospital's images for a job, and make or fetch their features.

    Raises:
        Refusal: the backbone is another than the hospital's policy allows, or there are too few training images for it.
        DataError, WeightsError, ConfigError, MemoryError: as the steps it takes.
    """
    records = assign(read_rows(file.data.source, file.key_folder), job)
    extractor = extractor_of(job, file)
    backbone = extractor.backbone
    require_backbone(file.policy, job, backbone.digest)
    cache_dir = file.cache_folder
    extraction = _extract(job, file, records, extractor, cache_dir)
    pairs = list(zip(records.records, extraction.vectors, extraction.digests, strict=True))
    readable = [(record, vectors, digest) for record, vectors, digest in pairs if vectors is not None]
    records = Records(
        tuple(record for record, _, _ in readable), records.other_labels, records.patients_with_several_labels
    )
    require_enough(file.policy, job, records)
    suppression = suppression_of(job, file)
    if suppression is not None:
        chosen = suppression.kept(records.records)
        log.info("%d validation and test images are not counted, because of policy.min_count", (~chosen).sum())
        readable = [one for one, is_kept in zip(readable, chosen, strict=True) if is_kept]
        records = replace(records, records=tuple(record for record, _, _ in readable))
    parts = {part: _examples(job, part, [(one, vectors) for one, vectors, _ in readable]) for part in PARTS}
    tuned = pretrained(job, backbone)
    train = parts["train"].features.astype(np.float64)
    space = Space(job.job_id, fingerprint_of(job, backbone.digest), backbone.digest, digest_of_arrays(tuned))
    description = Description(
        space=space,
        images=records.images(job.num_classes),
        patients=records.patients(),
        sums=train.sum(axis=0),
        squares=(train**2).sum(axis=0),
        examples=len(parts["train"]),
        other_labels=sum(records.other_labels.values()),
        unreadable=sum(vectors is None for _, vectors, _ in pairs),
        decoded=extraction.decoded,
        cached=extraction.cached,
    )
    if suppression is not None:
        description = suppression.described(description)
    deep = None
    if job.tune.deep:
        sources = {
            part: [Source(one.path, digest, one.label) for one, _, digest in readable if one.part == part]
            for part in PARTS
        }
        deep = DeepTraining(job, extractor, sources, cache_dir, file.activation_cache_bytes)
    digests = tuple(digest for _, _, digest in readable)
    return Prepared(job, space.fingerprint, records, parts, description, tuned, deep, suppression, digests)


def suppression_of(job: Job, file: HospitalFile) -> Suppression | None:
    """How the hospital's policy wants small counts of a job hidden; None where it does not.

    Raises:
        DataError: as `client.suppression.hospital_key`.
    """
    base = file.policy.min_count
    return Suppression(base, hospital_key(file.state_folder), tuple(job.classes)) if base > 1 else None


def shapes_tuned(job: Job, file: HospitalFile) -> dict[str, tuple[int, ...]]:
    """Shapes of the backbone's arrays that a job tunes, by name.

    Raises:
        WeightsError: as `client.weights.load_backbone`.
    """
    backbone = shared_backbone(job.backbone, file.weights_dir)
    parameters = backbone.parameters_from(cut_of(job, backbone), batch_norm=False)
    return {name: tuple(parameter.shape) for name, parameter in parameters.items()}


@functools.lru_cache(maxsize=1)
def shared_backbone(choice: BackboneChoice, weights_dir: Path | None) -> Backbone:
    """The backbone of a job; loaded once for all hospitals simulated in this process.

    Raises:
        WeightsError: as `client.weights.load_backbone`.
    """
    return load_backbone(choice.name, choice.weights, weights_dir)


def extractor_of(job: Job, file: HospitalFile) -> Extractor:
    """The backbone of a job on the hospital's device.

    Raises:
        WeightsError, ConfigError: as `client.weights.load_backbone` and `client.device.choose_device`.
    """
    backbone = shared_backbone(job.backbone, file.weights_dir)
    return Extractor(backbone, choose_device(file.device), job.size_px)


def _extract(job: Job, file: HospitalFile, records: Records, extractor: Extractor, cache_dir: Path) -> Extraction:
    images = [(record.path, views_of(job, record.part)) for record in records.records]
    width = all_blocks(job.backbone.name)[-1].stop
    space = f"{extraction_space(job, extractor.backbone.digest)}-{extractor.precision}"
    with FeatureCache(cache_dir, space, width) as cache:
        return extract(images, extractor, cache, job, file.data.skip_unreadable)


def _examples(job: Job, part: str, readable: list[tuple[Record, Float32]]) -> Examples:
    """The examples of a part from its images' vectors (V, D): all views in training, their mean elsewhere.

    A head is linear, so its score of the mean of two views is the mean of its scores. A private job takes the mean in training,
    too, and scales it to norm 1, so that no image is longer than another.
    """
    chosen = [(vectors, record.label) for record, vectors in readable if record.part == part]
    every = part == "train" and not job.private
    features = [vectors if every else vectors.mean(axis=0, keepdims=True) for vectors, _ in chosen]
    labels = [label for (_, label), rows in zip(chosen, features, strict=True) for _ in range(len(rows))]
    empty = np.zeros((0, job.num_features), np.float32)
    found = np.concatenate(features) if features else empty
    return Examples(stage_normalised(found, job.feature_blocks) if job.private else found, np.array(labels, np.int64))
