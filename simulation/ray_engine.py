"""The Ray engine: the same ServerApp and ClientApp in Flower's own simulation runtime, for many hospitals and several cores.

Everything is hermetic: an own FLWR_HOME, an own SuperLink on a free loopback port with an own process group, telemetry,
update checks, dependency installation and Ray's usage statistics off. When the run ends, or fails, the group is stopped.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from client.device import cuda_devices, decoding_threads
from common.artifact import write_atomically
from common.errors import FederationError
from deploy.processes import flower_environment, free_port, tool

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent
CONNECTION = "here"
_START_S = 60.0
_STOP_S = 15.0

_APP = """[project]
name = "consilium"
version = "0.1.0"
description = "Consilium in Flower's simulation runtime"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "consilium"
fab-include = ["**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
"""


def run_with_ray(hospitals: Mapping[str, str], config: Mapping[str, str | bool], out: Path) -> None:
    """Run the app with one node per hospital (name -> folder); the coordinator writes the run directory `out`.

    Raises:
        FederationError: the runtime did not start, or the run did not complete; the log is kept in `out`.
    """
    # The name is short because Ray puts sockets below it, and their paths are limited to about 100 characters.
    with tempfile.TemporaryDirectory(prefix="consilium-", ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        write_atomically(home / "hospitals.json", json.dumps(hospitals))
        _write_app(home / "app", {**config, "hospitals": str(home / "hospitals.json")})
        port = free_port()
        (home / "flwr").mkdir()
        (home / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
            encoding="utf-8",
        )
        environment = {**flower_environment(home / "flwr"), "RAY_TMPDIR": str(home / "ray")}
        log_file = out / "ray.log"
        with _superlink(port, environment, log_file), log_file.open("a", encoding="utf-8") as output:
            resources = f"client-resources-num-cpus=1 client-resources-num-gpus={_gpu_share()}"
            federation = f"num-supernodes={len(hospitals)} {resources}"
            command = [
                tool("flwr"),
                "run",
                str(home / "app"),
                CONNECTION,
                "--stream",
                "--federation-config",
                federation,
            ]
            subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
            status = _status(environment)
        if status != "finished:completed":
            raise FederationError(f"the run in Flower's simulation runtime ended as '{status}'; its log is {log_file}")


def _write_app(folder: Path, config: Mapping[str, str | bool]) -> None:
    for package in ("common", "server", "client"):
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    lines = [
        f"{key} = {json.dumps(value)}\n" for key, value in config.items()
    ]  # JSON's strings and booleans are TOML's
    (folder / "pyproject.toml").write_text(_APP + "".join(lines), encoding="utf-8")


def _gpu_share() -> float:
    """GPUs for one client: all clients at work at once share what is there."""
    return round(min(1.0, cuda_devices() / decoding_threads()), 4)


@contextlib.contextmanager
def _superlink(port: int, environment: Mapping[str, str], log_file: Path) -> Iterator[None]:
    command = [tool("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    with log_file.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(port, process, log_file)
        yield
    finally:
        _stop(process)


def _wait_until_healthy(port: int, process: "subprocess.Popen[bytes]", log_file: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise FederationError(f"Flower's SuperLink did not start on loopback port {port}; its log is {log_file}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop the SuperLink and all it started: they share its process group."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
            if not _group_alive(process.pid):
                return


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _status(environment: Mapping[str, str]) -> str:
    """The status of the one run, as `flwr list` has it (the exit code of `flwr run` is 0 even when the run failed)."""
    command = [tool("flwr"), "list", CONNECTION, "--format", "json"]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    try:
        return str(json.loads(done.stdout)["runs"][0]["status"])
    except (ValueError, KeyError, IndexError, TypeError):
        return "unknown"
