"""One step of the optimizer for the head and the tuned blocks, with as many images at once as fit into memory.

Letters: N images, D features, C classes.
"""

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from client.activations import Activations, Entering
from client.extractor import Extractor, out_of_memory
from client.training import add_to_gradients, class_weights, make_optimizer
from client.tuned import TunedPart, array_of
from common.drift import backbone_lr
from common.errors import ConfigError
from common.head import Float32, Standardisation
from common.job import Job
from common.model import TUNED, Model

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
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


class DeepSteps:
    """From what enters the tuned blocks to features, and to steps of the optimizer.

    How many images fit into the memory of the device is found once, and kept.
    """

    def __init__(self, job: Job, extractor: Extractor, tuned: TunedPart, activations: Activations) -> None:
        self._job, self._extractor, self._tuned, self._activations = job, extractor, tuned, activations
        self._late = job.feature_blocks[len(activations.early) :]
        self._that_fit = sys.maxsize

    def begin(
        self,
        start: Model,
        standardisation: Standardisation,
        server_round: int,
        correction: Mapping[str, Float32] | None,
        labels: Tensor,
    ) -> Run:
        """A training from `start`; the arguments are those of `client.deep.DeepTraining.fit`."""
        local, device, tuned = self._job.method.local, self._extractor.device, self._tuned.parameters
        head = {
            "weight": torch.tensor(start.head.weight, device=device, requires_grad=True),
            "bias": torch.tensor(start.head.bias, device=device, requires_grad=True),
        }
        shared: dict[str, Tensor] = {**head, **{f"{TUNED}{name}": tuned[name] for name in sorted(tuned)}}
        own = self._tuned.batch_norm_parameters()
        groups: list[dict[str, object]] = [
            {"params": list(head.values()), "lr": local.lr},
            {"params": [*tuned.values(), *own], "lr": backbone_lr(self._job, server_round)},
        ]
        weights = class_weights(local, labels, len(start.head.bias))
        return Run(
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

    def features(self, entering: Entering) -> Iterator[Float32]:
        """Features (n, D) float32 of images, in order, as many at once as fit.

        Raises:
            MemoryError: not even one image fits into the memory of the device.
        """
        return self._by_parts(len(entering), len(entering), 1, partial(self._features_of, entering))

    def _features_of(self, entering: Entering, rows: slice) -> Float32:
        return array_of(self._raw(entering[rows]))

    def step(self, run: Run, entering: Entering, labels: Tensor) -> float:
        """One step of the optimizer; returns the mean cross-entropy before it, weighted by the class weights if any.

        A step whose gradients overflow float16 (on a GPU) is made again with a smaller scale.

        Raises:
            ConfigError: the training diverges.
            MemoryError: not even one image fits into the memory of the device.
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
                self._tuned.least,
                partial(self._gradients, run, entering, labels, total),
            ):
                loss += part
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)
            if not math.isfinite(loss):
                raise diverged(self._job)
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
                raise diverged(self._job)

    def _gradients(
        self, run: Run, entering: Entering, labels: Tensor, total: float, rows: slice
    ) -> tuple[float, Sequence[Tensor | None]]:
        """What some rows give to the loss of a step and its gradients; it adds nothing up, so it can be repeated."""
        features = (self._raw(entering[rows]) - run.mean) / run.scale
        logits = features @ run.shared["weight"].T + run.shared["bias"]
        loss = cross_entropy(logits, labels[rows], weight=run.class_weights, reduction="sum") / total
        parameters = [*run.shared.values(), *run.own]
        return float(loss.detach()), torch.autograd.grad(run.scaler.scale(loss), parameters, allow_unused=True)

    def _raw(self, entering: Entering) -> Tensor:
        """Features (N, D) float32 of images, with a gradient where there is one."""
        activation, early = self._activations.on_device(entering)
        with torch.autocast(self._extractor.device.type, enabled=self._extractor.precision == "float16"):
            late = self._extractor.backbone.rest(activation, self._tuned.cut, self._late)
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


def diverged(job: Job) -> ConfigError:
    """What a training says whose numbers are no longer finite."""
    return ConfigError(
        f"the training diverged in this hospital: its numbers are no longer finite; lower method.lr "
        f"({job.method.lr}) or tune.lr ({job.tune.lr}) in the job"
    )
