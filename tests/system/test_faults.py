"""What a federation survives: real processes are killed, or stopped, in the middle of a run.

A run in which nothing was lost ends with the bits of the in-process engine; one in which a hospital was lost goes on at its
quorum and says whom it lost, in which round, and why.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torchvision

from common.artifact import load_model
from common.job import Job
from simulation.run import simulate
from tests.system.deployed import HOSPITALS, PROJECT, until

pytestmark = pytest.mark.faults
LOST = "hospital-b"
REST = [name for name in HOSPITALS if name != LOST]


@pytest.fixture
def slow(job):
    """A job whose local training takes some seconds, so that it can be met in the middle."""

    def make(name: str, rounds: int, **quorum) -> Job:
        method = {
            "name": "fedavg",
            "rounds": rounds,
            "local_epochs": 100,
            "batch_size": 1,
            "lr": 1e-5,
            "patience": None,
        }
        return job(name=name, method=method, quorum={"min_hospitals": 2, "deadline_s": 90, **quorum})

    return make


@pytest.fixture
def expected(system_phantoms, tmp_path):
    """The head of a job by the in-process engine."""

    def of(job: Job) -> np.ndarray:
        return simulate(job, system_phantoms, tmp_path / job.name, device="cpu").model.head.weight

    return of


def weight(run: Path) -> np.ndarray:
    return load_model(run / "model.safetensors")[0].head.weight


def lost_in(deployment, run: Path) -> dict[int, dict[str, str]]:
    """Who was missing in which rounds, and why."""
    return {one["round"]: one["dropped"] for one in deployment.rounds(run) if one["dropped"]}


def test_an_agent_killed_in_the_middle_of_a_fit(deployment, slow, expected):
    job = slow("agent-killed", 2, min_hospitals=3)
    run = deployment.start(job)
    until(lambda: deployment.fits_round(LOST, run), 90, "the hospital trains")
    before = deployment.processes(LOST).processes["agent"]
    os.kill(before.pid, signal.SIGKILL)
    deployment.finish(run)
    assert deployment.processes(LOST).processes["agent"].restarts == before.restarts + 1
    assert lost_in(deployment, run) == {}
    assert weight(run).tobytes() == expected(job).tobytes()


def test_a_courier_killed_in_the_middle_of_a_fit(deployment, slow):
    run = deployment.start(slow("courier-killed", 3, grace_s=2))
    until(lambda: deployment.fits_round(LOST, run), 90, "the hospital trains")
    [courier] = deployment.children(LOST, "flwr-clientapp")
    os.kill(courier, signal.SIGKILL)
    summary = deployment.finish(run)
    lost = lost_in(deployment, run)
    assert summary["rounds"] == 3
    assert list(lost[1]) == [LOST]
    assert next(one["answered"] for one in deployment.rounds(run)) == REST


def test_a_supernode_killed_in_the_middle_of_a_round(deployment, slow, job):
    run = deployment.start(slow("supernode-killed", 3, grace_s=2))
    # The first, or a later one if it was still at the run before when this one began.
    at = until(lambda: deployment.fits_round(LOST, run), 90, "the hospital trains") - 1
    os.kill(deployment.processes(LOST).processes["supernode"].pid, signal.SIGKILL)
    summary = deployment.finish(run)
    rounds = deployment.rounds(run)
    assert summary["rounds"] == 3
    assert rounds[at]["answered"] == REST
    assert LOST in rounds[at]["dropped"]
    assert not any(one["lost"] for one in rounds)
    # Flower takes the killed one for connected until it misses its heartbeat, a minute later; only then it lets it in again.
    until(lambda: deployment.processes(LOST).processes["supernode"].state == "ready", 150, "it is connected again")
    again = deployment.run(job(name="back-again", method="analytic", quorum={"min_hospitals": 3, "deadline_s": 120}))
    assert [one["answered"] for one in deployment.rounds(again)] == [list(HOSPITALS)]


def test_a_superlink_killed_in_the_middle_of_a_round(deployment, slow, expected):
    job = slow("superlink-killed", 3, min_hospitals=3)
    run = deployment.start(job)
    until(lambda: deployment.fits_round(LOST, run), 90, "the hospital trains")
    os.kill(deployment.processes().processes["superlink"].pid, signal.SIGKILL)
    summary = deployment.finish(run)
    assert summary["rounds"] == 3
    assert deployment.processes().processes["superlink"].restarts >= 1
    assert lost_in(deployment, run) == {}
    assert weight(run).tobytes() == expected(job).tobytes()


def test_a_serverapp_killed_after_round_2_of_5_is_resumed_to_the_same_bits(deployment, slow, expected):
    job = slow("serverapp-killed", 5, min_hospitals=3)
    file = deployment.approve(job)
    following = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "coordinator", "run", file],
        cwd=PROJECT,
        env=deployment.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    [run] = until(lambda: list((deployment.federation / "runs").glob("serverapp-killed-*")), 60, "the run has a folder")
    # Round 2 is recorded when round 3 has judged it: its checkpoint is written by then.
    until(lambda: len(deployment.rounds(run)) == 2, 150, "round 2 is over")
    [app] = deployment.children("", "flwr-serverapp")
    os.kill(app, signal.SIGKILL)
    out, err = following.communicate(timeout=200)
    assert following.returncode == 6, out + err
    assert "finished:failed" in err
    assert not (run / "summary.json").exists()

    resumed = deployment.cli("coordinator", "resume", run.name)
    assert "report" in resumed.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert summary["resumed_after_round"] in (2, 3)
    assert [one["round"] for one in deployment.rounds(run)] == [1, 2, 3, 4, 5]
    assert lost_in(deployment, run) == {}
    assert weight(run).tobytes() == expected(job).tobytes()


def test_a_hospital_that_answers_after_the_deadline(deployment, slow):
    run = deployment.start(slow("late", 3, deadline_s=15))
    until(lambda: deployment.fits_round(LOST, run), 90, "the hospital trains")
    agent = deployment.processes(LOST).processes["agent"].pid
    os.kill(agent, signal.SIGSTOP)
    try:
        until(lambda: deployment.rounds(run), 120, "the round is over without it")
    finally:
        os.kill(agent, signal.SIGCONT)
    deployment.finish(run)
    rounds = deployment.rounds(run)
    assert rounds[0]["answered"] == REST
    assert rounds[0]["dropped"] == {LOST: "no answer before the deadline"}
    assert [one["lost"] for one in rounds] == [False] * 3


def test_a_hospital_with_another_weights_file_is_left_out_by_name(deployment, job):
    """The job pins its weights by digest; a file that differs in one number does not pass."""
    network = torchvision.models.squeezenet1_1(weights=None).state_dict()
    for name in HOSPITALS:
        folder = deployment.weights(name)
        folder.mkdir()
        changed = {"features.0.bias": network["features.0.bias"] + 1e-3} if name == LOST else {}
        safetensors.torch.save_file({**network, **changed}, folder / "network.safetensors")
    digest = hashlib.sha256((deployment.weights(REST[0]) / "network.safetensors").read_bytes()).hexdigest()
    backbone = {"name": "squeezenet1_1", "weights": {"file": "network.safetensors", "sha256": digest}}
    run = deployment.run(job(name="weights", backbone=backbone, method="analytic"))
    summary = json.loads((run / "summary.json").read_text())
    assert sorted(summary["hospitals"]) == REST
    assert {(one["hospital"], one["reason"]) for one in summary["failures"]} == {(LOST, "declined: weights-problem")}
