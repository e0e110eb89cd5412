"""consilium coordinator, without Flower: what it makes, says and refuses. tests/system starts the real thing."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.main import app
from common.errors import ConfigError
from deploy.flower import Node, Run
from deploy.node_key import make_node_key
from deploy.processes import free_port

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def coordinator(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process: exit code and standard output; errors are raised."""
    monkeypatch.setenv("CONSILIUM_FEDERATION", str(tmp_path / "federation"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("CONSILIUM_SUPERLINK", raising=False)

    def run(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = app(["coordinator", *map(str, words)], standalone_mode=False)
        return code or 0, capsys.readouterr().out

    return run


@pytest.fixture
def folder(coordinator: Command, tmp_path: Path) -> Path:
    ports = ("--port", free_port(), "--superlink-port", free_port())
    coordinator(
        "provision", "--name", "chest", "--host", "localhost", *ports, "--hospital", "st-marys", "--hospital", "charite"
    )
    return tmp_path / "federation"


def settings(folder: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((folder / "federation.yaml").read_text())
    return content


def test_provision_makes_a_federation_and_says_what_is_next(coordinator: Command, folder: Path) -> None:
    assert settings(folder)["listen"] == "127.0.0.1"
    assert (folder / "kits" / "charite.zip").is_file()
    assert stat.S_IMODE((folder / "certificates" / "ca.key").stat().st_mode) == 0o600
    code, out = coordinator("provision")
    assert code == 0
    assert out.count("not here yet") == 2
    assert "send each hospital its kit" in out


def test_provision_again_changes_nothing(coordinator: Command, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    coordinator("provision", "--name", "chest", "--host", "localhost", "--hospital", "st-marys")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_host_out_there_is_listened_to_on_all_addresses(coordinator: Command, tmp_path: Path) -> None:
    coordinator("provision", "--name", "chest", "--host", "fed.example.org")
    assert settings(tmp_path / "federation")["listen"] == "0.0.0.0"


def test_provision_needs_name_and_host_once(coordinator: Command) -> None:
    with pytest.raises(ConfigError, match="give --name NAME and --host HOST, too"):
        coordinator("provision", "--hospital", "st-marys")


def test_a_federation_keeps_its_name(coordinator: Command, folder: Path) -> None:
    with pytest.raises(ConfigError, match="is the federation 'chest'"):
        coordinator("provision", "--name", "brain")


def test_a_further_name_renews_the_certificate_and_a_new_address_the_kits(coordinator: Command, folder: Path) -> None:
    certificate, authority = folder / "certificates" / "server.crt", folder / "certificates" / "ca.crt"
    before, kept = certificate.read_bytes(), authority.read_bytes()
    coordinator("provision", "--san", "other.example.org")
    assert certificate.read_bytes() != before
    _, out = coordinator("provision", "--host", "fed.example.org")
    assert "every hospital needs its new kit" in out
    assert yaml.safe_load((folder / "kits" / "charite" / "kit.yaml").read_text())["host"] == "fed.example.org"
    before = certificate.read_bytes()
    coordinator("provision", "--renew")
    assert certificate.read_bytes() != before
    assert authority.read_bytes() == kept


def test_keys_are_taken_replaced_and_removed(coordinator: Command, folder: Path, tmp_path: Path) -> None:
    first, second = make_node_key(tmp_path / "one"), make_node_key(tmp_path / "two")
    _, out = coordinator("provision", "--register", f"st-marys={tmp_path / 'one.pub'}")
    assert first in out
    assert "keys are registered when it is" in out
    with pytest.raises(ConfigError, match="--replace"):
        coordinator("provision", "--register", f"st-marys={tmp_path / 'two.pub'}")
    coordinator("provision", "--replace", "--register", f"st-marys={tmp_path / 'two.pub'}")
    assert settings(folder)["hospitals"] == {"st-marys": second, "charite": None}
    coordinator("provision", "--remove", "st-marys")
    assert settings(folder)["hospitals"] == {"charite": None}
    assert not (folder / "kits" / "st-marys.zip").exists()


def test_a_private_key_sent_by_mistake_is_refused(coordinator: Command, folder: Path, tmp_path: Path) -> None:
    make_node_key(tmp_path / "one")
    with pytest.raises(ConfigError, match="is a PRIVATE key"):
        coordinator("provision", "--register", f"st-marys={tmp_path / 'one'}")
    for text in ("st-marys", "=x", "st-marys="):
        with pytest.raises(ConfigError, match=r"expected NAME=FILE\.pub"):
            coordinator("provision", "--register", text)


def test_commands_that_need_it_refuse_when_it_is_not_up(coordinator: Command, folder: Path) -> None:
    with pytest.raises(ConfigError, match="the coordinator is not up"):
        coordinator("run", DEMO)
    assert not list((folder / "runs").iterdir())
    assert "nothing runs here" in coordinator("stop")[1]
    with pytest.raises(ConfigError, match="no run 'x'"):
        coordinator("resume", "x")


def test_a_folder_that_is_none_is_explained(coordinator: Command) -> None:
    for words in (("up",), ("status",), ("doctor",), ("stop",), ("run", DEMO)):
        with pytest.raises(ConfigError, match=r"has no federation\.yaml"):
            coordinator(*words)


def test_status_of_a_coordinator_that_is_not_up(coordinator: Command, folder: Path) -> None:
    _, out = coordinator("status")
    assert "398 days left" in out
    assert "not up" in out
    assert "st-marys" in out


def test_doctor_tells_people_and_programs(coordinator: Command, folder: Path) -> None:
    code, out = coordinator("doctor", "--format", "json")
    found = json.loads(out)
    assert {"permissions", "certificate", "ports", "nginx", "st-marys"} <= {one["check"] for one in found}
    assert code == any(one["level"] == "error" for one in found)
    assert coordinator("doctor", "--job", DEMO)[0] == 1
    with pytest.raises(ConfigError, match="expected one of table, json"):
        coordinator("doctor", "--format", "xml")


class FakeFlower:
    """Runs end as told; the run's files are those the test wants."""

    def __init__(self, status: str, files: dict[str, str]) -> None:
        self.ending, self.files, self.stopped = status, files, list[int]()

    def run(self, app: Path, config: Path) -> int:
        for name, content in self.files.items():
            (config.parent / name).write_text(content)
        return 7

    def status(self, run_id: int) -> Run:
        return Run(run_id, self.ending, "")

    def stop(self, run_id: int) -> None:
        self.stopped.append(run_id)

    def supernodes(self) -> list[Node]:
        return []

    def runs(self) -> list[Run]:
        return [Run(7, self.ending, "")]


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., FakeFlower]:
    def install(status: str, **files: str) -> FakeFlower:
        fake = FakeFlower(status, {f"{name}.json": content for name, content in files.items()})
        monkeypatch.setattr("deploy.coordinator.is_up", lambda _: True)
        monkeypatch.setattr("deploy.coordinator.flower_of", lambda _: fake)
        monkeypatch.setattr("cli.coordinator_status.is_up", lambda _: True)
        monkeypatch.setattr("cli.coordinator_status.flower_of", lambda _: fake)
        return fake

    return install


def test_a_run_that_completes_prints_its_summary(
    coordinator: Command, flower: Callable[..., FakeFlower], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr("server.summary_table.print_summary", lambda summary, _: shown.append(summary))
    flower("finished:completed", summary='{"metrics": 1}')
    code, out = coordinator("run", DEMO)
    assert code == 0
    assert shown == [{"metrics": 1}]
    assert "job id 83abe2d4" in out or "job id " in out
    assert "model.safetensors" in out
    run = next((folder / "runs").iterdir()).name
    assert "finished:completed" in coordinator("status")[1]
    with pytest.raises(ConfigError, match="is a finished run"):
        coordinator("resume", run)


def test_a_run_that_fails_has_its_exit_code(
    coordinator: Command, flower: Callable[..., FakeFlower], capsys: pytest.CaptureFixture[str]
) -> None:
    flower("finished:failed", failure='{"error": "too few hospitals", "kind": "FederationError", "exit_code": 6}')
    assert coordinator("run", DEMO)[0] == 6
    flower("finished:failed", summary="{}")
    assert coordinator("run", DEMO)[0] == 6


def test_ctrl_c_leaves_the_run_going(
    coordinator: Command, flower: Callable[..., FakeFlower], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    fake = flower("running")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.runs.follow", interrupt)
    code, out = coordinator("run", DEMO)
    assert code == 130
    assert "the run goes on" in out
    run = next((folder / "runs").iterdir()).name
    assert f"consilium coordinator stop {run}" in out
    assert fake.stopped == []
    with pytest.raises(ConfigError, match=r"no checkpoint|still going"):
        coordinator("resume", run)
    assert "is stopped" in coordinator("stop", run)[1]
    assert fake.stopped == [7]
    fake.ending = "finished:stopped"
    assert "is over already" in coordinator("stop", run)[1]


def test_a_detached_run_returns_at_once(coordinator: Command, flower: Callable[..., FakeFlower]) -> None:
    flower("running")
    code, out = coordinator("run", DEMO, "--detach")
    assert code == 0
    assert "see it: consilium coordinator status" in out


@pytest.mark.parametrize("command", ["provision", "up", "run", "resume", "status", "stop", "report", "doctor"])
def test_every_command_has_help(coordinator: Command, command: str) -> None:
    code, out = coordinator(command, "--help")
    assert code == 0
    assert len(out.splitlines()) > 8
