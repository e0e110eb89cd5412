"""docker-compose.yml, built and run by Docker: the federation trains, and its containers are as docs/containers.md says.

`make test-compose` builds the images and runs this.
"""

import json
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

pytestmark = pytest.mark.compose

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
NAME, PORT = "consilium-test", "18443"
HOSPITALS = ("a", "b", "c")
AGENTS = tuple(f"agent-{hospital}" for hospital in HOSPITALS)
COURIERS = tuple(f"courier-{hospital}" for hospital in HOSPITALS)
SUPERNODES = tuple(f"supernode-{hospital}" for hospital in HOSPITALS)
COORDINATOR = ("superlink", "superexec", "gateway")
STAYING = (*COORDINATOR, *SUPERNODES, *COURIERS, *AGENTS)
ONCE = ("setup", "images", "registration")
IMAGES = ("coordinator", "courier", "gateway", "agent")
RUNS = "/var/lib/consilium/federation/runs"
EXAMPLE = {
    "FEDERATION_DIR": "/federation",
    "IN_DIR": "/in",
    "KIT_DIR": "/kit",
    "COORDINATOR": "coordinator.example:8443",
    "DATA_DIR": "/images",
    "DATA_GROUP": "1000",
    "WEIGHTS_DIR": "/weights",
}


def docker(*words: str, seconds: float = 900, code: int | None = 0, **environment: str) -> str:
    """What a docker command prints; `code` is the exit code it must have, None for any."""
    done = subprocess.run(
        ("docker", *words),
        cwd=PROJECT,
        env={**os.environ, "CONSILIUM_PORT": PORT, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
    if code is not None and done.returncode != code:
        pytest.fail(f"docker {' '.join(words)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


def compose(*words: str, code: int | None = 0) -> str:
    return docker("compose", "--project-name", NAME, "--progress", "quiet", *words, code=code)


def inside(service: str, *command: str, code: int | None = 0) -> str:
    """What a command in a service's container prints."""
    return compose("exec", "-T", service, *command, code=code)


def shell(service: str, script: str, code: int | None = 0) -> str:
    return inside(service, "sh", "-c", script, code=code)


def python(service: str, program: str, code: int | None = 0) -> str:
    return inside(service, "python", "-c", program, code=code)


def connects(service: str, host: str, port: int) -> bool:
    """Whether a container can open a connection."""
    program = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
    return bool(python(service, f"try:\n {program}\n print('yes')\nexcept OSError:\n pass", code=None))


def inspect(service: str) -> dict[str, Any]:
    found = json.loads(docker("inspect", f"{NAME}-{service}-1"))
    return dict(found[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The federation, up, and the folder of a finished run."""
    if shutil.which("docker") is None or not docker("images", "--quiet", "consilium-agent", code=None):
        pytest.skip("no Docker engine with Consilium's images; `make test-compose` builds them")
    compose("down", "--volumes", "--remove-orphans")
    try:
        compose("up", "--detach", "--wait")
        print(compose("run", "--rm", "-T", "coordinator"))
        copy = tmp_path_factory.mktemp("runs")
        compose("cp", f"superexec:{RUNS}/.", str(copy))
        (folder,) = copy.iterdir()
        yield folder
    except BaseException:
        print(compose("logs", "--no-color", "--tail", "40", code=None))
        raise
    finally:
        compose("down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def secured(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the demonstration with secure aggregation."""
    plain = "sed -e '/^name:/d' -e '/^evaluation:/d' -e '/^personalisation:/d' /configs/demo.yaml"
    more = "printf 'name: secured\\nprivacy: {secure_aggregation: true}\\n'"
    ask = f"({plain}; {more}) > /tmp/secured.yaml && consilium coordinator run /tmp/secured.yaml"
    print(compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "coordinator", "-c", ask))
    copy = tmp_path_factory.mktemp("secured")
    compose("cp", f"superexec:{RUNS}/.", str(copy))
    (folder,) = copy.glob("secured-*")
    return folder


@pytest.fixture(scope="module")
def trusting(run: Path) -> ssl.SSLContext:
    """What trusts the federation's authority and nothing else."""
    return ssl.create_default_context(cadata=inside("gateway", "cat", "/etc/consilium/ca.crt"))


@pytest.mark.parametrize(
    "files",
    [
        ("docker-compose.yml",),
        ("docker-compose.yml", "deploy/gpu.compose.yml"),
        ("deploy/coordinator.compose.yml",),
        ("deploy/hospital.compose.yml",),
        ("deploy/hospital.compose.yml", "deploy/hospital.gpu.compose.yml"),
    ],
    ids="+".join,
)
def test_compose_files_are_clean(files: tuple[str, ...]) -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    chosen = [word for file in files for word in ("--file", file)]
    docker("compose", "--profile", "*", *chosen, "config", "--quiet", **EXAMPLE)


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/hospital.compose.yml"])
def test_a_supernode_listens_for_its_courier_alone(file: str) -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    found = json.loads(docker("compose", "--file", file, "config", "--format", "json", **EXAMPLE))
    services = found["services"]
    # As a service's name, it would be known in the network that leads to the coordinator, too.
    assert "runtime" not in services
    for name, service in services.items():
        known_in = {
            net for net, one in service.get("networks", {}).items() if "runtime" in ((one or {}).get("aliases") or ())
        }
        if name.startswith("supernode"):
            (network,) = known_in
            assert found["networks"][network]["internal"]
            assert {other for other, one in services.items() if network in one.get("networks", {})} == {
                name,
                name.replace("supernode", "courier"),
            }
        else:
            assert not known_in


def test_the_federation_trains(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    members = json.dumps(summary)
    assert all(f"hospital-{hospital}" in members for hospital in HOSPITALS)
    assert (run / "model.safetensors").exists()
    assert (run / "report.html").exists()
    assert "finished:completed" in compose("run", "--rm", "-T", "--no-deps", "coordinator", "status")


def test_the_federation_trains_with_secure_aggregation(run: Path, secured: Path) -> None:
    with (
        safe_open(run / "model.safetensors", "numpy") as plain,
        safe_open(secured / "model.safetensors", "numpy") as masked,
    ):
        for name in plain.keys():  # noqa: SIM118
            one, other = plain.get_tensor(name), masked.get_tensor(name)
            assert np.abs(one - other).max() <= 1e-4 * max(np.abs(one).max(), 1e-6)
    file = "--file /etc/consilium/hospital.yaml --out /tmp/ledger.json"
    shell("agent-a", f"consilium hospital ledger export --format json {file}")
    ledger = json.loads(shell("agent-a", "cat /tmp/ledger.json"))
    sent = [one for one in ledger["entries"] if one.get("job") == "secured" and one["decision"] == "sent"]
    assert {one["kind"] for one in sent} == {"describe", "keys", "shares", "masked", "unmask"}


@pytest.mark.usefixtures("run")
class TestEveryContainer:
    """None runs as root or could, and none writes to its own image."""

    @pytest.mark.parametrize("service", STAYING)
    def test_is_healthy(self, service: str) -> None:
        assert inspect(service)["State"]["Health"]["Status"] == "healthy"
        assert inspect(service)["RestartCount"] == 0

    @pytest.mark.parametrize("service", STAYING)
    def test_has_no_privilege(self, service: str) -> None:
        status = dict(
            line.split(":\t", 1) for line in shell(service, "cat /proc/1/status").splitlines() if ":\t" in line
        )
        assert "0" not in status["Uid"].split()
        assert "0" not in status["Gid"].split()
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"

    @pytest.mark.parametrize("service", STAYING)
    def test_cannot_write_to_its_image(self, service: str) -> None:
        for folder in ("/", "/usr/local/bin", "/etc"):
            assert shell(service, f"touch {folder}/x 2>&1", code=1).endswith("Read-only file system")

    @pytest.mark.parametrize("service", ONCE)
    def test_is_no_different_when_it_runs_once(self, service: str) -> None:
        container = inspect(service)
        assert container["State"]["ExitCode"] == 0
        assert container["Config"]["User"] in ("agent", "consilium")
        assert container["HostConfig"]["ReadonlyRootfs"]
        assert container["HostConfig"]["CapDrop"] == ["ALL"]
        assert container["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]

    @pytest.mark.parametrize("service", [*COORDINATOR, *SUPERNODES, *COURIERS])
    def test_has_no_torch_and_no_images(self, service: str) -> None:
        assert "No module named 'torch'" in python(
            service, "try:\n import torch\nexcept ImportError as error:\n print(error)"
        )
        shell(service, "test ! -e /data")
        assert not {"/data", "/var/lib/consilium/cache"} & {
            mount["Destination"] for mount in inspect(service)["Mounts"]
        }

    @pytest.mark.parametrize("service", [*COORDINATOR, *SUPERNODES, *COURIERS])
    def test_cannot_install_anything_for_a_job(self, service: str) -> None:
        assert shell(service, "command -v uv", code=None) == ""


@pytest.mark.usefixtures("run")
class TestAgent:
    """It has the patients, and no network."""

    @pytest.mark.parametrize("service", AGENTS)
    def test_has_no_interface_but_lo(self, service: str) -> None:
        assert shell(service, "ls /sys/class/net") == "lo"
        assert len(shell(service, "cat /proc/net/route").splitlines()) <= 1

    @pytest.mark.parametrize("service", AGENTS)
    def test_reads_its_images_and_cannot_change_them(self, service: str) -> None:
        assert int(shell(service, "ls /data/images | wc -l")) > 100
        assert shell(service, "touch /data/x 2>&1", code=1).endswith("Read-only file system")

    @pytest.mark.parametrize("service", AGENTS)
    def test_keeps_its_socket_to_one_group(self, service: str) -> None:
        assert shell(service, "stat -c '%a %U %G' /run/consilium /run/consilium/agent.sock").splitlines() == [
            "710 agent socket",
            "660 agent socket",
        ]

    @pytest.mark.parametrize("service", AGENTS)
    def test_sees_no_more_than_it_needs(self, service: str) -> None:
        mounts = {mount["Destination"] for mount in inspect(service)["Mounts"]}
        assert mounts == {
            "/data",
            "/etc/consilium/hospital.yaml",
            "/etc/consilium/kit",
            "/run/consilium",
            "/var/lib/consilium/cache",
            "/var/lib/consilium/state",
        }


@pytest.mark.usefixtures("run")
class TestNetworks:
    """Who can reach whom."""

    @pytest.mark.parametrize("hospital", HOSPITALS)
    def test_a_courier_reaches_its_supernode_and_no_further(self, hospital: str) -> None:
        courier = f"courier-{hospital}"
        assert connects(courier, "runtime", 9094)
        others = [f"supernode-{other}" for other in HOSPITALS if other != hospital]
        assert not any(connects(courier, host, 9094) for host in others)
        assert not connects(courier, "gateway", 8443)
        assert not connects(courier, "superlink", 8000)
        assert len(shell(courier, "ls /sys/class/net").split()) == 2  # lo and one more

    @pytest.mark.parametrize("hospital", HOSPITALS)
    def test_a_supernode_reaches_the_gateway_and_no_further(self, hospital: str) -> None:
        node = f"supernode-{hospital}"
        assert connects(node, "gateway", 8443)
        assert not connects(node, "superlink", 8000)
        shell(node, "test ! -e /run/consilium/agent.sock")

    @pytest.mark.parametrize("hospital", HOSPITALS)
    def test_a_supernode_is_not_there_for_the_gateway(self, hospital: str) -> None:
        assert not connects("gateway", f"supernode-{hospital}", 9094)

    @pytest.mark.parametrize("hospital", HOSPITALS)
    def test_a_supernode_gives_work_to_no_one_without_the_secret(self, hospital: str) -> None:
        ask = (
            "import urllib.request, urllib.error\n"
            "question = urllib.request.Request('http://runtime:9094/v1/runtime/acquire-task', b'', method='POST')\n"
            "question.add_header('Content-Type', 'application/protobuf')\n"
            "try:\n print(urllib.request.urlopen(question).status)\n"
            "except urllib.error.HTTPError as error:\n print(error.code)"
        )
        assert python(f"courier-{hospital}", ask) == "401"


class TestPublishedPort:
    """What the outside can reach."""

    @staticmethod
    def _status(path: str, trusting: ssl.SSLContext, method: str = "GET") -> int:
        request = urllib.request.Request(
            f"https://127.0.0.1:{PORT}{path}", data=b"" if method == "POST" else None, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=trusting) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return int(error.code)

    def test_is_the_only_one_and_on_loopback(self, run: Path) -> None:
        published = {service: inspect(service)["HostConfig"]["PortBindings"] for service in STAYING}
        assert {service for service, ports in published.items() if ports} == {"gateway"}
        assert published["gateway"] == {"8443/tcp": [{"HostIp": "127.0.0.1", "HostPort": PORT}]}

    def test_answers_that_it_is_well(self, trusting: ssl.SSLContext) -> None:
        assert self._status("/health", trusting) == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/control/list-runs",
            "/v1/control/start-run",
            "/v1/control/register-node",
            "/v1/runtime/acquire-task",
            "/v1/fleet/../control/list-runs",
            "/docs",
            "/",
        ],
    )
    def test_refuses_what_is_not_for_hospitals(self, path: str, trusting: ssl.SSLContext) -> None:
        assert self._status(path, trusting, "POST") == 403

    def test_knows_no_one_without_a_key(self, trusting: ssl.SSLContext) -> None:
        assert 400 <= self._status("/v1/fleet/activate-node", trusting, "POST") < 500


@pytest.mark.usefixtures("run")
def test_only_the_agent_is_large() -> None:
    sizes = {image: int(docker("image", "inspect", "--format", "{{.Size}}", f"consilium-{image}")) for image in IMAGES}
    print({image: f"{size / 1e6:.0f} MB" for image, size in sizes.items()})
    assert max(size for image, size in sizes.items() if image != "agent") < 700e6
