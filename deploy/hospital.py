"""The processes of a hospital on one machine: the agent, Flower's SuperNode, and the courier's executor.

kit/                    the unpacked kit: kit.yaml, ca.crt, hospital.yaml, node_key
kit/run/                the supervisor's state and logs, the agent's socket, Flower's folders
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from client.agent_socket import is_serving, require_usable
from common.errors import ConfigError
from deploy.child import STARTED
from deploy.kit import CA, HOSPITAL, NODE_KEY, read_kit
from deploy.processes import executor_secret, flower_environment, free_port, tool
from deploy.supervisor import Process, log_path

RUN, SOCKET = "run", "agent.sock"
NOT_LET_IN = (
    "the coordinator does not let this hospital in. Either it does not know its key yet: send it node_key.pub, and wait until it "
    "is registered. Or this hospital is connected already: after a crash the coordinator takes it for connected for a minute more"
)
_LET_IN, _MOST_BYTES = b"SuperNode ID:", 200_000
_SIGNS = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "what answers there does not have the certificate of this kit's coordinator: ask the coordinator whether the address is "
        "right, and for a new kit",
    ),
    ("Failed to activate SuperNode", NOT_LET_IN),
    ("Connection refused", "the coordinator cannot be reached: consilium hospital doctor says more"),
    ("Name or service not known", "the coordinator's name is not known here: consilium hospital doctor says more"),
    ("ProxyError", "a proxy in the environment is in the way: consilium hospital doctor says more"),
)
"""What the SuperNode's log says when it cannot connect, and what that means. The first that is there counts."""


def run_folder(kit: Path) -> Path:
    """Where the processes of a hospital keep what they need while they run."""
    return kit.resolve() / RUN


def socket_path(kit: Path) -> Path:
    """The agent's socket."""
    return run_folder(kit) / SOCKET


def hospital_processes(kit: Path, at: Path | None = None, with_agent: bool = True) -> list[Process]:
    """What `consilium hospital join` keeps running. at: another socket than that in the kit's folder.

    with_agent: False where the agent runs by itself, as another user: then the courier cannot read what it may read.

    Raises:
        ConfigError: the kit is not complete, or the socket's path is too long.
    """
    settings, kit, folder = read_kit(kit), kit.resolve(), run_folder(kit)
    path = at or socket_path(kit)
    require_usable(path)
    key, file = kit / NODE_KEY, kit / HOSPITAL
    if not key.is_file():
        raise ConfigError(f"{key} is not there; make this hospital's key first: consilium hospital keygen --kit {kit}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    port, secret = free_port(), executor_secret(folder / "executor.secret")
    environment = flower_environment(folder / "flower")
    agent = [*without_network(), tool("consilium"), "hospital", "serve", "--file", str(file), "--socket", str(path)]
    node = [
        tool("flower-supernode"),
        *("--root-certificates", str(kit / CA), "--superlink", settings.address),
        *("--auth-supernode-private-key", str(key), "--isolation", "process", *secret),
        *("--host", "127.0.0.1", "--port", str(port), "--node-config", f'agent-socket="{path}"'),
    ]
    courier = [tool("flower-superexec"), "--insecure", "--runtime-api-address", f"127.0.0.1:{port}", *secret]
    own = [Process("agent", agent, environment, kit, ready=lambda: is_serving(path))] if with_agent else []
    return [
        *own,
        # It exits when the coordinator does not know its key, or is not there: both may change, so it tries for ever.
        Process(
            "supernode",
            node,
            environment,
            folder,
            _accepted(log_path(folder, "supernode")),
            tuple(one.name for one in own),
            give_up_after=None,
        ),
        Process("courier", courier, environment, folder, after=("supernode",), give_up_after=None),
    ]


@functools.cache
def without_network() -> tuple[str, ...]:
    """The beginning of a command that runs without a network; empty where this machine does not allow that."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    for how in (["--net"], ["--user", "--map-current-user", "--net"]):
        if subprocess.run([unshare, *how, "true"], capture_output=True, check=False).returncode == 0:
            return (unshare, *how, "--")
    return ()


def trouble(kit: Path) -> str | None:
    """Why the SuperNode does not connect, from its log, in words; None before it has said anything."""
    words = _since_start(log_path(run_folder(kit), "supernode"), before=1).decode(errors="replace")
    if not words:
        return None
    return next(
        (why for sign, why in _SIGNS if sign in words),
        "no answer from the coordinator: consilium hospital doctor says more",
    )


def _since_start(log: Path, before: int = 0) -> bytes:
    """What the process has printed since it was last started, or since so many starts before."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_BYTES))
            parts = file.read().split(STARTED)
    except OSError:
        return b""
    return STARTED.join(parts[-1 - before :])


def _accepted(log: Path) -> Callable[[], bool]:
    """Whether the coordinator let the SuperNode in: then it prints its id, and before that it listens already."""

    def ready() -> bool:
        return _LET_IN in _since_start(log)

    return ready
