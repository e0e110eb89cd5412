"""Diagnosis of new images with a trained model: probabilities, and a label only where nothing speaks against one.

A radiologist is asked where the image cannot be read, the model is not confident, the image is of bad quality, lies turned, or is
unlike the training images (`common/unlike.py`).

Letters: N images, C classes, D features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from client.activation_maps import activation_maps, kind_of
from client.backbone import Backbone
from client.device import choose_device
from client.diagnosis_record import REFER as REFER
from client.diagnosis_record import Diagnosis as Diagnosis
from client.diagnosis_record import Heatmap, in_words, leaning_of
from client.dicom_series import is_series
from client.extractor import Extractor, Pixels
from client.feature_space import columns_of, fingerprint_of
from client.frame import Frame
from client.image_quality import Finding, quality_findings
from client.images import IMAGE_SUFFIXES, load_pictures, to_input
from client.local_state import load_kept
from client.own_parts import batch_norm_of, personalised
from client.records import images_below
from client.slices import reading_of
from client.tuned import installed
from client.weights import load_backbone
from common.artifact import Manifest, load_artifact
from common.dp.private_features import stage_normalised
from common.errors import ArtifactError, DataError
from common.head import Float32, Float64
from common.metrics import Int64
from common.modalities import MODALITIES
from common.model import Model

_IMAGES_AT_ONCE = 64
"""Decoded images that are in memory at once, however many are asked for."""

NEARER = 0.95
"""An image lies turned if, turned, it is this many times as far from the training images or nearer (docs/diagnosis.md)."""

LACKING: Mapping[str, str] = {
    "calibration": "probabilities are as the training left them",
    "operating_point": "the most probable class is said",
    "unlike": "nobody notices an image of another kind",
}
"""What a model file may lack, and what that means for a diagnosis."""


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The images among files and folders, in order. Of a folder all images below it; one that holds a DICOM series is one study.

    Raises:
        DataError: a folder has none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir() or is_series(path):
            found.append(path)
            continue
        inside = sorted(images_below(path))
        if not inside:
            raise DataError(f"{path}: no image below it; expected files with one of {', '.join(IMAGE_SUFFIXES)}")
        found += inside
    return found


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
        artifact = load_artifact(model)
        self.model: Model = artifact.model
        self.manifest: Manifest = artifact.manifest
        self.spread = artifact.spread
        job = self.manifest.job
        kept = load_kept(personal) if personal is not None else None
        if kept is not None:
            self.model = personalised(self.model, self.manifest, kept, personal)
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
        self._batch_norm = batch_norm_of(self.manifest, backbone, model, batch_norm)
        # An operating point belongs to the global head's probabilities.
        self.point = None if kept is not None else self.manifest.operating_point

    @property
    def lacking(self) -> list[str]:
        """What the model file lacks for a diagnosis, with the reason, in sentences."""
        return [
            f"no {name.replace('_', ' ')}: {self.manifest.why_missing(name)}; {meaning}"
            for name, meaning in LACKING.items()
            if getattr(self.manifest, name) is None
        ]

    def diagnose(
        self,
        images: Sequence[Path],
        threshold: float,
        heatmaps: bool = False,
        told: Callable[[int], None] | None = None,
    ) -> list[Diagnosis]:
        """One diagnosis per image, in order.

        threshold: in [0, 1]; with less confidence the label is `REFER`. told: is told how many images more are done.
        """
        found: list[Diagnosis] = []
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            part = images[start : start + _IMAGES_AT_ONCE]
            found += self._diagnose(part, threshold, heatmaps)
            if told is not None:
                told(len(part))
        return found

    def probabilities(self, pixels: Pixels) -> Float64:
        """Probabilities (N, C) of pixels (N, 3, H, W) uint8 as `client.images.to_input` makes them."""
        return self.model.head.probabilities(self._of_the_head(self._features(pixels)))

    @contextmanager
    def network(self) -> Iterator[Backbone]:
        """The backbone with what the model and this hospital have of their own in it, while the body runs."""
        backbone = self._extractor.backbone
        with installed(backbone, {**self.model.tuned, **self._batch_norm}):
            yield backbone

    def _diagnose(self, images: Sequence[Path], threshold: float, heatmaps: bool) -> list[Diagnosis]:
        job = self.manifest.job
        pixels, seen, problems = dict[int, list[Pixels]](), {}, {}
        for index, path in enumerate(images):
            try:
                pictures = list(load_pictures(path, reading_of(job)))
                image = pictures[len(pictures) // 2]
                pixels[index] = [to_input(picture, job.size_px, job.image.fit) for picture in pictures]
                seen[index] = (
                    Frame.of(image.width, image.height, job.size_px, job.image.fit),
                    quality_findings(image, job.size_px, job.modality),
                )
            except DataError as error:
                problems[index] = str(error)
        found = dict(zip(pixels, self._found(list(pixels.values()), heatmaps), strict=True)) if pixels else {}
        return [
            self._judged(path, found[index], *seen[index], threshold)
            if index in found
            else Diagnosis(path, {}, REFER, problems[index], reasons=("the image cannot be read",))
            for index, path in enumerate(images)
        ]

    def _found(
        self, studies: Sequence[Sequence[Pixels]], heatmaps: bool
    ) -> list[tuple[dict[str, float], float | None, int | None, Heatmap | None]]:
        """Of each study, given by its slices: probabilities, distance, how it lies turned, heat map of the middle slice."""
        classes = self.manifest.job.classes
        pixels, ends = np.stack([one for some in studies for one in some]), np.cumsum([len(some) for some in studies])
        rows = self.model.head.probabilities(self._of_the_head(_of_studies(self._features(pixels), ends)))
        named = [dict(zip(classes, row, strict=True)) for row in rows.tolist()]
        distances, turned = self._distances(pixels, ends)
        maps: list[Heatmap | None] = [None] * len(studies)
        if heatmaps:
            shown = [leaning_of(one, self.point)[0] for one in named]
            grids = self._maps(
                np.stack([some[len(some) // 2] for some in studies]), [classes.index(name) for name in shown]
            )
            kind = kind_of(self._extractor.backbone, self.manifest.job.feature_blocks)
            maps = [Heatmap(grid, name, kind) for grid, name in zip(grids, shown, strict=True)]
        return list(zip(named, distances, turned, maps, strict=True))

    def _judged(
        self,
        path: Path,
        found: tuple[dict[str, float], float | None, int | None, Heatmap | None],
        frame: Frame,
        findings: Sequence[Finding],
        threshold: float,
    ) -> Diagnosis:
        probabilities, distance, turned, heatmap = found
        leaning, confidence, above = leaning_of(probabilities, self.point)
        limit = self.manifest.unlike.distance if self.manifest.unlike is not None else None
        reasons = [finding.words for finding in findings if finding.refer]
        if turned:
            reasons.append(
                f"it lies turned: by {turned} degrees anticlockwise it would be more like the training images"
            )
        if distance is not None and limit is not None and distance > limit:
            reasons.append(
                f"unlike the training images: distance {distance:.2f}, images like them stay below {limit:.2f}"
            )
        if confidence < threshold:
            reasons.append(f"not confident: {leaning} {in_words(confidence)}, {confidence:.2f}, under {threshold:g}")
        return Diagnosis(
            image=path,
            probabilities=probabilities,
            label=REFER if reasons else leaning,
            reasons=tuple(reasons),
            leaning=leaning,
            confidence=confidence,
            words=f"{leaning} {in_words(confidence)}",
            above=above,
            distance=distance,
            limit=limit,
            turned=turned,
            findings=tuple(findings),
            frame=frame,
            heatmap=heatmap,
        )

    def _of_the_head(self, features: Float32) -> Float32:
        """Features (N, D) of studies as the head was trained on them."""
        job = self.manifest.job
        return stage_normalised(features, job.feature_blocks) if job.private else features

    def _features(self, pixels: Pixels) -> Float32:
        """Features (N, D) of pixels (N, 3, H, W), averaged with those of the mirror images if the job mirrors."""
        return self._mean(pixels, {**self.model.tuned, **self._batch_norm})

    def _mean(self, pixels: Pixels, arrays: Mapping[str, Float32]) -> Float32:
        """Raw features (N, D) of the backbone with some arrays in place of its own, averaged over the views."""
        with installed(self._extractor.backbone, arrays):
            found = [self._extractor(view)[:, self._columns] for view in self._views(pixels)]
        return np.asarray(np.mean(found, axis=0), np.float32)

    def _views(self, pixels: Pixels) -> list[Pixels]:
        mirrored = np.ascontiguousarray(pixels[..., ::-1])
        return [pixels, mirrored] if self.manifest.job.features.mirror else [pixels]

    def _distances(self, pixels: Pixels, ends: Int64) -> tuple[Sequence[float | None], Sequence[int | None]]:
        """The distance of each image from the training images, and by how much it lies turned, where that is known."""
        if self.spread is None:
            return [None] * len(ends), [None] * len(ends)
        spread, job = self.spread, self.manifest.job

        def squared(some: Pixels) -> Float64:
            return spread.squared_distances(_of_studies(self._mean(some, {}), ends))

        upright = squared(pixels)
        if not MODALITIES[job.modality].upright:
            return upright.tolist(), [None] * len(ends)
        turned = [squared(np.ascontiguousarray(np.rot90(pixels, quarter, (2, 3)))) for quarter in (1, 2, 3)]
        ways = np.stack([upright * NEARER, *turned])
        return upright.tolist(), (ways.argmin(axis=0) * 90).tolist()

    def _maps(self, pixels: Pixels, classes: Sequence[int]) -> Float32:
        """Maps (N, h, w) for one class each, in the frame of the input, averaged over the views."""
        job, backbone = self.manifest.job, self._extractor.backbone
        scales = np.ones((len(pixels), len(job.feature_blocks)), np.float32)
        if job.private:
            mean = self._mean(pixels, {**self.model.tuned, **self._batch_norm})
            norms = [np.linalg.norm(mean[:, block.start : block.stop], axis=1) for block in job.feature_blocks]
            scales = (1.0 / np.maximum(np.stack(norms, 1), 1e-30) / np.sqrt(len(norms))).astype(np.float32)
        wanted, size, found = np.array(classes), max(1, self._extractor.batch_size), []
        with installed(backbone, {**self.model.tuned, **self._batch_norm}):
            for start in range(0, len(pixels), size):
                rows = slice(start, start + size)
                views = [
                    activation_maps(
                        backbone,
                        self._extractor.to_images(view[rows]),
                        self.model.head,
                        job.feature_blocks,
                        wanted[rows],
                        scales[rows],
                    )
                    for view in self._views(pixels)
                ]
                if len(views) == 2:
                    views[1] = views[1][..., ::-1]
                found.append(np.mean(views, axis=0))
        return np.asarray(np.concatenate(found), np.float32)


def _of_studies(features: Float32, ends: Int64) -> Float32:
    """Features of studies (N, D): the means of those of their slices (M, D), of which each study ends before one of `ends`."""
    parts = np.split(features, ends[:-1])
    return np.stack(
        [part.mean(axis=0, dtype=np.float64).astype(np.float32) if len(part) > 1 else part[0] for part in parts]
    )
