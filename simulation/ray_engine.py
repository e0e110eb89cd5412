"""The Ray engine: the same ServerApp and ClientApp in Flower's own simulation runtime, for many hospitals and several cores.

Everything is hermetic: an own FLWR_HOME, an own SuperLink on a free loopback port with an own process group, telemetry,
update checks, dependency installation and Ray's usage statistics off. When the run ends, or fails, the group is stopped.
"""

import contextlib
import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from client.device import cuda_devices, decoding_threads
from common.artifact import write_atomically
from common.errors import FederationError
from deploy.bundle import write_app
from deploy.child import end
from deploy.flower import COMPLETED, Flower
from deploy.processes import flower_environment, free_port, tool

_START_S = 60.0
_STOP_S = 15.0


def run_with_ray(hospitals: Mapping[str, str], config: Mapping[str, str | bool], out: Path) -> None:
    """Run the app with one node per hospital (name -> folder); the coordinator writes the run directory `out`.

    Raises:
        FederationError: the runtime did not start, or the run did not complete; the log is kept in `out`.
    """
    # The name is short because Ray puts sockets below it, and their paths are limited to about 100 characters.
    with tempfile.TemporaryDirectory(prefix="consilium-", ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        write_atomically(home / "hospitals.json", json.dumps(hospitals))
        write_app(home / "app", {**config, "hospitals": str(home / "hospitals.json")}, courier_only=False)
        port = free_port()
        flower = Flower(f"127.0.0.1:{port}", None, home / "flwr")
        environment = {**flower_environment(flower.home), "RAY_TMPDIR": str(home / "ray")}
        log_file = out / "ray.log"
        with _superlink(port, environment, log_file), log_file.open("a", encoding="utf-8") as output:
            resources = f"client-resources-num-cpus=1 client-resources-num-gpus={_gpu_share()}"
            flower.run_and_follow(home / "app", f"num-supernodes={len(hospitals)} {resources}", output)
            status = next((run.status for run in flower.runs()), "never started")
        if status != COMPLETED:
            raise FederationError(f"the run in Flower's simulation runtime ended as '{status}'; its log is {log_file}")


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
        end(process, _STOP_S)


def _wait_until_healthy(port: int, process: "subprocess.Popen[bytes]", log_file: Path) -> None:
    limit = time.monotonic() + _START_S
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise FederationError(f"Flower's SuperLink did not start on loopback port {port}; its log is {log_file}")
