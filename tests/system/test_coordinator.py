"""The coordinator as it is deployed: SuperLink, TLS, node keys and nginx, started by `consilium coordinator up` on loopback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from common.errors import FederationError
from deploy.coordinator import flower_of
from deploy.federation import Federation, load
from deploy.flower import Flower
from deploy.health import https_status, is_port_taken
from deploy.kit import read_kit
from deploy.node_key import make_node_key
from deploy.processes import flower_environment, free_port, tool
from deploy.registration import registrations
from deploy.supervisor import State, read_state, stop

pytestmark = pytest.mark.system
ROOT = Path(__file__).resolve().parents[2]


def consilium(folder: Path, *words: object) -> str:
    command = [sys.executable, "-m", "cli.main", "coordinator", *map(str, words), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait(what: Callable[[], object], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.5)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    if shutil.which("nginx") is None and not Path("/usr/sbin/nginx").exists():
        pytest.skip("nginx is not installed (make nginx)")
    folder = tmp_path_factory.mktemp("system") / "federation"
    ports = ("--port", free_port(), "--superlink-port", free_port())
    hospitals = ("--hospital", "st-marys", "--hospital", "charite")
    consilium(folder, "provision", "--name", "chest", "--host", "localhost", *ports, *hospitals)
    make_node_key(load(folder).kit("st-marys") / "node_key")
    consilium(folder, "provision", "--register", f"st-marys={load(folder).kit('st-marys') / 'node_key.pub'}")
    consilium(folder, "up", "--detach")
    try:
        yield load(folder)
        consilium(folder, "stop")
        assert read_state(folder) is None
    finally:
        stop(folder)


@contextmanager
def supernode(federation: Federation, hospital: str, key: Path, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A hospital's SuperNode, as its kit says."""
    kit = federation.kit(hospital)
    home.mkdir()
    command = [
        tool("flower-supernode"),
        *("--root-certificates", str(kit / "ca.crt"), "--superlink", read_kit(kit).address),
        *("--auth-supernode-private-key", str(key), "--isolation", "process"),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=flower_environment(home), cwd=home, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def statuses(federation: Federation) -> dict[str, str]:
    nodes = {node.node_id: node.status for node in flower_of(federation).supernodes()}
    return {name: nodes[one.node_id] for name, one in registrations(federation).items()}


def through_the_gateway(federation: Federation, path: str) -> int:
    return https_status(("127.0.0.1", federation.settings.port), "localhost", federation.ca, path, 10.0)


def ready(federation: Federation) -> State:
    state = read_state(federation.folder)
    assert state is not None
    return state


def test_all_is_ready_and_only_the_gateway_can_be_reached(federation: Federation) -> None:
    assert ready(federation).ready
    assert through_the_gateway(federation, "/health") == 200
    for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs", "/openapi.json"):
        assert through_the_gateway(federation, path) == 403
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    ports = (federation.settings.superlink_port, federation.settings.port)
    local = {line.split()[3] for line in listening.splitlines()}
    assert {one for one in local if one.endswith(tuple(f":{port}" for port in ports))} == {
        f"127.0.0.1:{port}" for port in ports
    }


def test_nobody_controls_the_federation_through_the_gateway(federation: Federation, tmp_path: Path) -> None:
    outside = Flower(f"localhost:{federation.settings.port}", federation.ca, tmp_path / "outside")
    with pytest.raises(FederationError, match="403 Forbidden"):
        outside.runs()
    assert flower_of(federation).runs() == []


def test_a_hospital_with_its_key_connects_and_another_does_not(federation: Federation, tmp_path: Path) -> None:
    assert statuses(federation) == {"st-marys": "registered"}
    with supernode(federation, "st-marys", federation.kit("st-marys") / "node_key", tmp_path / "a") as process:
        wait(lambda: process.poll() is None and statuses(federation)["st-marys"] == "online")
        line = next(one for one in consilium(federation.folder, "status").splitlines() if "st-marys" in one)
        assert line.split() == ["st-marys", "registered", "yes"]
    make_node_key(tmp_path / "stranger")
    with supernode(federation, "charite", tmp_path / "stranger", tmp_path / "b") as process:
        assert process.wait(60) != 0
    consilium(
        federation.folder, "provision", "--register", f"charite={tmp_path / 'stranger.pub'}"
    )  # at once, while it is up
    assert set(statuses(federation)) == {"st-marys", "charite"}
    with supernode(federation, "charite", tmp_path / "stranger", tmp_path / "c") as process:
        wait(lambda: process.poll() is None and statuses(federation)["charite"] == "online")


def test_doctor_finds_no_error(federation: Federation) -> None:
    found = json.loads(consilium(federation.folder, "doctor", "--format", "json"))
    assert {one["check"] for one in found if one["level"] == "ok"} >= {"superlink", "gateway", "certificate", "ports"}


def test_a_killed_superlink_comes_back_with_all_it_knew(federation: Federation) -> None:
    before = ready(federation)
    os.kill(before.processes["superlink"].pid or 0, signal.SIGKILL)
    wait(lambda: ready(federation).processes["superlink"].restarts == 1 and ready(federation).ready)
    after = ready(federation)
    assert after.processes["gateway"] == before.processes["gateway"]
    assert "st-marys" in statuses(federation)


def test_a_killed_coordinator_leaves_nothing_and_starts_again(federation: Federation) -> None:
    settings = federation.settings
    os.kill(ready(federation).pid, signal.SIGKILL)
    wait(lambda: not any(is_port_taken(("127.0.0.1", port)) for port in (settings.port, settings.superlink_port)))
    assert read_state(federation.folder) is None
    consilium(federation.folder, "up", "--detach")
    assert "st-marys" in statuses(federation)
