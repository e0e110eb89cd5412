"""A frozen network's blocks made faster: batch normalisations folded into convolutions, and what follows joined to them.

Two steps, each of which leaves the features as they are but for the rounding of float32:

* `folded`: a batch normalisation in eval() that directly follows a convolution is a scale and a shift of each channel, which
  the convolution's weights and bias take over. Source: Jacob et al. 2018, arXiv 1712.05877, section 3.2.
* `joined`: oneDNN's convolutions do the activation and the addition of a residual connection that follow, before their result
  leaves the processor's cache, with weights packed for the processor. PyTorch's compiler calls the same operators; called
  here by hand they need no C++ compiler and no minute of compiling. They are not a public interface of PyTorch, so whoever
  uses them checks what comes out (`client/forward.py`), and goes on without them.

Only copies are changed: the network, its digest, and what a job tunes stay as they are. A block is one link of the chain of
`client/chains.py`, so all activations between blocks, at which features are taken and networks are cut, are still there.

Letters: N images, (3, H, W) images.
"""

import logging
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import stochastic_depth

log = logging.getLogger(__name__)

_ADDITIONS = (operator.add, operator.iadd, torch.add)

Activation = tuple[str, tuple[float, ...]]
"""oneDNN's name of an activation, and its numbers."""

_NONE: Activation = ("none", ())
_MODULES: Mapping[type[nn.Module], Activation] = MappingProxyType(
    {
        nn.ReLU: ("relu", ()),
        nn.ReLU6: ("hardtanh", (0.0, 6.0)),
        nn.Hardswish: ("hardswish", ()),
        nn.SiLU: ("swish", ()),
        nn.Sigmoid: ("sigmoid", ()),
    }
)
_FUNCTIONS: Mapping[Callable[..., Any], Activation] = MappingProxyType({functional.relu: ("relu", ())})


def folded(block: nn.Module) -> nn.Module:
    """A block in eval() whose batch normalisations are in its convolutions; the block itself where there are none to fold.

    It shares the layers that do not change, and is for the device that the block is on.
    """
    graph = _traced(block)
    if graph is None:
        return block
    layers = dict(graph.named_modules())
    number = 0
    for node in list(graph.graph.nodes):
        layer = layers.get(node.target) if node.op == "call_module" else None
        before: Any = node.args[0] if node.args else None
        convolution = _convolution(before, layers)
        if not isinstance(layer, nn.BatchNorm2d) or convolution is None or len(before.users) > 1:
            continue
        fused = fuse_conv_bn_eval(convolution, layer).requires_grad_(False)
        before.target = f"folded_{number}"
        graph.add_submodule(before.target, fused)
        layers[before.target] = fused
        number += 1
        _replace(graph, node, before)
    return _finished(graph) if number else block


def joined(block: nn.Module) -> nn.Module:
    """A block for CPUs whose convolutions do the activations and additions that follow; the block itself if it has none.

    The weights are packed when the first images pass, for images of that number and size; others pass, too.
    """
    graph = _traced(block)
    if graph is None:
        return block
    layers = dict(graph.named_modules())
    number = 0
    for node in list(graph.graph.nodes):
        convolution = _convolution(node, layers)
        if convolution is None or not isinstance(convolution.padding, tuple) or convolution.padding_mode != "zeros":
            continue
        last, activation, other = _what_follows(node, layers)
        name = f"joined_{number}"
        graph.add_submodule(name, _Joined(convolution, activation, added=other is not None))
        with graph.graph.inserting_after(last):
            new = graph.graph.call_module(name, (node.args[0], *([] if other is None else [other])))
        _replace(graph, last, new)
        number += 1
    return _finished(graph) if number else block


class _Joined(nn.Module):
    """A convolution with what follows it: convolution, then an addition, then an activation."""

    def __init__(self, convolution: nn.Conv2d, activation: Activation, added: bool) -> None:
        super().__init__()
        self._weight = convolution.weight.detach().contiguous(memory_format=torch.channels_last)
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        one = convolution
        self._shape: list[Any] = [list(one.padding), list(one.stride), list(one.dilation), one.groups]
        self._name, numbers = activation
        self._numbers, self._added = list(numbers), added
        self._packed: Tensor | None = None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, channels, H, W) float32, and as much as comes out to be added to it."""
        packed = self._packed
        if packed is None:
            # PyTorch declares fewer arguments than it takes.
            pack: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
            packed = self._packed = pack(self._weight.to_mkldnn(), *self._shape, list(x.shape))
        if not self._added:
            found: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
                x, packed, self._bias, *self._shape, self._name, self._numbers, ""
            )
            return found
        after = None if self._name == "none" else self._name
        sum_: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, packed, self._bias, *self._shape, "add", 1.0, after, self._numbers, ""
        )
        return sum_


def _traced(block: nn.Module) -> fx.GraphModule | None:
    """A block as a graph of its layers; None if it has no convolution or decides too much in Python."""
    if not any(isinstance(layer, nn.Conv2d) for layer in block.modules()):
        return None
    try:
        graph = fx.symbolic_trace(block)
    except Exception:
        # Tracing runs the block on stand-ins for tensors, which may raise anything. A block that stays is only slower.
        log.debug("a block cannot be traced and stays as it is", exc_info=True)
        return None
    for node in list(graph.graph.nodes):
        if node.target is stochastic_depth and not node.args[3:] and not node.kwargs.get("training", True):
            _replace(graph, node, node.args[0])
    return graph


def _convolution(node: Any, layers: Mapping[str, nn.Module]) -> nn.Conv2d | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    layer = layers.get(str(node.target))
    return layer if type(layer) is nn.Conv2d else None


def _what_follows(node: fx.Node, layers: Mapping[str, nn.Module]) -> tuple[fx.Node, Activation, fx.Node | None]:
    """The last node that a convolution can do as well, the activation, and what is added before it."""
    last, other = node, None
    user = _only_user(node)
    if user is not None and user.target in _ADDITIONS and len(user.args) == 2 and not user.kwargs:
        summands = [argument for argument in user.args if argument is not node]
        if len(summands) == 1 and isinstance(summands[0], fx.Node):
            last, other = user, summands[0]
    user = _only_user(last)
    activation = None if user is None else _activation(user, layers)
    return (last, _NONE, other) if user is None or activation is None else (user, activation, other)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation(node: fx.Node, layers: Mapping[str, nn.Module]) -> Activation | None:
    if node.op == "call_module":
        return _MODULES.get(type(layers[str(node.target)]))
    return _FUNCTIONS.get(node.target) if node.op == "call_function" and callable(node.target) else None


def _replace(graph: fx.GraphModule, old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    graph.graph.erase_node(old)


def _finished(graph: fx.GraphModule) -> fx.GraphModule:
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return graph.eval()
