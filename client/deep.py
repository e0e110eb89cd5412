"""Local training of the backbone's last blocks, or all of it, together with the head.

What comes before the cut is constant, so it is computed once (`client/activations.py`). Everything stays in eval(), dropout
too; only with `tune.batch_norm: local` the batch normalisations after the cut are in train mode during the training.

Letters: N images, D features, C classes.
"""

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from client.activations import Activations, Entering, Wanted
from client.augmentation import mirrored
from client.features import Extractor, out_of_memory
from client.training import add_to_gradients, class_weights, make_optimizer
from client.tuned import OF_BATCH_NORM, array_of, cut_of, installed
from common.drift import backbone_lr
from common.errors import ConfigError, WeightsError
from common.head import Float32, Standardisation
from common.job import Job
from common.model import TUNED, Model

log = logging.getLogger(__name__)

Result = TypeVar("Result")


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
        backbone, cut = extractor.backbone, cut_of(job, extractor.backbone)
        self._job, self._extractor, self._backbone, self._cut, self._parts = job, extractor, backbone, cut, parts
        self._activations = Activations(job, extractor, cut, cache_dir, budget_bytes)
        self._late = job.feature_blocks[len(self._activations.early) :]
        self._tuned = backbone.parameters_from(cut, batch_norm=False)
        self._norms = backbone.batch_norms_from(cut) if job.tune.local_batch_norm else {}
        # Where batch statistics are computed, one image is not enough.
        self._least = 2 if self._norms else 1
        self._that_fit = sys.maxsize

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
            installed(self._backbone, self._arrays(tuned, batch_norm)),
            torch.inference_mode(),
            closing(self._activations.batches(wanted, sizes, "images through the tuned blocks")) as batches,
        ):
            for entering in batches:
                found += self._by_parts(len(entering), len(entering), 1, partial(self._features_of, entering))
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
        sizes = _sizes(len(labels), local.batch_size * (self._job.tune.accumulate or 1), self._least)
        generator = torch.Generator().manual_seed(seed)
        loss_sum, steps = 0.0, 0
        with installed(self._backbone, self._arrays(start.tuned, batch_norm)), self._trainable(len(labels)):
            run = self._begin(start, standardisation, server_round, correction, labels)
            for _ in range(local.epochs):
                loss_sum = 0.0
                order = torch.randperm(len(labels), generator=generator)
                wanted = self._drawn([sources[row] for row in order.tolist()], generator)
                with closing(self._activations.batches(wanted, sizes, "images trained on")) as batches:
                    for rows, entering in zip(order.split(sizes), batches, strict=True):  # type: ignore[no-untyped-call]
                        loss_sum += self._step(run, entering, labels[rows]) * len(rows)
                        steps += 1
            model = Model.from_arrays({name: array_of(parameter) for name, parameter in run.shared.items()})
            own = self._own_batch_norm()
        if not all(np.isfinite(array).all() for array in [*model.arrays().values(), *own.values()]):
            raise self._diverged()
        return DeepTrained(model, loss_sum, steps, own)

    def _arrays(self, tuned: Mapping[str, Float32], batch_norm: Mapping[str, Float32]) -> dict[str, npt.NDArray[Any]]:
        """What is installed for a call: also what the call itself may change."""
        kept = self._own_batch_norm()
        if tuned.keys() != self._tuned.keys() or not batch_norm.keys() <= kept.keys():
            raise WeightsError(
                f"a model with {len(tuned)} arrays of the backbone and {len(batch_norm)} of its batch normalisation, but "
                f"tune: {self._job.tune.part} has {len(self._tuned)} and {len(kept)}; it is of another job"
            )
        counters = {f"{name}.num_batches_tracked": norm.num_batches_tracked for name, norm in self._norms.items()}
        counted = {name: counter.cpu().numpy() for name, counter in counters.items() if counter is not None}
        return {**counted, **kept, **tuned, **batch_norm}

    def _own_batch_norm(self) -> dict[str, Float32]:
        return {
            f"{name}.{one}": array_of(getattr(norm, one)) for name, norm in self._norms.items() for one in OF_BATCH_NORM
        }

    def _begin(
        self,
        start: Model,
        standardisation: Standardisation,
        server_round: int,
        correction: Mapping[str, Float32] | None,
        labels: Tensor,
    ) -> "_Run":
        local, device = self._job.method.local, self._extractor.device
        head = {
            "weight": torch.tensor(start.head.weight, device=device, requires_grad=True),
            "bias": torch.tensor(start.head.bias, device=device, requires_grad=True),
        }
        shared: dict[str, Tensor] = {**head, **{f"{TUNED}{name}": self._tuned[name] for name in sorted(self._tuned)}}
        own = self._own_parameters()
        groups: list[dict[str, object]] = [
            {"params": list(head.values()), "lr": local.lr},
            {"params": [*self._tuned.values(), *own], "lr": backbone_lr(self._job, server_round)},
        ]
        weights = class_weights(local, labels, len(start.head.bias))
        return _Run(
            shared,
            own,
            make_optimizer(local, groups),
            torch.amp.GradScaler(device.type, enabled=self._extractor.precision == "float16"),
            [parameter.detach().clone() for parameter in shared.values()] if local.proximal_mu else [],
            [torch.tensor(correction[name], device=device) for name in shared] if correction else [],
            torch.tensor(standardisation.mean.astype(np.float32), device=device),
            torch.tensor(standardisation.scale.astype(np.float32), device=device),
            None if weights is None else weights.to(device),
        )

    def _drawn(self, sources: Sequence[Source], generator: torch.Generator) -> list[Wanted]:
        """One view of each image, drawn from those of the job, half of them mirrored if the job mirrors."""
        views = torch.randint(self._job.tune.views or 1, (len(sources),), generator=generator).tolist()
        turned = (torch.rand(len(sources), generator=generator) < 0.5).tolist()
        return [
            ((source.digest, mirrored(view) if turn and self._job.features.mirror else view), source.path)
            for source, view, turn in zip(sources, views, turned, strict=True)
        ]

    def _step(self, run: "_Run", entering: Entering, labels: Tensor) -> float:
        """One step of the optimizer; returns the mean cross-entropy before it, weighted by the class weights if any.

        A step whose gradients overflow float16 (on a GPU) is made again with a smaller scale.
        """
        labels = labels.to(self._extractor.device)
        total = len(labels) if run.class_weights is None else float(run.class_weights[labels].sum())
        parameters = [*run.shared.values(), *run.own]
        while True:
            for parameter in parameters:
                parameter.grad = None
            loss = 0.0
            for part, gradients in self._by_parts(
                len(labels),
                self._job.method.local.batch_size,
                self._least,
                partial(self._gradients, run, entering, labels, total),
            ):
                loss += part
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)
            if not math.isfinite(loss):
                raise self._diverged()
            run.scaler.unscale_(run.optimizer)
            for parameter, anchor in zip(run.shared.values(), run.anchors, strict=bool(run.anchors)):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - anchor, alpha=self._job.method.local.proximal_mu)
            add_to_gradients(list(run.shared.values()), run.drift)
            scale = run.scaler.get_scale()
            run.scaler.step(run.optimizer)
            run.scaler.update()
            if run.scaler.get_scale() >= scale:
                return loss
            if scale < 1:
                raise self._diverged()

    def _gradients(
        self, run: "_Run", entering: Entering, labels: Tensor, total: float, rows: slice
    ) -> tuple[float, Sequence[Tensor | None]]:
        """What some rows give to the loss of a step and its gradients; it adds nothing up, so it can be repeated."""
        features = (self._raw(entering[rows]) - run.mean) / run.scale
        logits = features @ run.shared["weight"].T + run.shared["bias"]
        loss = cross_entropy(logits, labels[rows], weight=run.class_weights, reduction="sum") / total
        parameters = [*run.shared.values(), *run.own]
        return float(loss.detach()), torch.autograd.grad(run.scaler.scale(loss), parameters, allow_unused=True)

    def _features_of(self, entering: Entering, rows: slice) -> Float32:
        return array_of(self._raw(entering[rows]))

    def _raw(self, entering: Entering) -> Tensor:
        """Features (N, D) float32 of images, with a gradient where there is one."""
        activation, early = self._activations.on_device(entering)
        with torch.autocast(self._extractor.device.type, enabled=self._extractor.precision == "float16"):
            late = self._backbone.rest(activation, self._cut, self._late)
        return torch.cat([early, late.float()], 1)

    def _by_parts(self, count: int, at_once: int, least: int, function: Callable[[slice], Result]) -> Iterator[Result]:
        """`function` of slices of `count` images, `at_once` or as many as fit into memory, none of fewer than `least`."""
        start = 0
        while start < count:
            stop = start + max(least, min(at_once, self._that_fit))
            stop = count if count - stop < least else stop
            try:
                result = function(slice(start, stop))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve(stop - start, least, error)
                continue
            yield result
            start = stop

    def _halve(self, tried: int, least: int, error: RuntimeError) -> None:
        if tried < 2 * least:
            raise MemoryError(f"not even {tried} image(s) fit into the memory of the device for training") from error
        self._that_fit = tried // 2
        log.warning("out of memory: going on with %d images at once", self._that_fit)
        if self._extractor.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def _trainable(self, images: int) -> Iterator[None]:
        """The tuned part with gradients; batch normalisations that are trained compute statistics of the batch."""
        parameters = [*self._tuned.values(), *self._own_parameters()]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            for norm in self._norms.values():
                norm.train(images >= self._least)
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
            for norm in self._norms.values():
                norm.eval()

    def _own_parameters(self) -> list[nn.Parameter]:
        return [parameter for norm in self._norms.values() for parameter in norm.parameters()]

    def _diverged(self) -> ConfigError:
        return ConfigError(
            f"the training diverged in this hospital: its numbers are no longer finite; lower method.lr "
            f"({self._job.method.lr}) or tune.lr ({self._job.tune.lr}) in the job"
        )


@dataclass(frozen=True)
class _Run:
    """One training: what it needs from step to step, on the device.

    shared: what is sent, by the names of `Model.arrays`. own: of batch normalisations, what stays here. anchors: where
    `shared` began, for the proximal term; drift: what is added to its gradients; both may be empty.
    """

    shared: Mapping[str, Tensor]
    own: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    anchors: Sequence[Tensor]
    drift: Sequence[Tensor]
    mean: Tensor
    scale: Tensor
    class_weights: Tensor | None


def _sizes(count: int, size: int, least: int) -> list[int]:
    """`count` in batches of `size`; a last one of fewer than `least` joins the one before."""
    sizes = [min(max(size, least), count - start) for start in range(0, count, max(size, least))]
    if len(sizes) > 1 and sizes[-1] < least:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return sizes
