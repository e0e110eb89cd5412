"""What the coordinator alone needs: memory and seconds against the number of hospitals and the size of the model.

    python -m benchmarks.coordinator --hospitals 100 1000 10000 --out DIR

Hospitals here are functions that make an answer when they are asked and keep nothing, so that the memory of this
process is the coordinator's: messages, guard, streaming sums, checkpoint; the run directory's last pages are left out
where they are made of all hospitals' figures. Each line is a process of its own, and its memory the most that it had.
Larger models: updates as large as the last block and all of ResNet-50, through the running mean alone.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from benchmarks.feature_hospitals import job_of
from benchmarks.outcome import Headline, Outcome, Table, publish
from common.backbones import backbone_row
from common.flower_records import MESSAGE_TYPES, from_records, to_records
from common.head import Head
from common.messages import Description, Space, pack_counts, unpack_standardisation
from common.metrics import SCORE_BINS, count
from common.model import Model, digest_of_arrays
from common.packed import Packed
from common.sums import Sums
from common.wire import PARTS, STATISTICS_DTYPE
from server.exchange import Exchange
from server.rounds import run_job
from server.weighted_mean import WeightedMean
from simulation.grid import InProcessGrid

KINDS = {kind: name for name, kind in MESSAGE_TYPES.items()}
JOBS = {
    "fedavg, 3 rounds, 1,280 features": ({"name": "fedavg", "rounds": 3}, 1280),
    "the closed form, 128 features": ({"name": "analytic"}, 128),
}
LAST_BLOCK = 4_462_592
"""Numbers in layer4.2 of ResNet-50."""

_EXAMPLES, _JUDGED = 50, 10
_SPACE = "f" * 64


def main() -> None:
    """Each line in a process of its own, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--one", nargs=2, metavar=("JOB", "HOSPITALS"), help="measure one line, and print it as JSON")
    parser.add_argument(
        "--mean", nargs=2, type=int, metavar=("NUMBERS", "HOSPITALS"), help="as --one, of the running mean"
    )
    parser.add_argument("--out", type=Path, help="folder for coordinator.json")
    given = parser.parse_args()
    if given.one or given.mean:
        found = _run(given.one[0], int(given.one[1])) if given.one else _mean(*given.mean)
        print(json.dumps(found))
        return
    rows = []
    for title in JOBS:
        for number in given.hospitals:
            found = _apart("--one", title, str(number))
            rows.append((title, number, found["mb"], found["cpu_s"], 1e3 * found["cpu_s"] / found["messages"]))
    sizes = {
        "head of ResNet-50, 2 classes": 2 * 2049,
        "its last block": LAST_BLOCK,
        "all of it": backbone_row("resnet50").parameters,
    }
    means = []
    for what, numbers in sizes.items():
        for number in (4, 16, 64) if numbers < 10_000_000 else (4, 16):
            found = _apart("--mean", str(numbers), str(number))
            means.append((what, 4e-6 * numbers, number, found["mb"], found["cpu_s"] / number))
    tables = (
        Table(
            "Most memory of the coordinator's process, and its seconds with the answers' making",
            ("job", "hospitals", "MB", "s of a processor", "ms a message"),
            tuple(rows),
        ),
        Table(
            "The running mean alone: updates decoded one at a time, added, dropped",
            ("update", "MB an update", "hospitals", "MB of the process", "s an update"),
            tuple(means),
        ),
    )
    heads = []
    for title in JOBS:
        of = {row[1]: row[2] for row in rows if row[0] == title}
        heads.append(
            Headline(
                f"coordinator's memory from {min(of):,} to {max(of):,} hospitals, {title}",
                f"{of[max(of)] - of[min(of)]:+.0f} MB",
            )
        )
    publish(Outcome("coordinator", "python -m benchmarks.coordinator", tables, tuple(heads)), given.out)


def _apart(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.coordinator", *arguments], check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _run(title: str, number: int) -> dict[str, Any]:
    logging.disable(logging.WARNING)
    method, features = JOBS[title]
    job, messages = job_of(method, features), [0]

    def app(message: Message, _context: Any) -> Message:
        messages[0] += 1
        request = from_records(message.content)
        reply = answer(job, KINDS[message.metadata.message_type], request, message.metadata.dst_node_id)
        return Message(to_records(reply), reply_to=message)

    cpu = time.process_time()
    grid = InProcessGrid(app, {f"h-{place:06d}": {} for place in range(number)})  # type: ignore[arg-type]
    run_job(job, Exchange(grid))
    return {"mb": _rss_mb(), "cpu_s": time.process_time() - cpu, "messages": messages[0]}


def answer(job: Any, kind: str, request: Packed, seed: int) -> Packed:
    """What a hospital of random features answers; made anew each time, and not kept."""
    rng = np.random.default_rng(seed)
    labels = {part: np.arange(size) % 2 for part, size in zip(PARTS, (_EXAMPLES, _JUDGED, _JUDGED), strict=True)}
    images = np.array([np.bincount(one, minlength=2) for one in labels.values()])
    identity = {"job-id": str(request.fields.get("job-id", "")) or _id_of(job), "fingerprint": _SPACE}
    repeated = {name: request.fields[name] for name in ("part", "round") if name in request.fields}
    if kind in ("describe", "statistics"):
        train = rng.standard_normal((_EXAMPLES, job.num_features), np.float32)
    if kind == "describe":
        sums = train.sum(axis=0, dtype=np.float64), (train.astype(np.float64) ** 2).sum(axis=0)
        space = Space(identity["job-id"], _SPACE, "b" * 64, digest_of_arrays({}))
        return Description(space, images, images.sum(axis=1), *sums, _EXAMPLES, 0, 0, 0, _EXAMPLES).pack()
    if kind == "statistics":
        standardised = unpack_standardisation(request.arrays).apply(train)
        sums_of = Sums.of(standardised, labels["train"], 2)
        arrays = {"gram": sums_of.triangle(STATISTICS_DTYPE), "class-sums": sums_of.class_sums.astype(STATISTICS_DTYPE)}
        return Packed(arrays, {**identity, "examples": _EXAMPLES})
    if kind == "distances":
        found = np.zeros((job.num_classes, SCORE_BINS), np.int32)
        found[:, SCORE_BINS // 2] = images[PARTS.index("validation")]
        return Packed({"distances": found}, identity)
    heads = len(request.arrays["weight"]) if kind == "evaluate" else 1
    part = str(request.fields.get("part", "validation"))
    counts = pack_counts([count(rng.dirichlet(np.ones(2), len(labels[part])), labels[part])] * heads)
    if kind == "evaluate":
        return Packed(counts, {**identity, **repeated})
    moved = request.arrays["weight"] + rng.normal(0, 0.01, request.arrays["weight"].shape).astype(np.float32)
    head = Head(moved.astype(np.float32), request.arrays["bias"])
    return Packed({**Model(head).arrays(), **counts}, {**identity, **repeated, "examples": _EXAMPLES, "loss-sum": 1.0})


_ids: dict[int, str] = {}


def _id_of(job: Any) -> str:
    return _ids.setdefault(id(job), job.job_id)


def _mean(numbers: int, number: int) -> dict[str, Any]:
    """Updates of so many numbers, made into records and decoded again one after the other."""
    mean, cpu = WeightedMean(), 0.0
    for seed in range(number):
        weight = np.random.default_rng(seed).standard_normal((1, numbers), np.float32)
        start = time.process_time()
        arrays = from_records(to_records(Packed({"weight": weight, "bias": np.zeros(1, np.float32)}, {}))).arrays
        mean.add(Model(Head(arrays["weight"], arrays["bias"])), 100)
        cpu += time.process_time() - start
        del weight, arrays
    mean.arrays()
    return {"mb": _rss_mb(), "cpu_s": cpu}


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
