"""Hospitals that hold features drawn at random and no image: so many that the messages are what is measured, by the
real ClientApp.

Only where images become features something else stands in (`Hospital(preparing=...)`): policy, contract, training,
counts and packing are the real ones.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict

from client.app import app, hospitals, settings_of
from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile
from client.policy import OF_SIMULATIONS
from client.preparation import Prepared
from client.records import Records
from client.training import Examples
from common.artifact import write_atomically
from common.job import Job, parse_job
from common.messages import Description, Space
from common.model import digest_of_arrays
from common.wire import PARTS
from server.app import app as server_app
from server.recorder import JOB
from simulation.grid import InProcessGrid

SPACES = {1280: ("mobilenet_v2", "last"), 128: ("resnet18", ["layer2.1"]), 2048: ("resnet50", "last")}
"""A network and the stages of it that have so many features."""


@dataclass(frozen=True)
class Run:
    """A finished run: seconds of each phase, seconds on the clock, and the folder's content that counts."""

    seconds_s: float
    phases: Mapping[str, float]
    summary: Mapping[str, Any]


def job_of(method: Mapping[str, Any], features: int, hospitals_needed: int = 2) -> Job:
    """A job whose head reads 1,280 or 128 features."""
    return parse_job(
        {
            "name": "scale",
            "classes": ["normal", "opacity"],
            "backbone": {"name": SPACES[features][0], "weights": "random"},
            "features": {"stages": SPACES[features][1], "pool": ["mean"], "mirror": False},
            "method": dict(method),
            "quorum": {"min_hospitals": hospitals_needed, "deadline_s": 3600},
            "seed": 3,
        }
    )


def preparing(number: int, examples: int) -> Any:
    """Stands in for `client.preparation.prepare`: hospital `number` has so many training examples, a fifth for the rest."""

    def prepare(job: Job, _file: HospitalFile) -> Prepared:
        rng = np.random.default_rng([job.seed, number])
        direction = np.random.default_rng(job.seed).normal(size=job.num_features).astype(np.float32)
        parts = {}
        for part, size in zip(PARTS, (examples, max(1, examples // 5), max(1, examples // 5)), strict=True):
            labels = rng.integers(0, job.num_classes, size)
            noise = rng.standard_normal((size, job.num_features), np.float32)
            parts[part] = Examples(noise + 0.1 * labels[:, None].astype(np.float32) * direction, labels)
        train = parts["train"].features.astype(np.float64)
        images = np.array([np.bincount(parts[part].labels, minlength=job.num_classes) for part in PARTS])
        space = Space(job.job_id, "f" * 64, "b" * 64, digest_of_arrays({}))
        told = Description(
            space, images, images.sum(axis=1), train.sum(axis=0), (train**2).sum(axis=0), examples, 0, 0, 0, examples
        )
        return Prepared(job, space.fingerprint, Records((), {}, 0), parts, told, {}, None, None, ())

    return prepare


def seat(number: int, examples: int) -> dict[str, dict[str, str]]:
    """So many hospitals in this process, with their node configs."""
    nodes = {
        f"h-{place:06d}": {"hospital-dir": f"/nowhere/{place}", "hospital-name": f"h-{place:06d}"}
        for place in range(number)
    }
    for place, (name, node) in enumerate(nodes.items()):
        file = HospitalFile(name=name, data=Data(folder=Path(node["hospital-dir"])), policy=OF_SIMULATIONS)
        hospitals[settings_of(node)] = Hospital(file, preparing=preparing(place, examples))
    return nodes


def run(job: Job, nodes: Mapping[str, Mapping[str, str]], client: Any = app, **options: Any) -> Run:
    """Train with the in-process engine and leave nothing behind; options: of `InProcessGrid`."""
    import json

    logging.getLogger("flwr").setLevel(logging.ERROR)
    out = Path(tempfile.mkdtemp(prefix="consilium-scale-"))
    try:
        write_atomically(out / JOB, job.canonical_json())
        config: dict[str, str | bool] = {
            "job": str(out / JOB),
            "out": str(out),
            "engine": "in-process",
            "resume": False,
        }
        start = time.perf_counter()
        grid = InProcessGrid(client, nodes, **options)
        server_app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config)))
        seconds = time.perf_counter() - start
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        return Run(seconds, summary["seconds"], summary)
    finally:
        shutil.rmtree(out)
