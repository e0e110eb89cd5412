"""Flower's command line, `flwr`: the only place that calls it.

Its exit codes say nothing (0 after a failed run), so only its JSON counts. Each call takes a second or two of processor time: ask
seldom.
"""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from common.artifact import write_atomically
from common.errors import FederationError
from deploy.processes import flower_environment, tool

CONNECTION = "consilium"
COMPLETED = "finished:completed"
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Node:
    """A hospital's SuperNode as the SuperLink knows it: registered, online or offline."""

    node_id: int
    status: str


@dataclass(frozen=True)
class Run:
    """A run as the SuperLink knows it: pending, starting, running, finished:completed, :failed or :stopped."""

    run_id: int
    status: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether it is over, well or not."""
        return self.status.startswith("finished")


@dataclass(frozen=True)
class Flower:
    """A SuperLink to be asked: its address (HOST:PORT), the authority of its certificate (None: no TLS), a folder for Flower."""

    address: str
    ca: Path | None
    home: Path

    def register(self, public_key: Path, name: str) -> int:
        """Register a hospital's public key under its name; returns the node id.

        Raises:
            FederationError: it did not; also when the key is registered already.
        """
        return int(self._ask("node-id", "supernode", "register", str(public_key), CONNECTION, "--name", name))

    def unregister(self, node_id: int) -> None:
        """Forget a node.

        Raises:
            FederationError: it did not.
        """
        self._ask("success", "supernode", "unregister", str(node_id), CONNECTION)

    def supernodes(self) -> list[Node]:
        """All registered nodes.

        Raises:
            FederationError: the SuperLink cannot be asked.
        """
        found = self._ask("nodes", "supernode", "list", CONNECTION)
        nodes = [Node(int(one["node-id"]), str(one["status"])) for one in found]
        return [node for node in nodes if node.status not in ("unregistered", "deleted")]

    def run(self, app: Path, config: Path) -> int:
        """Start a run of an app; config: a TOML file of what differs from the app's run config. Returns the run id.

        Raises:
            FederationError: it did not start.
        """
        return int(self._ask("run-id", "run", str(app), CONNECTION, "--run-config", str(config)))

    def run_and_follow(self, app: Path, federation_config: str, output: IO[str]) -> None:
        """Start a run and return when it is over; its log goes to `output`. How it ended says `runs()`."""
        command = [tool("flwr"), "run", str(app), CONNECTION, "--stream", "--federation-config", federation_config]
        self._write_config()
        subprocess.run(
            command,
            env=flower_environment(self.home),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def runs(self) -> list[Run]:
        """All runs, the latest first.

        Raises:
            FederationError: the SuperLink cannot be asked.
        """
        return [_run(one) for one in self._ask("runs", "list", CONNECTION)]

    def status(self, run_id: int) -> Run:
        """One run.

        Raises:
            FederationError: there is no such run, or the SuperLink cannot be asked.
        """
        return _run(self._ask("runs", "list", CONNECTION, "--run-id", str(run_id))[0])

    def stop(self, run_id: int) -> None:
        """Stop a run.

        Raises:
            FederationError: it did not.
        """
        self._ask("success", "stop", str(run_id), CONNECTION)

    def _ask(self, key: str, *words: str) -> Any:
        """What a command answers under `key`."""
        self._write_config()
        what = f"flwr {' '.join(words[:2])}"
        try:
            done = subprocess.run(
                [tool("flwr"), *words, "--format", "json"],
                env=flower_environment(self.home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FederationError(f"{what} did not answer: {error}") from error
        answer = parse_answer(done.stdout)
        if answer is None or answer.get("success") is not True:
            said = answer.get("error-message") if answer else done.stderr or done.stdout
            raise FederationError(f"{what} at {self.address}: {_short(str(said))}")
        if key not in answer:
            raise FederationError(f"{what} answered without '{key}'; expected the answers of Flower 1.41")
        return answer[key]

    def _write_config(self) -> None:
        security = f"root-certificates = {json.dumps(str(self.ca))}" if self.ca else "insecure = true"
        text = (
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f"address = {json.dumps(self.address)}\n{security}\n"
        )
        path = self.home / "config.toml"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(path, text)


def parse_answer(output: str) -> dict[str, Any] | None:
    """The JSON object that a command prints, maybe after other lines; None if there is none."""
    for start in (match.start() for match in re.finditer(r"^\{", output, re.MULTILINE)):
        try:
            answer, _ = json.JSONDecoder().raw_decode(output, start)
        except ValueError:
            continue
        if isinstance(answer, dict):
            return answer
    return None


def _run(one: dict[str, Any]) -> Run:
    return Run(int(one["run-id"]), str(one["status"]), str(one.get("status-details") or ""))


def _short(text: str) -> str:
    """What Flower said, without its frames and empty lines."""
    lines = [re.sub(r"[│╭╮╰╯─]", "", line).strip() for line in text.splitlines()]
    return (
        " ".join(line for line in lines if line and not line.startswith("Using SuperLink"))[:1000] or "it said nothing"
    )
