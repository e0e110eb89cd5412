"""Local training of the backbone's last blocks, or all of it, together with the head.

What comes before the cut is constant, so it is computed once (`client/activations.py`). Everything stays in eval(), dropout
too; only with `tune.batch_norm: local` the batch normalisations after the cut are in train mode during the training.

Letters: N images, D features, C classes.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client.activations import Activations, Wanted
from client.augmentation import mirrored
from client.deep_step import DeepSteps, diverged
from client.extractor import Extractor
from client.tuned import TunedPart, array_of, installed
from common.head import Float32, Standardisation
from common.job import Job
from common.model import Model


@dataclass(frozen=True)
class Source:
    """One image of a part: its file, the sha256 of the file, and its label in 0..C-1."""

    path: Path
    digest: bytes
    label: int


@dataclass(frozen=True)
class DeepTrained:
    """A trained model, the sum over the images of their cross-entropy as met in the last epoch, and the steps made.

    batch_norm: with `tune.batch_norm: local` what stays in this hospital, by state_dict name; else empty.
    """

    model: Model
    loss_sum: float
    steps: int
    batch_norm: Mapping[str, Float32]


class DeepTraining:
    """Trains what a job tunes on one hospital's images, and gives their features with what was trained.

    The backbone is shared by all hospitals of a process: after each call it is as before. Equal arguments give equal bits
    on a CPU for an equal number of threads; one thread, as for the head alone, would be too slow.
    """

    def __init__(
        self, job: Job, extractor: Extractor, parts: Mapping[str, Sequence[Source]], cache_dir: Path, budget_bytes: int
    ) -> None:
        """parts: the images by part. budget_bytes: what activations may take of the disk, in the folder `cache_dir`."""
        self._job, self._extractor, self._backbone, self._parts = job, extractor, extractor.backbone, parts
        self._tuned = TunedPart(job, self._backbone)
        self._activations = Activations(job, extractor, self._tuned.cut, cache_dir, budget_bytes)
        self._steps = DeepSteps(job, extractor, self._tuned, self._activations)

    def features(self, tuned: Mapping[str, Float32], part: str, batch_norm: Mapping[str, Float32]) -> Float32:
        """Raw features (N, D) of a part's images, in order, with these arrays of the backbone.

        Each is averaged with its mirror image's if the job mirrors. batch_norm: this hospital's; empty for the pretrained.

        Raises:
            DataError: an image can no longer be read, or the cache cannot be used.
            WeightsError: the arrays are not those that the job tunes.
            MemoryError: not even one image fits into the memory of the device.
        """
        views = [0, mirrored(0)] if self._job.features.mirror else [0]
        wanted = [((source.digest, view), source.path) for source in self._parts[part] for view in views]
        sizes = _sizes(len(wanted), self._extractor.batch_size, 1)
        found = [np.zeros((0, self._job.num_features), np.float32)]
        with (
            installed(self._backbone, self._tuned.arrays(tuned, batch_norm)),
            torch.inference_mode(),
            closing(self._activations.batches(wanted, sizes, "images through the tuned blocks")) as batches,
        ):
            for entering in batches:
                found += self._steps.features(entering)
        features: Float32 = np.concatenate(found).reshape(-1, len(views), self._job.num_features).mean(axis=1)
        return features

    def fit(
        self,
        start: Model,
        standardisation: Standardisation,
        seed: int,
        server_round: int,
        batch_norm: Mapping[str, Float32],
        correction: Mapping[str, Float32] | None,
    ) -> DeepTrained:
        """Train from `start` on the part `train`: each epoch meets every image once, as a view drawn at random.

        Args:
            start: the head for standardised features, and the arrays that the job tunes.
            standardisation: of the features, the same at every hospital.
            seed: of the order and the views.
            server_round: from 1; the schedule of the backbone's learning rate.
            batch_norm: this hospital's, as the last round returned it; empty for the pretrained.
            correction: added to the gradients of the arrays of these names (those of `Model.arrays`), in scaffold.

        Raises:
            ConfigError: the training diverges.
            DataError, WeightsError, MemoryError: as in `features`.
        """
        local, sources = self._job.method.local, self._parts["train"]
        labels = torch.tensor([source.label for source in sources], dtype=torch.int64)
        sizes = _sizes(len(labels), local.batch_size * (self._job.tune.accumulate or 1), self._tuned.least)
        generator = torch.Generator().manual_seed(seed)
        loss_sum, steps = 0.0, 0
        with installed(self._backbone, self._tuned.arrays(start.tuned, batch_norm)), self._tuned.trainable(len(labels)):
            run = self._steps.begin(start, standardisation, server_round, correction, labels)
            for _ in range(local.epochs):
                loss_sum = 0.0
                order = torch.randperm(len(labels), generator=generator)
                wanted = self._drawn([sources[row] for row in order.tolist()], generator)
                with closing(self._activations.batches(wanted, sizes, "images trained on")) as batches:
                    for rows, entering in zip(order.split(sizes), batches, strict=True):  # type: ignore[no-untyped-call]
                        loss_sum += self._steps.step(run, entering, labels[rows]) * len(rows)
                        steps += 1
            model = Model.from_arrays({name: array_of(parameter) for name, parameter in run.shared.items()})
            own = self._tuned.batch_norm_arrays()
        if not all(np.isfinite(array).all() for array in [*model.arrays().values(), *own.values()]):
            raise diverged(self._job)
        return DeepTrained(model, loss_sum, steps, own)

    def _drawn(self, sources: Sequence[Source], generator: torch.Generator) -> list[Wanted]:
        """One view of each image, drawn from those of the job, half of them mirrored if the job mirrors."""
        views = torch.randint(self._job.tune.views or 1, (len(sources),), generator=generator).tolist()
        turned = (torch.rand(len(sources), generator=generator) < 0.5).tolist()
        return [
            ((source.digest, mirrored(view) if turn and self._job.features.mirror else view), source.path)
            for source, view, turn in zip(sources, views, turned, strict=True)
        ]


def _sizes(count: int, size: int, least: int) -> list[int]:
    """`count` in batches of `size`; a last one of fewer than `least` joins the one before."""
    sizes = [min(max(size, least), count - start) for start in range(0, count, max(size, least))]
    if len(sizes) > 1 and sizes[-1] < least:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes
