"""4. What did the image look like? Gradient inversion where everything is tuned (`tune: full`).

The coordinator knows the network before and after, so the gradient, if the hospital made one step on one image (weight
decay taken out). Of a vision transformer the image follows in closed form, at full size; of a convolutional network an image is
searched whose gradient has the same direction, from the mean of other radiographs on. The attacker knows that radiographs are
grey, and the label, which the gradient of the bias tells (Zhao et al. 2020, arXiv 2001.02610).

The updates are made by `client.deep`. Letters: K hospitals, N images, C classes, S side in pixels.
"""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.attacks.inversion import Gradient, patches_in, put_together, searched, similarity
from benchmarks.attacks.table import Table, Value
from client.chains import IMAGENET_MEAN, IMAGENET_STD
from client.hospital_file import Data, HospitalFile, Policy
from client.images import load_image, to_input
from client.preparation import prepare, shared_backbone
from client.records import read_rows
from client.tuned import TunedPart
from common.drift import learning_rates, local_norm
from common.head import Head, Standardisation
from common.job import Job, parse_job
from common.model import Model

SOURCE = "Lu et al. 2022, arXiv 2112.14087; Geiping et al. 2020, arXiv 2003.14053; Zhu et al. 2019, arXiv 1906.08935"
CLASSES = ("normal", "pneumonia")
SETTINGS = {
    "plain update of vit_b_16, 224 px: 1 image, 1 step": (1, 1, 0),
    "the same: 1 image, 5 steps": (1, 5, 0),
    "the same: 2 images, 1 step": (2, 1, 0),
    "the same: 8 images, 1 step": (8, 1, 0),
    "secure sum: 1 image, and three hospitals of 4": (1, 1, 3),
}
"""Images of the hospital, its local epochs, and other hospitals in the sum."""
POSITIONS, PATCHES = "tuned.encoder.pos_embedding", "tuned.conv_proj.weight"

Image = tuple[Path, str]
"""A file and its label."""


def full_job(backbone: str, epochs: int = 1, size_px: int | None = None) -> Job:
    """Everything is tuned, from random weights, which the coordinator knows like any others."""
    return parse_job(
        {
            "name": "attacked",
            "classes": list(CLASSES),
            "other_labels": "skip",
            "backbone": {"name": backbone, "weights": {"name": "random", "seed": 1}},
            "image": {"size": size_px},
            "features": {"stages": "last", "pool": ["mean"], "mirror": False},
            "tune": {"part": "full", "views": 1, "schedule": "constant"},
            "method": {"name": "fedavg", "local_epochs": epochs},
        }
    )


def round_of(job: Job, images: Sequence[Image], folder: Path) -> tuple[Model, dict[str, np.ndarray]]:
    """A round of a hospital with these images, by the code of a run: what it got, and the mean gradient that its update shows."""
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("path", "label", "patient_id", "split"))
        lines.writerows((path.absolute(), label, f"p{place}", "train") for place, (path, label) in enumerate(images))
    policy = Policy(approve="auto", allow_tuning=("full",))
    prepared = prepare(job, HospitalFile(name="small", data=Data(folder=folder), cache=folder / "cache", policy=policy))
    if prepared.deep is None:
        raise ValueError("the job tunes the head alone; expected tune: full")
    # Not zeros: then the gradient of the network would be nothing. The coordinator chooses the head.
    weight = np.random.default_rng(5).normal(0, 0.1, (job.num_classes, job.num_features)).astype(np.float32)
    start = Model(Head(weight, np.zeros(job.num_classes, np.float32)), prepared.tuned)
    reply = prepared.deep.fit(start, Standardisation.identity(job.num_features), 0, 1, {}, None)
    return start, gradient_in(start, reply.model, job, reply.steps)


def gradient_in(start: Model, after: Model, job: Job, steps: int) -> dict[str, np.ndarray]:
    """The mean gradient of each array on the way, the weight decay taken out: exact for one step, but for rounding."""
    local, then, lr_of = job.method.local, after.arrays(), learning_rates(job, 1)
    return {
        name: (array.astype(np.float64) - then[name]) / (lr_of(name) * local_norm(local, steps))
        - local.weight_decay * array
        for name, array in start.arrays().items()
    }


def mean_gradient(gradients: Sequence[Mapping[str, np.ndarray]], examples: Sequence[int]) -> dict[str, np.ndarray]:
    """All that the sum over hospitals shows of their gradients."""
    total = sum(examples)
    return {
        name: sum((number / total * one[name] for one, number in zip(gradients, examples, strict=True)), np.zeros(()))
        for name in gradients[0]
    }


def seen_by_transformer(gradient: Mapping[str, np.ndarray]) -> Tensor:
    """The image (1, 3, S, S) in [0, 1] in the gradient of a vision transformer."""
    image = put_together(patches_in(gradient[POSITIONS][0, 1:], gradient[PATCHES]))
    image = image * np.array(IMAGENET_STD)[:, None, None] + np.array(IMAGENET_MEAN)[:, None, None]
    return torch.tensor(image.clip(0, 1).mean(axis=0, keepdims=True).repeat(3, axis=0))[None]


def gradient_of_network(job: Job, start: Model, label: int) -> tuple[Gradient, list[str]]:
    """The gradient of all that is tuned as a function of one image, and the names of its arrays."""
    backbone = shared_backbone(job.backbone, None)
    parameters = {f"tuned.{name}": one for name, one in sorted(TunedPart(job, backbone).parameters.items())}
    head = [torch.tensor(array, requires_grad=True) for array in (start.head.weight, start.head.bias)]
    target = torch.tensor([label])

    def gradient(images: Tensor) -> Sequence[Tensor]:
        for one in parameters.values():
            one.requires_grad_(True)
        loss = cross_entropy(backbone.features(images, job.feature_blocks) @ head[0].T + head[1], target)
        return torch.autograd.grad(loss, [*head, *parameters.values()], create_graph=True)

    return gradient, ["weight", "bias", *parameters]


def attack(
    folder: Path, targets: int, iterations: int, settings: Mapping[str, tuple[int, int, int]] = SETTINGS
) -> Table:
    """On images of one collection (the folder of a hospital)."""
    rows = [row for row in read_rows(folder) if row.label in CLASSES]
    pool = [(rows[place].path, rows[place].label) for place in np.random.default_rng(4).permutation(len(rows))]
    wanted, others, known = pool[:targets], pool[targets : targets + 60], pool[-60:]
    found: dict[str, list[tuple[float, float, float]]] = {}
    for target in wanted:
        prior, true = (
            torch.cat([_pixels(path, 224) for path, _ in known]).mean(0, keepdim=True),
            _pixels(target[0], 224),
        )
        found.setdefault("nothing: the mean of other radiographs", []).append(similarity(prior, true))
        for name, (images, epochs, hospitals) in settings.items():
            groups = [[target, *others[: images - 1]], *(others[10 + 4 * one :][:4] for one in range(hospitals))]
            gradient = _gradient(full_job("vit_b_16", epochs), groups)[1]
            found.setdefault(name, []).append(similarity(seen_by_transformer(gradient), true))
        name = f"plain update of squeezenet1_1, 64 px: 1 image, 1 step; {iterations} steps of search"
        found.setdefault(name, []).append(_by_search(target, known, iterations))
    columns = ("the attacker sees", "cosine", "PSNR, dB", "SSIM")
    table: list[tuple[Value, ...]] = [(name, *zip(*values, strict=True)) for name, values in found.items()]
    return Table("4. Gradient inversion with tune: full", SOURCE, columns, tuple(table))


def _by_search(target: Image, known: Sequence[Image], iterations: int) -> tuple[float, float, float]:
    job = full_job("squeezenet1_1", size_px=64)
    start, shown = _gradient(job, [[target]])
    gradient, names = gradient_of_network(job, start, CLASSES.index(target[1]))
    prior = torch.cat([_pixels(path, 64) for path, _ in known]).mean(0, keepdim=True)
    image = searched(gradient, [torch.tensor(shown[name].astype(np.float32)) for name in names], prior, iterations)
    return similarity(image, _pixels(target[0], 64))


def _gradient(job: Job, groups: Sequence[Sequence[Image]]) -> tuple[Model, dict[str, np.ndarray]]:
    """What each hospital got, and what the sum over hospitals with these images shows."""
    with tempfile.TemporaryDirectory() as folder:
        replies = [round_of(job, group, Path(folder) / str(place)) for place, group in enumerate(groups)]
    keep = (POSITIONS, PATCHES) if job.backbone.name == "vit_b_16" else replies[0][1]
    gradients = [{name: gradient[name] for name in keep} for _, gradient in replies]
    return replies[0][0], mean_gradient(gradients, [len(group) for group in groups])


def _pixels(path: Path, size_px: int) -> Tensor:
    return torch.from_numpy(to_input(load_image(path), size_px, "pad")).float()[None] / 255
