"""A federation with real processes, keys and TLS gives what the in-process engine gives, and lets nobody else in."""

import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from common.artifact import load_model
from deploy.flower import Flower
from simulation.run import simulate
from tests.system.deployed import HOSPITALS, running, until

pytestmark = pytest.mark.system
MEMORY_MB = 300
_TORCH = re.compile(r"/(torch|torchvision)/|libtorch")


@pytest.fixture(scope="module")
def trained(deployment, system_phantoms, job, tmp_path_factory):
    """Runs by method: deployed, and with the in-process engine; and the largest memory of each kind of process meanwhile."""
    seen: dict[str, int] = {}
    torch: dict[str, bool] = {}
    stop = threading.Event()
    watching = threading.Thread(target=_watch, args=(seen, torch, stop))
    watching.start()
    found = {}
    try:
        for name, method in {"analytic": "analytic", "fedavg": {"name": "fedavg", "rounds": 3}}.items():
            one = job(name=f"test-{name}", method=method, quorum={"min_hospitals": 3, "deadline_s": 120})
            deployed = deployment.run(one)
            simulated = simulate(one, system_phantoms, tmp_path_factory.mktemp("run") / name, device="cpu")
            found[name] = (deployed, simulated.folder)
    finally:
        stop.set()
        watching.join()
    return found, seen, torch


def _watch(seen: dict[str, int], torch: dict[str, bool], stop: threading.Event) -> None:
    """VmHWM in MB of couriers and ServerApps, and whether torch is mapped into them, by the name of their command."""
    while not stop.wait(0.05):
        for pid, words in running():
            kind = next(
                (kind for kind in ("flwr-clientapp", "flwr-serverapp") if any(kind in word for word in words[:2])), None
            )
            try:
                peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()) if kind else None
                maps = Path(f"/proc/{pid}/maps").read_text() if kind else ""
            except OSError:
                continue
            if kind and peak:
                seen[kind] = max(seen.get(kind, 0), int(peak[1]) // 1024)
                torch[kind] = torch.get(kind, False) or bool(_TORCH.search(maps))


@pytest.mark.parametrize("method", ["analytic", "fedavg"])
def test_the_head_is_that_of_the_in_process_engine(trained, method):
    deployed, simulated = trained[0][method]
    (model, manifest), (expected, _) = (
        load_model(deployed / "model.safetensors"),
        load_model(simulated / "model.safetensors"),
    )
    assert manifest.hospitals == len(HOSPITALS)
    assert np.abs(model.head.weight).max() > 1e-3
    assert np.abs(model.head.weight - expected.head.weight).max() <= 1e-6
    assert np.abs(model.head.bias - expected.head.bias).max() <= 1e-6


def test_a_fit_is_one_message_to_each_hospital(trained, deployment):
    """Evaluation is folded into it; only the last head, temperatures and test patients have questions of their own."""
    log = (deployment.kit(HOSPITALS[0]) / "run" / "logs" / "agent.log").read_text()
    of_fedavg = log[log.rindex("answers describe") :]
    assert [len(re.findall(f"answers {kind}", of_fedavg)) for kind in ("describe", "fit", "evaluate")] == [1, 3, 3]


@pytest.mark.parametrize("kind", ["flwr-clientapp", "flwr-serverapp"])
def test_courier_and_serverapp_are_small_and_know_nothing_of_torch(trained, kind):
    _, seen, torch = trained
    assert 20 < seen[kind] < MEMORY_MB
    assert not torch[kind]


def test_the_agent_has_no_network(deployment):
    pid = deployment.processes(HOSPITALS[0]).processes["agent"].pid
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


def test_a_hospital_with_an_unregistered_key_is_refused_and_told_why(deployment):
    stranger = deployment.folder / "stranger"
    shutil.copytree(deployment.kit(HOSPITALS[0]), stranger, ignore=shutil.ignore_patterns("node_key*", "run"))
    deployment.cli("hospital", "keygen", "--kit", stranger)
    joining = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "hospital", "join", "--no-agent", "--kit", stranger],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        log = stranger / "run" / "logs" / "supernode.log"
        until(lambda: log.exists() and "305" in log.read_text(), 60, "the SuperNode is refused")
        status = " ".join(deployment.cli("hospital", "status", "--kit", stranger, code=1).stdout.split())
        assert "does not know its key yet" in status
        assert "supernode ready" not in status
        assert len([node for node in _flower(deployment).supernodes() if node.status == "online"]) == len(HOSPITALS)
    finally:
        joining.terminate()
        joining.communicate(timeout=60)


def _flower(deployment, port: int | None = None) -> Flower:
    ca = deployment.federation / "certificates" / "ca.crt"
    return Flower(f"localhost:{port or deployment.superlink_port}", ca, deployment.folder / f"flower-{port}")


def test_the_control_api_is_not_behind_the_gateway(deployment):
    assert len(_flower(deployment).supernodes()) >= len(HOSPITALS)
    with pytest.raises(Exception, match="403"):
        _flower(deployment, deployment.port).runs()
    trust = ssl.create_default_context(cafile=str(deployment.federation / "certificates" / "ca.crt"))
    at = f"https://localhost:{deployment.port}"
    with urllib.request.urlopen(f"{at}/health", context=trust) as answer:
        assert answer.status == 200
    for path in (
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/v1/fleet/../control/list-runs",
    ):
        for method in ("GET", "POST"):
            request = urllib.request.Request(f"{at}{path}", data=b"x" if method == "POST" else None, method=method)
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(request, context=trust)
            error.value.close()
            assert error.value.code in (400, 403)


def test_the_superlink_listens_on_the_loopback_interface_only(deployment):
    shown = subprocess.run(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
    port = f":{deployment.superlink_port:04X} "
    listening = {
        line.split()[1] for line in shown.splitlines()[1:] if line.split()[3] == "0A" and port in f"{line.split()[1]} "
    }
    assert listening == {f"0100007F{port.strip()}"}


@pytest.fixture(scope="module")
def secured(deployment, system_phantoms, job, tmp_path_factory):
    """A run with secure aggregation: deployed, and in plain with the in-process engine."""
    privacy = {"secure_aggregation": True}
    quorum = {"min_hospitals": 3, "deadline_s": 120}
    deployed = deployment.run(job(name="test-secure", method="analytic", privacy=privacy, quorum=quorum))
    plain = job(name="test-plain", method="analytic", quorum=quorum)
    return deployed, simulate(plain, system_phantoms, tmp_path_factory.mktemp("run") / "plain", device="cpu").folder


def test_with_secure_aggregation_the_head_is_the_same(secured):
    (model, _), (expected, _) = (load_model(folder / "model.safetensors") for folder in secured)
    size = np.abs(expected.head.weight).max()
    assert np.abs(model.head.weight - expected.head.weight).max() <= 1e-4 * size


def test_with_secure_aggregation_nothing_but_masked_numbers_leaves(secured, deployment):
    for name in HOSPITALS:
        shown = deployment.cli(
            "hospital",
            "ledger",
            "export",
            "--format",
            "json",
            "--out",
            deployment.folder / "ledger.json",
            "--kit",
            deployment.kit(name),
        )
        assert "wrote" in shown.stdout
        entries = json.loads((deployment.folder / "ledger.json").read_text())["entries"]
        sent = [one for one in entries if one.get("job") == "test-secure" and one["decision"] == "sent"]
        assert {one["kind"] for one in sent} == {"describe", "keys", "shares", "masked", "unmask"}
        assert all(
            one["masked"] and {array["dtype"] for array in one["arrays"]} == {"uint64"}
            for one in sent
            if one["kind"] == "masked"
        )
        assert all(not one["arrays"] for one in sent if one["kind"] == "describe")
        assert sorted({one["fields"]["purpose"].partition(":")[0] for one in sent if one["kind"] == "masked"}) == [
            "distances",
            "evaluate",
            "holdings",
            "statistics",
        ]


def test_a_run_of_the_same_job_opens_no_second_sum(secured, deployment, job):
    again = deployment.cli("coordinator", "run", deployment.folder / "test-secure.yaml", code=6)
    assert "helped to open a sum" in (deployment.kit(HOSPITALS[0]) / "run" / "logs" / "agent.log").read_text()
    assert "secure-sum" in again.stdout + again.stderr
