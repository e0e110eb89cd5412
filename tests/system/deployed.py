"""A real federation on this machine: a coordinator behind its gateway, and hospitals that joined with their own keys."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.agent_status import read_status
from common.job import Job
from deploy.processes import free_port
from deploy.supervisor import State, read_state
from server.now import NOW

PROJECT = Path(__file__).resolve().parents[2]
HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    pytest.fail(f"not within {seconds:g} s: {what}")


class Deployment:
    """The federation's folder, the hospitals' kits, and the commands that people give."""

    def __init__(self, folder: Path, phantoms: dict[str, Path]) -> None:
        self.folder, self.federation, self.phantoms = folder, folder / "federation", phantoms
        self.port, self.superlink_port = free_port(), free_port()
        self.environment = {**os.environ, "CONSILIUM_FEDERATION": str(self.federation), "COLUMNS": "120"}

    def kit(self, hospital: str) -> Path:
        return self.folder / hospital

    def weights(self, hospital: str) -> Path:
        return self.folder / f"weights-{hospital}"

    def cli(self, *words: object, seconds: float = 300, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """A `consilium` command; `code` is the exit code it must have, None for any."""
        command = [sys.executable, "-m", "cli.main", *map(str, words)]
        done = subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=False, timeout=seconds
        )
        if code is not None and done.returncode != code:
            pytest.fail(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self) -> None:
        hospitals = [word for name in HOSPITALS for word in ("--hospital", name)]
        ports = ("--port", self.port, "--superlink-port", self.superlink_port)
        self.cli("coordinator", "provision", "--name", "chest", "--host", "localhost", *ports, *hospitals)
        for name in HOSPITALS:
            shutil.copytree(self.federation / "kits" / name, self.kit(name))
            self.cli("hospital", "keygen", "--kit", self.kit(name))
            self.write_hospital_file(name)
            self.cli("coordinator", "provision", "--register", f"{name}={self.kit(name) / 'node_key.pub'}")
        self.cli("coordinator", "up", "--detach")
        for name in HOSPITALS:
            self.cli("hospital", "roster", self.federation / "roster.txt", "--yes", "--kit", self.kit(name))
            self.cli("hospital", "join", "--detach", "--kit", self.kit(name))

    def write_hospital_file(self, name: str) -> None:
        content = {
            "name": name,
            "data": {"folder": str(self.phantoms[name])},
            "cache": str(self.folder / f"cache-{name}"),
            "state": str(self.folder / f"state-{name}"),
            "weights_dir": str(self.weights(name)),
            "device": "cpu",
        }
        (self.kit(name) / "hospital.yaml").write_text(yaml.safe_dump(content))

    def down(self) -> None:
        for name in HOSPITALS:
            self.cli("hospital", "stop", "--kit", self.kit(name), code=None)
        self.cli("coordinator", "stop", code=None)

    def approve(self, job: Job) -> Path:
        """Every hospital approves the job; gives its file."""
        path = self.folder / f"{job.name}.yaml"
        path.write_text(yaml.safe_dump(job.model_dump(mode="json", exclude_none=True)))
        for name in HOSPITALS:
            self.cli("hospital", "approve", "--yes", path, "--kit", self.kit(name))
        return path

    def run(self, job: Job, code: int = 0) -> Path:
        """Train a job as the coordinator's people do; gives the run's folder."""
        done = self.cli("coordinator", "run", self.approve(job), code=code)
        return self._folder_in(done.stdout)

    def start(self, job: Job) -> Path:
        """Start a job, and leave it going; gives the run's folder.

        A hospital may still be at a run that lost it: that one ends first.
        """
        until(lambda: not any(map(self.fitting, HOSPITALS)), 120, "every hospital is done with the run before")
        return self._folder_in(self.cli("coordinator", "run", "--detach", self.approve(job)).stdout)

    def _folder_in(self, output: str) -> Path:
        return Path(next(line for line in output.splitlines() if line.startswith("run ")).split(" in ", 1)[1])

    def rounds(self, run: Path) -> list[dict[str, Any]]:
        """The rounds that were judged so far."""
        path = run / "rounds.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def finish(self, run: Path, seconds: float = 240) -> dict[str, Any]:
        """Wait for a run's summary."""
        until(lambda: (run / "summary.json").exists() or (run / "failure.json").exists(), seconds, "the run ends")
        assert (run / "summary.json").exists(), (run / "failure.json").read_text()
        return json.loads((run / "summary.json").read_text())

    def processes(self, hospital: str | None = None) -> State:
        """The supervisor's state at a hospital, or at the coordinator."""
        state = read_state(self.kit(hospital) / "run" if hospital else self.federation)
        assert state is not None
        return state

    def fitting(self, hospital: str) -> bool:
        """Whether a hospital's agent is training right now, for whatever run."""
        status = read_status(self.folder / f"state-{hospital}")
        return status is not None and status.doing == "fit"

    def fits_round(self, hospital: str, run: Path) -> int | None:
        """The round of this run that a hospital's agent is training for right now; None while it is not."""
        try:
            now = json.loads((run / NOW).read_text())
        except FileNotFoundError:
            return None
        asked = now["kind"] == "fit" and now["hospitals"].get(hospital, {}).get("state") == "asked"
        return int(now["round"]) if asked and self.fitting(hospital) else None

    def children(self, hospital: str, command: str) -> list[int]:
        """Processes of a command of Flower (flwr-clientapp, flwr-serverapp) that belong to a hospital or the coordinator."""
        home = str(self.kit(hospital) / "run") if hospital else str(self.federation)
        return [pid for pid, words in running() if any(command in word for word in words[:2]) and home in _home(pid)]


def running() -> list[tuple[int, list[str]]]:
    """All processes of this machine and their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(path.parent.name), path.read_bytes().decode(errors="replace").split("\0")))
        except OSError:
            continue
    return found


def _home(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return next((word.removeprefix("FLWR_HOME=") for word in words if word.startswith("FLWR_HOME=")), "")
