import itertools
import socket
import subprocess
from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy.child import STARTED, spawn
from deploy.hospital import NOT_LET_IN, hospital_processes, run_folder, socket_path, trouble, without_network
from deploy.kit import NODE_KEY, Kit, write_kit
from deploy.node_key import make_node_key
from deploy.supervisor import log_path


@pytest.fixture
def kit(tmp_path):
    folder = tmp_path / "kit"
    write_kit(
        folder,
        Kit(federation="chest", hospital="st-marys", host="fed.example.org", port=8443, flwr="1.41.0", consilium="0"),
        b"ca",
    )
    return folder


@pytest.fixture
def with_key(kit):
    make_node_key(kit / NODE_KEY)
    return kit


def test_a_hospital_is_an_agent_a_supernode_and_a_courier_in_this_order(with_key):
    agent, node, courier = hospital_processes(with_key)
    assert [agent.name, node.name, courier.name] == ["agent", "supernode", "courier"]
    assert (node.after, courier.after) == (("agent",), ("supernode",))
    assert agent.command[-6:-4] == ["hospital", "serve"]


def options(command) -> dict[str, str]:
    return {word: value for word, value in itertools.pairwise(command) if word.startswith("--")}


def test_only_the_own_courier_may_take_the_supernode_s_work(with_key):
    _, node, courier = hospital_processes(with_key)
    files = {options(one.command)["--superexec-auth-secret-file"] for one in (node, courier)}
    [secret] = map(Path, files)
    assert secret.stat().st_mode & 0o777 == 0o600
    before = secret.read_text()
    assert len(before) == 64
    hospital_processes(with_key)
    assert secret.read_text() == before


def test_the_agent_may_run_by_itself(with_key, tmp_path):
    node, courier = hospital_processes(with_key, tmp_path / "agent.sock", with_agent=False)
    assert (node.name, courier.name, node.after) == ("supernode", "courier", ())
    assert options(node.command)["--node-config"] == f'agent-socket="{tmp_path / "agent.sock"}"'


def test_the_supernode_calls_the_coordinator_and_tells_the_courier_of_the_socket_only(with_key):
    _, node, courier = hospital_processes(with_key)
    said, of_courier = options(node.command), options(courier.command)
    assert said["--superlink"] == "fed.example.org:8443"
    assert said["--root-certificates"] == str(with_key / "ca.crt")
    assert said["--host"] == "127.0.0.1"
    assert said["--node-config"] == f'agent-socket="{socket_path(with_key)}"'
    assert of_courier["--runtime-api-address"] == f"127.0.0.1:{said['--port']}"
    for word in (*node.command, *courier.command):
        assert "hospital.yaml" not in word


def test_nothing_of_it_phones_home(with_key):
    for one in hospital_processes(with_key):
        assert one.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert one.environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert one.environment["FLWR_HOME"].startswith(str(run_folder(with_key)))


def test_a_hospital_without_a_key_is_told_to_make_one(kit):
    with pytest.raises(ConfigError, match="consilium hospital keygen"):
        hospital_processes(kit)


def test_a_socket_path_that_is_too_long_is_refused_before_anything_starts(with_key, tmp_path):
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        hospital_processes(with_key, tmp_path / ("a" * 120))


def test_a_folder_that_is_no_kit(tmp_path):
    with pytest.raises(ConfigError, match="is not a hospital's kit"):
        hospital_processes(tmp_path)


def test_without_a_network_there_is_only_a_loopback_that_is_down():
    prefix = without_network()
    if not prefix:
        pytest.skip("this machine does not allow network namespaces")
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        alone = subprocess.run([*prefix, "python3", "-c", script], capture_output=True, text=True, check=False)
    assert "unreachable" in alone.stderr
    shown = subprocess.run([*prefix, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True)
    assert [line.split(":")[0].strip() for line in shown.stdout.splitlines()[2:]] == ["lo"]


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("[code: 2004] Failed to activate SuperNode.", NOT_LET_IN),
        (
            "ssl.SSLError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
            "ask the coordinator whether the address is right",
        ),
        ("ConnectionError: [Errno 111] Connection refused", "cannot be reached"),
        ("INFO: started", "no answer from the coordinator"),
    ],
)
def test_why_the_supernode_does_not_connect(kit, log, why):
    assert trouble(kit) is None
    path = log_path(run_folder(kit), "supernode")
    path.parent.mkdir(parents=True)
    path.write_text(f"INFO: Starting Flower SuperNode\n{log}\n")
    assert why in trouble(kit)


def test_a_supernode_is_ready_when_the_coordinator_let_it_in(with_key):
    _, node, _ = hospital_processes(with_key)
    log = log_path(run_folder(with_key), "supernode")
    log.parent.mkdir(parents=True)
    log.write_bytes(STARTED + b"INFO: Uvicorn running\n")
    assert not node.ready()
    log.write_bytes(log.read_bytes() + b"INFO: SuperNode ID: 77\n")
    assert node.ready()
    # The next process has printed nothing yet: what the one before said does not count.
    spawn(["true"], {}, log.parent, log).wait()
    assert not node.ready()
