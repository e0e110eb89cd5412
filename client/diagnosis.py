"""Diagnosis of new images with a trained model: probabilities, and a label only where the model is confident enough.

Letters: N images, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.backbone import Backbone
from client.device import choose_device
from client.feature_space import columns_of, fingerprint_of
from client.features import Extractor, Pixels
from client.images import load_pictures, to_input
from client.local_state import Kept, load_kept
from client.slices import reading_of
from client.tuned import OF_BATCH_NORM, cut_of, installed
from client.weights import load_backbone
from common.artifact import Manifest, load_model
from common.dp.private_features import stage_normalised
from common.errors import ArtifactError, DataError
from common.head import Float32, Float64, Head
from common.model import Model, digest_of_arrays

REFER = "refer to a radiologist"
_IMAGES_AT_ONCE = 256
"""Decoded images that are in memory at once, however many are asked for."""


@dataclass(frozen=True)
class Diagnosis:
    """What the model says of one image.

    probabilities: by class, in [0, 1]; empty if the image could not be read, and then `problem` says why. label: the most
    probable class, or `REFER` if its probability is under the threshold.
    """

    image: Path
    probabilities: Mapping[str, float]
    label: str
    problem: str | None = None


class Diagnostician:
    """A model file with its backbone, ready for images.

    personal: this hospital's personalised head of the same job (`personal-*.safetensors` in its cache folder), in place
    of the global one. batch_norm: its own batch normalisation, without which a model with `tune.batch_norm: local` is none.

    Raises:
        ArtifactError: the file is no model, or the backbone here is not the one it was trained with.
        WeightsError: the backbone's weights cannot be had.
    """

    def __init__(
        self,
        model: Path,
        weights_dir: Path | None = None,
        device: str = "auto",
        personal: Path | None = None,
        batch_norm: Path | None = None,
    ) -> None:
        self.model: Model
        self.manifest: Manifest
        self.model, self.manifest = load_model(model)
        job = self.manifest.job
        kept = load_kept(personal) if personal is not None else None
        if kept is not None:
            self.model = _personalised(self.model, self.manifest, kept, personal)
        backbone = load_backbone(job.backbone.name, job.backbone.weights, weights_dir)
        found = fingerprint_of(job, backbone.digest)
        if found != self.manifest.fingerprint:
            raise ArtifactError(
                f"{model} was trained in the feature space {self.manifest.fingerprint[:16]}..., the backbone here makes "
                f"{found[:16]}...: its weights or this version's preprocessing differ; use the weights with digest "
                f"{self.manifest.backbone_digest[:16]}... and the version in the manifest ({self.manifest.versions})"
            )
        self._extractor = Extractor(backbone, choose_device(device), job.size_px)
        self._columns = columns_of(job)
        self._batch_norm = _batch_norm(self.manifest, backbone, model, batch_norm)

    def diagnose(self, images: Sequence[Path], threshold: float) -> list[Diagnosis]:
        """One diagnosis per image, in order. `threshold` in [0, 1]: under it the label is `REFER`."""
        parts = (images[start : start + _IMAGES_AT_ONCE] for start in range(0, len(images), _IMAGES_AT_ONCE))
        return [diagnosis for part in parts for diagnosis in self._diagnose(part, threshold)]

    def probabilities(self, pixels: Pixels) -> Float64:
        """Probabilities (N, C) of pixels (N, 3, H, W) uint8 as `client.images.to_input` makes them."""
        return self.model.head.probabilities(self._of_the_head(self._features(pixels)))

    @contextmanager
    def network(self) -> Iterator[Backbone]:
        """The backbone with what the model and this hospital have of their own in it, while the body runs."""
        backbone = self._extractor.backbone
        with installed(backbone, {**self.model.tuned, **self._batch_norm}):
            yield backbone

    def _diagnose(self, images: Sequence[Path], threshold: float) -> list[Diagnosis]:
        job = self.manifest.job
        features, problems = {}, {}
        waiting: dict[int, list[Pixels]] = {}
        for index, path in enumerate(images):
            try:
                pictures = load_pictures(path, reading_of(job))
                waiting[index] = [to_input(picture, job.size_px, job.image.fit) for picture in pictures]
            except DataError as error:
                problems[index] = str(error)
            # Studies of many slices are not all held at once.
            if sum(map(len, waiting.values())) >= _IMAGES_AT_ONCE:
                features.update(self._of_studies(waiting))
                waiting = {}
        features.update(self._of_studies(waiting))
        found: dict[int, Mapping[str, float]] = {}
        if features:
            rows = self.model.head.probabilities(np.stack(list(features.values()))).tolist()
            found = {index: dict(zip(job.classes, row, strict=True)) for index, row in zip(features, rows, strict=True)}
        return [
            _diagnosis(path, found[index], threshold) if index in found else Diagnosis(path, {}, REFER, problems[index])
            for index, path in enumerate(images)
        ]

    def _of_studies(self, studies: Mapping[int, list[Pixels]]) -> dict[int, Float32]:
        """Features (D,) by study: the mean of those of its slices (3, H, W)."""
        if not studies:
            return {}
        features = self._features(np.stack([pixels for some in studies.values() for pixels in some]))
        ends = np.cumsum([len(some) for some in studies.values()])[:-1]
        found = {
            index: np.asarray(rows.mean(axis=0, dtype=np.float64), np.float32) if len(rows) > 1 else rows[0]
            for index, rows in zip(studies, np.split(features, ends), strict=True)
        }
        return dict(zip(found, self._of_the_head(np.stack(list(found.values()))), strict=True))

    def _of_the_head(self, features: Float32) -> Float32:
        """Features (N, D) of studies as the head was trained on them."""
        job = self.manifest.job
        return stage_normalised(features, job.feature_blocks) if job.private else features

    def _features(self, pixels: Pixels) -> Float32:
        """Features (N, D) of pixels (N, 3, H, W), averaged with those of the mirror images if the job mirrors."""
        views = [pixels, np.ascontiguousarray(pixels[..., ::-1])] if self.manifest.job.features.mirror else [pixels]
        with self.network():
            found = [self._extractor(view)[:, self._columns] for view in views]
        return np.asarray(np.mean(found, axis=0), np.float32)


def _personalised(model: Model, manifest: Manifest, kept: Kept, path: Path | None) -> Model:
    if kept.job_id != manifest.job_id or kept.model != digest_of_arrays(model.arrays()):
        raise ArtifactError(
            f"{path} is no personalised head of this model: expected one of job {manifest.job_id[:16]} made from this model, "
            f"got one of job {kept.job_id[:16]}; leave --personal out, or give the file that belongs to the model"
        )
    return Model(Head(kept.arrays["weight"], kept.arrays["bias"]), model.tuned)


def _batch_norm(manifest: Manifest, backbone: Backbone, model: Path, path: Path | None) -> Mapping[str, Float32]:
    """This hospital's own batch normalisation, of the model's job and of its round or, if it missed that, the last before.

    A model of round 0, before any training, has the pretrained one everywhere.
    """
    job = manifest.job
    if not job.tune.local_batch_norm or manifest.rounds == 0:
        if path is not None:
            raise ArtifactError(f"{model} has no batch normalisation of a hospital's own; leave --batch-norm out")
        return {}
    wanted = "batch-norm-*.safetensors in the folder state-* of its cache"
    if path is None:
        raise ArtifactError(
            f"{model} was trained with tune.batch_norm: local, so each hospital has its own batch normalisation; give this "
            f"hospital's with --batch-norm ({wanted})"
        )
    kept = load_kept(path)
    names = {f"{norm}.{one}" for norm in backbone.batch_norms_from(cut_of(job, backbone)) for one in OF_BATCH_NORM}
    if kept.job_id != manifest.job_id or kept.number > manifest.rounds or kept.arrays.keys() != names:
        raise ArtifactError(
            f"{path} does not belong to this model: expected {len(names)} arrays of job {manifest.job_id[:16]} from round "
            f"{manifest.rounds} or the last before it, got {len(kept.arrays)} of job {kept.job_id[:16]}, round {kept.number}"
        )
    return kept.arrays


def _diagnosis(image: Path, probabilities: Mapping[str, float], threshold: float) -> Diagnosis:
    label = max(probabilities, key=lambda name: probabilities[name])
    return Diagnosis(image, probabilities, label if probabilities[label] >= threshold else REFER)
