"""4. What did the image look like? Gradient inversion where everything is tuned (`tune: full`).

The coordinator knows the network before and after, so the gradient, if the hospital made one step on one image; it searches an
image whose gradient has the same direction, and that is smooth (Geiping et al. 2020, arXiv 2003.14053, equation 4; Zhu et al. 2019,
arXiv 1906.08935). It knows that radiographs are grey, and the label, which the gradient of the bias tells (Zhao et al. 2020, arXiv
2001.02610). Similarity to the true image: cosine of pixels less their mean, PSNR in dB, SSIM (Wang et al. 2004, IEEE TIP 13(4)).

Letters: N images (N, 3, S, S) in [0, 1], C classes.
"""

import csv
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy

from benchmarks.attacks.table import Table, Value
from client.deep import DeepTrained
from client.hospital_file import Data, HospitalFile, Policy
from client.images import load_image, to_input
from client.preparation import Prepared, prepare, shared_backbone
from client.records import read_rows
from client.tuned import TunedPart
from common.drift import local_norm
from common.head import Head, Standardisation
from common.job import Job, parse_job
from common.model import Model

SOURCE = "Geiping et al. 2020, arXiv 2003.14053; Zhu et al. 2019, arXiv 1906.08935"
SIZE_PX = 64
Gradient = Callable[[Tensor], Sequence[Tensor]]


def inverted(
    gradient_of: Gradient, wanted: Sequence[Tensor], size_px: int, iterations: int, generator: torch.Generator, images: int = 1
) -> Tensor:
    """Grey images (N, 3, S, S) whose gradients, by `gradient_of`, have the direction of `wanted`; Adam on signed gradients."""
    grey = (0.5 + 0.1 * torch.randn(images, 1, size_px, size_px, generator=generator)).requires_grad_(True)
    optimizer = torch.optim.Adam([grey], lr=0.05)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [iterations * part // 8 for part in (3, 5, 7)], 0.1)
    size = math.sqrt(sum(float(one.square().sum()) for one in wanted))
    best, least = grey.detach().clone(), math.inf
    for _ in range(iterations):
        found = gradient_of(grey.expand(-1, 3, -1, -1))
        product = sum((one * other).sum() for one, other in zip(found, wanted, strict=True))
        norm = torch.sqrt(sum(one.square().sum() for one in found) + 1e-30)  # type: ignore[call-overload]
        loss = 1 - product / (norm * size) + 0.001 * roughness(grey)
        if float(loss) < least:
            best, least = grey.detach().clone(), float(loss)
        optimizer.zero_grad()
        loss.backward()
        grey.grad = torch.sign(grey.grad)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            grey.clamp_(0, 1)
    return best.expand(-1, 3, -1, -1)


def roughness(images: Tensor) -> Tensor:
    """Total variation: the mean difference of neighbours."""
    down, right = (images[..., 1:, :] - images[..., :-1, :]).abs(), (images[..., 1:] - images[..., :-1]).abs()
    return down.mean() + right.mean()


def similarity(found: Tensor, true: Tensor) -> tuple[float, float, float]:
    """Cosine of the pixels less their mean, PSNR in dB and SSIM (7 x 7 windows) of two images (1, 3, S, S) in [0, 1]."""
    a, b = found.double(), true.double()
    centred, wanted = a - a.mean(), b - b.mean()
    cosine = (centred * wanted).sum() / (centred.norm() * wanted.norm() + 1e-12)
    psnr = -10 * math.log10(float((a - b).square().mean()) + 1e-12)
    mean_a, mean_b = avg_pool2d(a, 7, 1), avg_pool2d(b, 7, 1)
    variance_a = avg_pool2d(a * a, 7, 1) - mean_a**2
    variance_b = avg_pool2d(b * b, 7, 1) - mean_b**2
    both = avg_pool2d(a * b, 7, 1) - mean_a * mean_b
    one, two = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + one) * (2 * both + two)
    index = index / ((mean_a**2 + mean_b**2 + one) * (variance_a + variance_b + two))
    return float(cosine), psnr, float(index.mean())


def full_job(epochs: int = 1, size_px: int = SIZE_PX) -> Job:
    """Everything is tuned, from random weights: the smallest backbone, which has no batch normalisation either."""
    return parse_job(
        {
            "name": "attacked",
            "classes": ["normal", "pneumonia"],
            "other_labels": "skip",
            "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 1}},
            "image": {"size": size_px},
            "features": {"stages": "last", "pool": ["mean"], "mirror": False},
            "tune": {"part": "full", "views": 1, "lr": 0.001, "schedule": "constant"},
            "method": {"name": "fedavg", "local_epochs": epochs, "lr": 0.001},
            "evaluation": {"test_fraction": 0.2, "validation_fraction": 0.1},
        }
    )


def hospital(job: Job, images: Sequence[tuple[Path, str]], folder: Path) -> Prepared:
    """A hospital with these images and labels, all for training, ready for the job."""
    folder.mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("path", "label", "patient_id", "split"))
        lines.writerows((path, label, f"p{place}", "train") for place, (path, label) in enumerate(images))
    policy = Policy(approve="auto", allow_tuning=("head", "full"))
    return prepare(job, HospitalFile(name="small", data=Data(folder=folder), cache=folder / "cache", policy=policy))


def start_of(prepared: Prepared, job: Job) -> Model:
    """A head that is not zeros, for then the gradient of the network would be nothing; the coordinator chooses it."""
    rng = np.random.default_rng(5)
    weight = rng.normal(0, 0.1, (job.num_classes, job.num_features)).astype(np.float32)
    return Model(Head(weight, np.zeros(job.num_classes, np.float32)), prepared.tuned)


def trained(prepared: Prepared, job: Job, start: Model, seed: int = 0) -> DeepTrained:
    """A round at a hospital, by the code of a run."""
    if prepared.deep is None:
        raise ValueError("the job tunes the head alone; expected tune: full")
    return prepared.deep.fit(start, Standardisation.identity(job.num_features), seed, 1, {}, None)


def gradient_in(start: Model, after: Model, job: Job, steps: int) -> dict[str, np.ndarray]:
    """The mean gradient of each array on the way, the weight decay taken out: exact for one step."""
    local, before, then = job.method.local, start.arrays(), after.arrays()
    weight = local.lr * local_norm(local, steps)  # the job has one learning rate for all arrays
    return {name: (array - then[name]) / weight - local.weight_decay * array for name, array in before.items()}


def gradient_of_network(job: Job, start: Model, labels: Sequence[int]) -> tuple[Gradient, list[str]]:
    """The gradient of all that is tuned as a function of images, and the names of its arrays."""
    backbone = shared_backbone(job.backbone, None)
    parameters = TunedPart(job, backbone).parameters
    names = ["weight", "bias", *(f"tuned.{name}" for name in sorted(parameters))]
    head = [torch.tensor(array, requires_grad=True) for array in (start.head.weight, start.head.bias)]
    target = torch.tensor(labels)

    def gradient(images: Tensor) -> Sequence[Tensor]:
        chosen = [*head, *(parameters[name] for name in sorted(parameters))]
        for one in chosen:
            one.requires_grad_(True)
        loss = cross_entropy(backbone.features(images, job.feature_blocks) @ head[0].T + head[1], target)
        found = torch.autograd.grad(loss, chosen, create_graph=True)
        for one in chosen[2:]:
            one.requires_grad_(False)
        return found

    return gradient, names


def attack(folder: Path, iterations: int, targets: int) -> Table:
    """On images of one collection (the folder of a hospital): of the target, of several at once, and of a sum."""
    rows = [row for row in read_rows(folder) if row.label in ("normal", "pneumonia")]
    order = np.random.default_rng(4).permutation(len(rows))
    pool = [(rows[place].path.absolute(), rows[place].label) for place in order]
    settings = {
        "plain update: 1 image, 1 step": (1, 1, 1),
        "plain update: 1 image, 10 steps": (1, 10, 1),
        "plain update: 4 images, 1 step": (4, 1, 1),
        "plain update: 16 images, 1 step": (16, 1, 1),
        "secure sum: 1 image, in the sum with three hospitals of 16": (1, 1, 4),
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ("a grey image (nothing seen)", *settings)}
    for target in range(targets):
        true = _pixels(pool[target][0])
        found["a grey image (nothing seen)"].append(similarity(_mean_image(pool[targets + 64 :][:40]), true))
        for name, setting in settings.items():
            found[name].append(_one(pool, target, setting, true, iterations))
    columns = ("the attacker sees", "cosine", "PSNR, dB", "SSIM")
    table: list[tuple[Value, ...]] = [
        (name, *(tuple(float(value) for value in column) for column in zip(*values, strict=True)))
        for name, values in found.items()
    ]
    return Table("4. Gradient inversion with tune: full", SOURCE, columns, tuple(table))


def _one(pool, target: int, setting: tuple[int, int, int], true: Tensor, iterations: int) -> tuple[float, float, float]:
    """One setting: images at the hospital, epochs, hospitals in the sum."""
    images, epochs, hospitals = setting
    job = full_job(epochs)
    groups = [[pool[target], *pool[-images + 1 :][: images - 1]] if images > 1 else [pool[target]]]
    groups += [pool[100 + 16 * one :][:16] for one in range(1, hospitals)]
    with tempfile.TemporaryDirectory() as folder:
        ready = [hospital(job, group, Path(folder) / str(place)) for place, group in enumerate(groups)]
        start = start_of(ready[0], job)
        replies = [trained(one, job, start) for one in ready]
    gradients = [gradient_in(start, reply.model, job, reply.steps) for reply in replies]
    total = sum(len(group) for group in groups)
    mixed = {
        name: sum(len(group) / total * one[name] for group, one in zip(groups, gradients, strict=True))
        for name in gradients[0]
    }
    labels = [int(label == "pneumonia") for _, label in groups[0]]
    gradient, names = gradient_of_network(job, start, labels)
    wanted = [torch.tensor(np.asarray(mixed[name], np.float32)) for name in names]
    seen = inverted(gradient, wanted, SIZE_PX, iterations, torch.Generator().manual_seed(target), images)
    return max((similarity(one[None], true) for one in seen), key=lambda measures: measures[2])


def _pixels(path: Path) -> Tensor:
    return torch.from_numpy(to_input(load_image(path), SIZE_PX, "pad")).float()[None] / 255


def _mean_image(images: Sequence[tuple[Path, str]]) -> Tensor:
    return torch.cat([_pixels(path) for path, _ in images]).mean(0, keepdim=True)
