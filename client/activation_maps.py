"""Where in an image the score of a class comes from: class activation maps, Grad-CAM, attention rollout.

Which one is decided by what the head reads. A pooled stage is a mean or a maximum over places, and the head is
linear, so the score is a sum over places, stages and channels: the map is exact, and adds up to the score. The last
features of VGG and ConvNeXt pass further layers after pooling: Grad-CAM, a first-order picture. The class token of a
vision transformer has no places: rollout says which patches it looked at, the same for every class.

Source: Zhou et al. 2016, arXiv 1512.04150, equation 2; Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2; Abnar and
Zuidema 2020, arXiv 2005.00928, equation 1.

Letters: N images, D features, C classes, (h, w) places.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from client.backbone import Backbone
from client.chains import OUTPUT
from common.backbones import FeatureBlock
from common.head import Float32, Head

CAM, GRAD_CAM, ROLLOUT = "class activation map", "Grad-CAM", "attention rollout"
Int64 = npt.NDArray[np.int64]


def kind_of(backbone: Backbone, blocks: Sequence[FeatureBlock]) -> str:
    """Which kind of map there is for a head that reads some features of a backbone."""
    if all(backbone.is_sum_over_places(block) for block in blocks):
        return CAM
    return ROLLOUT if backbone.layout == "tokens" else GRAD_CAM


def activation_maps(
    backbone: Backbone, images: Tensor, head: Head, blocks: Sequence[FeatureBlock], classes: Int64, scales: Float32
) -> Float32:
    """Maps (N, h, w) of images (N, 3, H, W) for one class each (N,); positive where they speak for the class.

    The score of a class is its logit less the mean of all logits, which softmax cannot tell from the logit. scales
    (N, blocks): by which each block of the features is multiplied before the head reads it. A class activation map,
    with the score's constant, adds up to the score. The grid is the coarsest among the stages.
    """
    weight = (head.weight - head.weight.mean(axis=0)).astype(np.float32)
    chosen = torch.from_numpy(weight[classes]).to(images.device)
    kind = kind_of(backbone, blocks)
    if kind == ROLLOUT:
        return rollout(backbone, images)
    if kind == GRAD_CAM:
        return grad_cam(backbone, images, chosen, blocks)
    with torch.inference_mode():
        by_stage = backbone.maps(images, {block.stage for block in blocks})
        parts = [
            _contribution(by_stage[block.stage].float(), chosen[:, block.start : block.stop], block.pool)
            * torch.from_numpy(np.ascontiguousarray(scales[:, index])).to(images.device).view(-1, 1, 1)
            for index, block in enumerate(blocks)
        ]
        height, width = min(part.shape[1] for part in parts), min(part.shape[2] for part in parts)
        total = torch.stack([_gathered(part, height, width) for part in parts]).sum(0)
        return np.asarray(total.cpu().numpy(), np.float32)


def _contribution(activation: Tensor, weight: Tensor, pool: str) -> Tensor:
    """What each place of an activation (N, D, h, w) adds to the score (N, h, w), by weights (N, D)."""
    if pool == "mean":
        return torch.einsum("nd,ndhw->nhw", weight, activation) / (activation.shape[2] * activation.shape[3])
    flat = activation.flatten(2)
    most, where = flat.max(dim=2)
    found = torch.zeros(flat.shape[0], flat.shape[2], device=flat.device)
    return found.scatter_add_(1, where, weight * most).view(-1, *activation.shape[2:])


def _gathered(part: Tensor, height: int, width: int) -> Tensor:
    """A map (N, h, w) summed into a coarser grid: each place goes where its centre lies, so that the sum stays."""
    return _into(part.shape[1], height, part) @ part @ _into(part.shape[2], width, part).T


def _into(fine: int, coarse: int, like: Tensor) -> Tensor:
    """(coarse, fine): 1 where a fine place belongs to a coarse one."""
    place = (torch.arange(fine, device=like.device) * 2 + 1) * coarse // (2 * fine)
    return functional.one_hot(place, coarse).T.to(like.dtype)


def grad_cam(backbone: Backbone, images: Tensor, weight: Tensor, blocks: Sequence[FeatureBlock]) -> Float32:
    """Grad-CAM (N, h, w) at the last activation with places, for the scores that weights (N, D) give; 0 or more."""
    cut = backbone.blocks.index(OUTPUT)
    with torch.inference_mode():
        reached, early = backbone.front(images, cut, blocks)
    with torch.enable_grad():
        # Tensors of inference mode cannot be differentiated; their copies can.
        activation = reached.clone().float().requires_grad_(True)
        late = backbone.rest(activation, cut, blocks)
        score = (torch.cat([early.clone().float(), late.float()], 1) * weight).sum()
        (gradient,) = torch.autograd.grad(score, activation)
    found = (gradient.mean((2, 3), keepdim=True) * activation).sum(1).clamp(min=0)
    return np.asarray(found.detach().cpu().numpy(), np.float32)


def rollout(backbone: Backbone, images: Tensor) -> Float32:
    """How much of each patch reaches the class token (N, h, w), through all layers; 0 or more."""
    attentions: list[Tensor] = []

    def ask(module: nn.Module, arguments: object, options: dict[str, object]) -> tuple[object, dict[str, object]]:  # noqa: ARG001
        return arguments, {**options, "need_weights": True, "average_attn_weights": True}

    def keep(module: nn.Module, arguments: object, result: tuple[Tensor, Tensor]) -> None:  # noqa: ARG001
        attentions.append(result[1].float())

    layers = [module for module in backbone.network.modules() if isinstance(module, nn.MultiheadAttention)]
    hooks = [layer.register_forward_pre_hook(ask, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.inference_mode():
            backbone(images)
            tokens = attentions[0].shape[1]
            same = torch.eye(tokens, device=images.device)
            through = same.expand(len(images), tokens, tokens)
            for attention in attentions:
                through = (attention + same) / 2 @ through
            side = round((tokens - 1) ** 0.5)
            return np.asarray(through[:, 0, 1:].reshape(-1, side, side).cpu().numpy(), np.float32)
    finally:
        for hook in hooks:
            hook.remove()
