"""The recipe that most people start from, against the head: time and bytes until the AUROC is the same.

    python -m benchmarks.recipe SHARED --lr 0.01 0.001 --rounds 10 --out DIR

The recipe: a pretrained MobileNetV2 with a new last layer, all weights trained with SGD (momentum 0.9, batches of 64,
one local epoch a round), the whole model to and from every hospital in each round, averaged by Flower's FedAvg.
Against it, on the same patients of the same four hospitals: the closed-form head, and 20 rounds of fedavg of the head.
Every time is of one process with cold caches: the recipe keeps its decoded images in memory, the head passes each
image through the network once, and both are counted. Seconds are of the processors, since other work may share the
machine; seconds on the clock are beside them. It stops when the recipe reaches the closed-form head's AUROC. Bytes are
also measured for ResNet-50, which needs no trained weights: two jobs over few images, and the recipe's message. Prints
Markdown tables, and writes DIR/recipe.json after every round.
"""

import argparse
import contextlib
import io
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from safetensors.torch import load_file

from benchmarks.chest_sample import NAMES, job_with
from benchmarks.chest_sample import hospitals as small_hospitals
from benchmarks.outcome import Headline, Outcome, Table, publish, shown
from client.chains import IMAGENET_MEAN, IMAGENET_STD
from client.images import load_pictures, to_input
from client.progress import progress
from client.records import Record, assign, read_rows
from client.slices import reading_of
from common.flower_records import size_of
from common.job import Job
from common.metrics import count, derive
from simulation.run import simulate

BATCH, MOMENTUM = 64, 0.9
FEW_IMAGES = 160
RECIPE_ROUND = "the recipe, one round"
HEADS: Mapping[str, Mapping[str, Any]] = {
    "closed-form head, one round": {},
    "fedavg of the head, 20 rounds": {"method": {"name": "fedavg", "rounds": 20}, "features": {"stages": "last"}},
}


@dataclass
class Course:
    """What one way of training gave so far: after each round the test AUROC, seconds and bytes (up and down, all hospitals)."""

    name: str
    auroc: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    clock_s: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)

    def add(self, auroc: float, cpu_s: float, clock_s: float, sent: int) -> None:
        """A further round; seconds and bytes are from the beginning on."""
        self.auroc.append(auroc)
        self.cpu_s.append(round(cpu_s, 1))
        self.clock_s.append(round(clock_s, 1))
        self.bytes.append(sent)


def main() -> None:
    """Run the heads, then the recipe with each learning rate, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder with data/chest_xray and weights/")
    parser.add_argument("--lr", type=float, nargs="+", default=[0.01, 0.001], help="learning rates of the recipe")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the recipe, at most")
    parser.add_argument("--out", type=Path, help="folder for recipe.json")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    hospitals = {name: given.shared / "data" / "chest_xray" / name for name in NAMES}
    resnet = _resnet50(given.shared)
    heads = [_head(name, job_with(**changes), hospitals, given.shared / "weights") for name, changes in HEADS.items()]
    recipes: list[Course] = []
    for lr in given.lr:
        course = Course(f"the recipe, lr {lr:g}")
        recipes.append(course)
        for _ in _recipe(course, job_with(), hospitals, given.shared / "weights", lr, given.rounds, heads[0].auroc[-1]):
            with contextlib.redirect_stdout(io.StringIO()):
                publish(outcome_of(heads, recipes, resnet), given.out)
    publish(outcome_of(heads, recipes, resnet), given.out)


def _head(title: str, job: Job, hospitals: Mapping[str, Path], weights: Path) -> Course:
    """A job as it is, from a cold cache: only its end is known."""
    course, cpu, clock = Course(title), time.process_time(), time.perf_counter()
    summary = _summary(job, hospitals, weights)
    auroc = float(summary["metrics"]["pooled"]["auroc"])
    course.add(auroc, time.process_time() - cpu, time.perf_counter() - clock, _bytes(summary))
    print(
        f"{title}: AUROC {auroc:.4f}, {course.cpu_s[-1]:.0f} s of processors, {course.bytes[-1] / 1e6:.1f} MB",
        flush=True,
    )
    return course


def _summary(job: Job, hospitals: Mapping[str, Path], weights: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        return simulate(job, hospitals, scratch / "run", weights_dir=weights, cache_dir=scratch / "cache").summary


def _bytes(summary: Mapping[str, Any]) -> int:
    return int(summary["communication"]["bytes_up"] + summary["communication"]["bytes_down"])


def _resnet50(shared: Path) -> dict[str, int]:
    """Bytes of each job, and of a round of the recipe, with ResNet-50: they do not depend on weights or images."""
    backbone = {"name": "resnet50", "weights": "random"}
    with tempfile.TemporaryDirectory() as folder:
        few = small_hospitals(shared, Path(folder), FEW_IMAGES)
        found = {
            name: _bytes(_summary(job_with(backbone=backbone, image={"size": 64}, **changes), few, None))
            for name, changes in HEADS.items()
        }
    network = torchvision.models.resnet50()
    network.fc = torch.nn.Linear(2048, job_with().num_classes)
    return {**found, RECIPE_ROUND: 2 * len(NAMES) * size_of(_message(network, 1))}


def _recipe(
    course: Course, job: Job, hospitals: Mapping[str, Path], weights: Path, lr: float, rounds: int, goal: float
) -> Any:
    """Rounds of the recipe, until the AUROC is the goal; yields after each."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    strategy, cpu, clock, sent = FedAvg(), time.process_time(), time.perf_counter(), 0
    records = {name: assign(read_rows(folder), job) for name, folder in hospitals.items()}
    train = {name: _images(found.of("train"), job) for name, found in records.items()}
    test = _images([one for found in records.values() for one in found.of("test")], job)
    network = _network(job, weights)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(job.seed)
    judged_cpu = judged_clock = 0.0
    for number in range(1, rounds + 1):
        replies = []
        for pixels, labels in train.values():
            network.load_state_dict(state)
            _train(network, pixels, labels, lr, generator)
            content = _message(network, len(labels))
            # The same size down as up: the whole model both ways.
            sent += 2 * size_of(content)
            replies.append(Message(content, dst_node_id=1, message_type="train"))
        combined, _ = strategy.aggregate_train(number, replies)
        assert combined is not None
        state = {
            name: torch.from_numpy(np.asarray(combined[name].numpy())).to(tensor.dtype)
            for name, tensor in state.items()
        }
        network.load_state_dict(state)
        # The measurement itself is no part of the recipe.
        before = time.process_time(), time.perf_counter()
        auroc = _auroc(network, *test)
        judged_cpu, judged_clock = (
            judged_cpu + time.process_time() - before[0],
            judged_clock + time.perf_counter() - before[1],
        )
        course.add(auroc, time.process_time() - cpu - judged_cpu, time.perf_counter() - clock - judged_clock, sent)
        print(
            f"{course.name}, round {number}: AUROC {auroc:.4f}, {course.cpu_s[-1]:.0f} s of processors, {sent / 1e6:.0f} MB",
            flush=True,
        )
        yield course
        if auroc >= goal:
            return


def _message(network: torch.nn.Module, examples: int) -> RecordDict:
    """The whole model as a hospital sends it."""
    arrays = ArrayRecord({name: Array(tensor.numpy().copy()) for name, tensor in network.state_dict().items()})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": examples})})


def _images(records: Any, job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (N, 3, H, W) uint8 and labels (N,) of some records, decoded once."""
    pixels = np.zeros((len(records), 3, job.size_px, job.size_px), np.uint8)
    with progress("images decoded", len(records)) as advance:
        for place, record in enumerate(records):
            pixels[place] = _decoded(record, job)
            advance(1)
    return torch.from_numpy(pixels), torch.tensor([record.label for record in records])


def _decoded(record: Record, job: Job) -> np.ndarray:
    [picture] = load_pictures(record.path, reading_of(job))
    return to_input(picture, job.size_px, job.image.fit)


def _network(job: Job, weights: Path) -> torch.nn.Module:
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(load_file(weights / "mobilenet_v2.safetensors"))
    network.classifier[1] = torch.nn.Linear(1280, job.num_classes)
    return network.to(memory_format=torch.channels_last)


def _input(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _train(
    network: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor, lr: float, generator: torch.Generator
) -> None:
    """One local epoch; batch normalisation is in train mode, so a last batch of one image is left out."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=MOMENTUM)
    for rows in torch.randperm(len(labels), generator=generator).split(BATCH):
        if len(rows) > 1:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(_input(pixels[rows])), labels[rows]).backward()
            optimizer.step()


def _auroc(network: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    network.eval()
    with torch.inference_mode():
        scores = torch.cat([network(_input(some)).double().softmax(1) for some in pixels.split(BATCH)])
    return float(derive(count(scores.numpy(), labels.numpy())).auroc or 0.0)


def outcome_of(heads: Sequence[Course], recipes: Sequence[Course], resnet50: Mapping[str, int]) -> Outcome:
    """What was found so far. heads: one round each, in the order of `HEADS`. resnet50: bytes by name."""
    rows = [
        (one.name, at + 1 if one in recipes else None, f"{auroc:.4f}", cpu, clock, sent / 1e6)
        for one in [*heads, *recipes]
        for at, (auroc, cpu, clock, sent) in enumerate(zip(one.auroc, one.cpu_s, one.clock_s, one.bytes, strict=True))
    ]
    ratios, headlines = [], []
    for recipe in (one for one in recipes if one.auroc):
        for head in heads:
            reached = next((at for at, auroc in enumerate(recipe.auroc) if auroc >= head.auroc[-1]), None)
            at = len(recipe.auroc) - 1 if reached is None else reached
            more = "at least " if reached is None else ""
            when = f"none of {at + 1} rounds (best {max(recipe.auroc):.3f})" if reached is None else f"round {at + 1}"
            time_ratio, byte_ratio = recipe.cpu_s[at] / head.cpu_s[-1], recipe.bytes[at] / head.bytes[-1]
            resnet_ratio = (at + 1) * resnet50[RECIPE_ROUND] / resnet50[head.name]
            ratios.append(
                (recipe.name, head.name, when, *(f"{more}{shown(r)}" for r in (time_ratio, byte_ratio, resnet_ratio)))
            )
            headlines.append(
                Headline(
                    f"{head.name}, against {recipe.name} (all weights, whole model exchanged)",
                    f"AUROC {head.auroc[-1]:.3f}, which the recipe reaches in {when}: "
                    f"{more}{shown(time_ratio)} times the seconds, {more}{shown(byte_ratio)} times the bytes",
                )
            )
    return Outcome(
        "recipe",
        "python -m benchmarks.recipe SHARED",
        (
            Table(
                "After each round of the recipe, and at the end of the heads",
                ("trained by", "round", "test AUROC", "s of processors", "s on the clock", "MB"),
                tuple(rows),
            ),
            Table(
                "The recipe until it has a head's AUROC, over what the head needs",
                ("recipe", "head", "reached", "times the seconds", "times the bytes", "times the bytes, ResNet-50"),
                tuple(ratios),
            ),
            Table(
                "Bytes with ResNet-50, all hospitals",
                ("what", "MB"),
                tuple((name, sent / 1e6) for name, sent in resnet50.items()),
            ),
        ),
        tuple(headlines),
        {"courses": [vars(one) for one in [*heads, *recipes]], "resnet50_bytes": dict(resnet50)},
    )


if __name__ == "__main__":
    main()
