"""`flwr` itself is not called here (tests/system does): a small script in its place says what it was asked and answers."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

from common.errors import FederationError
from deploy.flower import Flower, Node, Run, parse_answer

SCRIPT = """#!{python} -S
import json, os, sys
folder = os.path.dirname(os.path.abspath(__file__))
with open(folder + "/asked", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
print(open(folder + "/answer").read())
sys.exit(int(open(folder + "/code").read()))
"""


class Fake:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "flwr").write_text(SCRIPT.format(python=sys.executable))
        (folder / "flwr").chmod(0o700)
        monkeypatch.setattr("deploy.flower.tool", lambda name: str(folder / name))
        self.flower = Flower("127.0.0.1:8000", folder / "ca.crt", folder / "home")

    def answers(self, answer: object, code: int = 0) -> Flower:
        (self.folder / "answer").write_text(answer if isinstance(answer, str) else json.dumps(answer))
        (self.folder / "code").write_text(str(code))
        return self.flower

    @property
    def asked(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "asked").read_text().splitlines()]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


def test_a_key_is_registered_under_the_hospitals_name(fake: Fake) -> None:
    assert fake.answers({"success": True, "node-id": 168}).register(Path("/k/a.pub"), "st-marys") == 168
    assert fake.asked == [["supernode", "register", "/k/a.pub", "consilium", "--name", "st-marys", "--format", "json"]]


def test_the_connection_is_tls_with_our_authority(fake: Fake, tmp_path: Path) -> None:
    fake.answers({"success": True, "runs": []}).runs()
    connection = tomllib.loads((tmp_path / "home" / "config.toml").read_text())["superlink"]["consilium"]
    assert connection == {"address": "127.0.0.1:8000", "root-certificates": str(tmp_path / "ca.crt")}


def test_nodes_and_runs_are_read(fake: Fake) -> None:
    nodes = [{"node-id": "1", "status": "online"}, {"node-id": "2", "status": "unregistered"}]
    assert fake.answers({"success": True, "nodes": nodes}).supernodes() == [Node(1, "online")]
    runs = [{"run-id": "7", "status": "finished:failed", "status-details": "why"}, {"run-id": "6", "status": "running"}]
    found = fake.answers({"success": True, "runs": runs}).runs()
    assert found == [Run(7, "finished:failed", "why"), Run(6, "running", "")]
    assert [run.finished for run in found] == [True, False]
    assert fake.flower.status(7) == found[0]
    assert fake.asked[-1] == ["list", "consilium", "--run-id", "7", "--format", "json"]


def test_a_run_is_started_with_its_config_in_a_file(fake: Fake) -> None:
    assert fake.answers({"success": True, "run-id": "99"}).run(Path("/app"), Path("/run.toml")) == 99
    assert fake.asked == [["run", "/app", "consilium", "--run-config", "/run.toml", "--format", "json"]]


def test_a_failure_is_one_whatever_the_exit_code(fake: Fake) -> None:
    message = "Using SuperLink: consilium (127.0.0.1:8000)\n\nSuperLink unavailable"
    for code in (0, 1):
        with pytest.raises(FederationError, match=r"^flwr stop 7 at 127\.0\.0\.1:8000: SuperLink unavailable$"):
            fake.answers({"success": False, "error-message": message}, code).stop(7)
    assert fake.answers({"success": True, "run-id": "7"}, 1).run(Path("a"), Path("b")) == 7


@pytest.mark.parametrize("answer", ["", "Traceback ...", "[1]", '{"success": true'])
def test_an_answer_that_is_none_is_an_error(fake: Fake, answer: str) -> None:
    with pytest.raises(FederationError, match="flwr list consilium at"):
        fake.answers(answer).runs()


def test_a_missing_key_and_a_missing_command_are_named(fake: Fake) -> None:
    with pytest.raises(FederationError, match=r"answered without 'runs'; expected the answers of Flower 1\.41"):
        fake.answers({"success": True}).runs()
    (fake.folder / "flwr").unlink()
    with pytest.raises(FederationError, match="did not answer"):
        fake.flower.runs()


def test_the_answer_is_found_among_other_lines() -> None:
    assert parse_answer('a note {x}\n{broken\n{"success": true}\nmore') == {"success": True}
    assert parse_answer("nothing") is None
