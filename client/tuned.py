"""What of the backbone a job tunes: where it is cut, the arrays that travel, and how arrays are put in its place for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.backbone import Backbone
from common.errors import ConfigError, WeightsError
from common.head import Float32
from common.job import Job

OF_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
"""What a hospital keeps of each batch normalisation with `tune.batch_norm: local`."""


def cut_of(job: Job, backbone: Backbone) -> int:
    """The first block that a job tunes; the number of blocks if it tunes the head alone.

    Raises:
        ConfigError: last-blocks are all blocks, or none of the features is read after the cut.
    """
    if job.tune.part == "full":
        return 0
    cut = backbone.cut_before(job.tune.blocks or 0)
    if cut == 0:
        most = len(backbone.tunable_blocks) - 1
        raise ConfigError(
            f"tune.blocks: {job.backbone.name} has {most + 1} blocks with weights, so expected at most {most} last ones, got "
            f"{job.tune.blocks}; to tune everything write tune: full"
        )
    if job.tune.deep and all(backbone.blocks.index(block.stage) < cut for block in job.feature_blocks):
        raise ConfigError(
            f"tune.blocks: the last {job.tune.blocks} blocks come after every stage in features.stages, so the head would never "
            "see what they learn; take a later stage or more blocks"
        )
    return cut


def pretrained(job: Job, backbone: Backbone) -> dict[str, Float32]:
    """The arrays of the backbone that a job trains and sends, as pretrained, by state_dict name.

    Those of batch normalisations never travel: they stay as pretrained, or in the hospital.
    """
    parameters = backbone.parameters_from(cut_of(job, backbone), batch_norm=False)
    return {name: array_of(parameter) for name, parameter in parameters.items()}


@contextmanager
def installed(backbone: Backbone, arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[None]:
    """The backbone with some arrays, by state_dict name, in place of its own, which are put back to the last bit.

    Raises:
        WeightsError: it has no such array, or one of another shape.
    """
    state = backbone.network.state_dict(keep_vars=True)
    for name, array in arrays.items():
        if name not in state or tuple(state[name].shape) != array.shape:
            expected = f"shape {tuple(state[name].shape)}" if name in state else "an array of this backbone"
            raise WeightsError(
                f"the model's array {name} of shape {array.shape} does not fit the backbone: expected {expected}; "
                "use the backbone that the model was trained with"
            )
    own = {name: state[name].detach().clone() for name in arrays}
    try:
        with torch.no_grad():
            for name, array in arrays.items():
                state[name].copy_(torch.tensor(array))
        yield
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                state[name].copy_(tensor)


class TunedPart:
    """The blocks of a backbone that a job tunes: what of them is trained, and for a while trainable.

    cut: their first block. parameters: what is trained and sent, by state_dict name. least: the images that a training
    batch needs, because where batch statistics are computed one is not enough.
    """

    def __init__(self, job: Job, backbone: Backbone) -> None:
        self._job = job
        self.cut = cut_of(job, backbone)
        self.parameters = backbone.parameters_from(self.cut, batch_norm=False)
        self._norms = backbone.batch_norms_from(self.cut) if job.tune.local_batch_norm else {}
        self.least = 2 if self._norms else 1

    def arrays(self, tuned: Mapping[str, Float32], batch_norm: Mapping[str, Float32]) -> dict[str, npt.NDArray[Any]]:
        """What is to be `installed` for a call: also what the call itself may change.

        Raises:
            WeightsError: the arrays are not those that the job tunes.
        """
        kept = self.batch_norm_arrays()
        if tuned.keys() != self.parameters.keys() or not batch_norm.keys() <= kept.keys():
            raise WeightsError(
                f"a model with {len(tuned)} arrays of the backbone and {len(batch_norm)} of its batch normalisation, but "
                f"tune: {self._job.tune.part} has {len(self.parameters)} and {len(kept)}; it is of another job"
            )
        counters = {f"{name}.num_batches_tracked": norm.num_batches_tracked for name, norm in self._norms.items()}
        counted = {name: counter.cpu().numpy() for name, counter in counters.items() if counter is not None}
        return {**counted, **kept, **tuned, **batch_norm}

    def batch_norm_arrays(self) -> dict[str, Float32]:
        """What stays in the hospital, by state_dict name."""
        return {
            f"{name}.{one}": array_of(getattr(norm, one)) for name, norm in self._norms.items() for one in OF_BATCH_NORM
        }

    def batch_norm_parameters(self) -> list[nn.Parameter]:
        """What is trained and stays in the hospital."""
        return [parameter for norm in self._norms.values() for parameter in norm.parameters()]

    @contextmanager
    def trainable(self, images: int) -> Iterator[None]:
        """With gradients; batch normalisations that are trained compute statistics of the batch."""
        parameters = [*self.parameters.values(), *self.batch_norm_parameters()]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            for norm in self._norms.values():
                norm.train(images >= self.least)
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
            for norm in self._norms.values():
                norm.eval()


def array_of(tensor: Tensor) -> Float32:
    """A copy that keeps its numbers when the tensor gets others."""
    return np.array(tensor.detach().cpu().numpy(), np.float32, order="C")
