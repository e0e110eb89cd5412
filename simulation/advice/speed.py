"""How long backbones take, estimated from the one that was measured, and what their sums weigh.

Letters: D features, C classes, S = D + 1.
"""

from collections.abc import Mapping
from types import MappingProxyType

from common.backbones import backbone_row
from simulation.advice.situation import Situation

GIGA_OPERATIONS: Mapping[str, float] = MappingProxyType(
    {
        "resnet18": 1.814,
        "resnet34": 3.664,
        "resnet50": 4.089,
        "vgg16": 15.470,
        "inception_v3": 5.713,
        "densenet121": 2.834,
        "mobilenet_v2": 0.301,
        "mobilenet_v3_small": 0.057,
        "mobilenet_v3_large": 0.217,
        "efficientnet_b0": 0.386,
        "convnext_tiny": 4.456,
        "squeezenet1_0": 0.819,
        "squeezenet1_1": 0.349,
        "vit_b_16": 17.564,
        "swin_t": 4.491,
    }
)
"""Multiply-adds, in 1e9, of one image at the backbone's usual size. Source: torchvision's table of models."""

TRAINING_COSTS = 3.0
"""A training step in passes of the same images: forward, and about twice that backward."""


def operations(backbone: str, size_px: int) -> float:
    """Multiply-adds, in 1e9, of one image of `size_px`: they grow with its area."""
    return GIGA_OPERATIONS[backbone] * (size_px / backbone_row(backbone).size_px) ** 2


def pass_seconds(situation: Situation, backbone: str, size_px: int, views: int = 1) -> float | None:
    """Seconds until the slowest hospital has passed `views` of all its images through a backbone; None if unknown.

    Estimated by multiply-adds from the speed of the job's backbone: right to a factor of two or so.
    """
    measured = operations(situation.job.backbone.name, situation.job.size_px)
    slower = operations(backbone, size_px) / measured
    found = [
        one.total * views * slower / speed
        for one in situation.data.hospitals
        if (speed := situation.machines[one.name].images_per_s)
    ]
    return max(found) if found and len(found) == len(situation.data.hospitals) else None


def epoch_seconds(situation: Situation, backbone: str, size_px: int) -> float | None:
    """Seconds of one epoch over its training images with all of a backbone trained, at the slowest hospital."""
    once = pass_seconds(situation, backbone, size_px)
    total = sum(one.total for one in situation.data.hospitals)
    return None if once is None or not total else TRAINING_COSTS * once * situation.data.n / total


def sums_bytes(features: int, classes: int) -> int:
    """Bytes of the sums that a hospital sends for the closed-form head: S (S + 1) / 2 and S C float32."""
    width = features + 1
    return 4 * (width * (width + 1) // 2 + width * classes)


def shown_seconds(seconds: float | None) -> str:
    """A duration as a person says it."""
    if seconds is None:
        return "an unknown time"
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def shown_megabytes(number: float) -> str:
    """Bytes in MB (1e6), with the figures that matter."""
    return f"{number / 1e6:.2g} MB" if number < 1e7 else f"{number / 1e6:,.0f} MB"
