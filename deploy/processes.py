"""What every process of Flower that is started here gets: the right commands, and an environment in which nothing phones home."""

import os
import secrets
import socket
import sys
from pathlib import Path

from common.artifact import write_atomically
from common.telemetry import OFF

QUIET = {
    **OFF,
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}
"""Environment in which nothing phones home and nothing is installed on the way."""
_OWN = ("127.0.0.1", "localhost")


def tool(name: str) -> str:
    """A command of the Python installation that runs this.

    Not `python -m`: that would look for modules in the current folder first, which may be a kit that a coordinator filled.
    """
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def flower_environment(flwr_home: Path) -> dict[str, str]:
    """The environment of a Flower process whose own folder is `flwr_home`; to this machine itself it uses no proxy."""
    # Flower starts its other processes by name: they must be found first where this Python's are.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    spared = ",".join([*filter(None, given.split(",")), *_OWN])
    return {**os.environ, **QUIET, "FLWR_HOME": str(flwr_home), "PATH": path, "NO_PROXY": spared, "no_proxy": spared}


def executor_secret(path: Path) -> list[str]:
    """Options by which Flower's server or node knows its own executor: no other program of this machine may take its work.

    The secret is made at `path` (mode 0600) if it is not there.
    """
    if not path.exists():
        write_atomically(path, secrets.token_hex(32), 0o600)
    return ["--superexec-auth-secret-file", str(path)]
