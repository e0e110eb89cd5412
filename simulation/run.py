"""A federation on one machine, as a function.

from pathlib import Path
from common.job import load_job
from simulation.hospitals import find_hospitals
from simulation.run import simulate

result = simulate(load_job(Path("configs/demo.yaml")), find_hospitals([Path("my-hospitals")]), Path("runs/one"))
print(result.summary["metrics"]["pooled"]["auroc"], result.folder / "report.html")
"""

import json
import logging
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from client.app import app as client_app
from client.preparation import shared_backbone
from client.records import assign, read_rows
from common.artifact import Manifest, load_model, write_atomically
from common.config_file import unknown
from common.errors import ConfigError, DataError
from common.job import Job
from common.model import Model
from deploy.kit import ROSTER
from server.app import app as server_app
from server.recorder import JOB, MODEL, SUMMARY
from server.strategies import hospitals_needed
from simulation.grid import InProcessGrid
from simulation.kits import make_kits
from simulation.together import train_ahead

ENGINES = ("in-process", "ray")


@dataclass(frozen=True)
class SimulationResult:
    """A finished run: its directory, its summary (`summary.json`), and the model."""

    folder: Path
    summary: Mapping[str, Any]
    model: Model
    manifest: Manifest


def simulate(
    job: Job,
    hospitals: Mapping[str, Path],
    out: Path,
    *,
    engine: str = "in-process",
    weights_dir: Path | None = None,
    cache_dir: Path | None = None,
    device: str = "auto",
    resume: bool = False,
) -> SimulationResult:
    """Train `job` with these hospitals (name -> folder) and leave a run directory at `out`.

    Both engines run the real ServerApp and ClientApp, and the same seed gives the same head.

    Raises:
        ConfigError: too few hospitals, `out` holds another run, or the job asks for what this version cannot give.
        DataError: a hospital's manifest or labels are wrong.
        WeightsError: the backbone's weights cannot be had.
        FederationError: the run could not go on.
    """
    if engine not in ENGINES:
        raise ConfigError(unknown("engine", engine, list(ENGINES)))
    _require_engine(job, engine)
    _check(job, hospitals, weights_dir, cache_dir)
    settings = {
        "weights-dir": str(weights_dir.resolve()) if weights_dir else "",
        "cache-dir": str(cache_dir.resolve()) if cache_dir else "",
        "device": device,
    }
    out = out.resolve()
    if not resume and (out / SUMMARY).exists():
        raise ConfigError(f"{out} holds a finished run; give another --out")
    write_atomically(out / JOB, job.canonical_json())
    config: dict[str, str | bool] = {"job": str(out / JOB), "out": str(out), "engine": engine, "resume": resume}
    if engine == "ray":
        from simulation.ray_engine import run_with_ray

        run_with_ray({name: str(folder.resolve()) for name, folder in hospitals.items()}, {**config, **settings}, out)
    else:
        _run_in_process(job, hospitals, config, settings)
    model, manifest = load_model(out / MODEL)
    return SimulationResult(out, json.loads((out / SUMMARY).read_text(encoding="utf-8")), model, manifest)


def _run_in_process(
    job: Job, hospitals: Mapping[str, Path], config: dict[str, str | bool], settings: Mapping[str, str]
) -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)  # our recorder tells what Flower's strategies would log
    nodes = {
        name: {"hospital-dir": str(folder.resolve()), "hospital-name": name, **settings}
        for name, folder in hospitals.items()
    }
    with tempfile.TemporaryDirectory(prefix="consilium-") as temporary:
        if job.privacy.secure_aggregation:
            kits = make_kits(Path(temporary), list(nodes))
            nodes = {name: {**node, **kits[name]} for name, node in nodes.items()}
        elif job.noised_locally:
            # A hospital answers a round once and keeps the answer; one that is simulated again has answered nothing yet.
            nodes = {name: {**node, "state-dir": str(Path(temporary) / name)} for name, node in nodes.items()}
        if job.privacy.secure_aggregation:
            config = {**config, "roster": str(Path(temporary) / ROSTER)}
        if job.duplicates == "check":
            secret = Path(temporary) / "consortium.secret"
            secret.write_text(secrets.token_hex(32), encoding="ascii")
            nodes = {name: {**node, "consortium-secret": str(secret)} for name, node in nodes.items()}
        grid = InProcessGrid(client_app, nodes, train_ahead)
        server_app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config)))


def _require_engine(job: Job, engine: str) -> None:
    if job.privacy.secure_aggregation and engine == "ray":
        raise ConfigError(
            f"job '{job.name}': secure aggregation needs a hospital that remembers its session, and Ray gives its requests to "
            "processes that do not; leave --engine ray out"
        )
    if job.duplicates == "check" and engine == "ray":
        raise ConfigError(
            f"job '{job.name}': duplicates: check goes with the engine in-process; leave --engine ray out"
        )
    if job.noised_locally and engine == "ray":
        raise ConfigError(
            f"job '{job.name}': noise of a hospital's own needs a hospital that remembers what it told, and Ray gives its "
            "requests to processes that do not; leave --engine ray out"
        )


def _check(job: Job, hospitals: Mapping[str, Path], weights_dir: Path | None, cache_dir: Path | None) -> None:
    """Find at once, with its full reason, what a hospital would only decline with a neutral code."""
    needed = max(job.quorum.min_hospitals, hospitals_needed(job.method))
    if len(hospitals) < needed:
        raise ConfigError(
            f"{len(hospitals)} hospitals are given, job '{job.name}' needs {needed} "
            f"(quorum.min_hospitals {job.quorum.min_hospitals}, method {job.method.name})"
        )
    problems = []
    for name, folder in hospitals.items():
        try:
            assign(read_rows(folder, cache_dir), job)
        except DataError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise DataError("\n".join(problems))
    shared_backbone(job.backbone, weights_dir.resolve() if weights_dir else None)
