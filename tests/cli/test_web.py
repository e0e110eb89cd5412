"""consilium coordinator web, consilium hospital web: what they serve, and what they refuse before they start."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from common.errors import ConfigError
from common.web import serving


@pytest.fixture
def served(monkeypatch):
    """What would be served."""
    found = []
    monkeypatch.setattr(serving, "serve", lambda *arguments: found.append(arguments))
    return found


def run(*words: object) -> object:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def kit(phantoms: dict[str, Path], tmp_path: Path) -> Path:
    (tmp_path / "hospital.yaml").write_text(
        f"name: st-marys\ndata: {{folder: {phantoms['hospital-a']}}}\ncache: {tmp_path / 'cache'}\n"
    )
    return tmp_path


def test_both_are_on_loopback_by_default(served, kit, tmp_path):
    run("coordinator", "web", "--runs", tmp_path)
    run("hospital", "web", "--kit", kit)
    assert [(one[2], one[3], one[4]) for one in served] == [("127.0.0.1", 8470, None), ("127.0.0.1", 8471, None)]
    assert served[0][1].token != served[1][1].token


@pytest.mark.parametrize("side", ["coordinator", "hospital"])
def test_a_network_needs_a_proxy(served, side):
    with pytest.raises(ConfigError, match="--url https"):
        run(side, "web", "--host", "0.0.0.0")
    assert not served


def test_a_folder_that_is_not_there_is_refused(served, tmp_path):
    with pytest.raises(ConfigError, match="--runs"):
        run("coordinator", "web", "--runs", tmp_path / "nothing")


def test_the_address_holds_the_token_and_the_port_that_was_free(monkeypatch):
    said = []
    monkeypatch.setattr(serving.uvicorn.Server, "run", lambda self, sockets: said.append(sockets[0].getsockname()[1]))
    access = serving.Access("page")
    serving.serve(lambda *_: None, access, "127.0.0.1", 0, None, said.append)
    address, port = said
    assert address == f"http://127.0.0.1:{port}/login?token={access.token}"
    serving.serve(lambda *_: None, access, "127.0.0.1", 0, "https://web.example.org/", said.append)
    assert said[2] == f"https://web.example.org/login?token={access.token}"


def test_a_port_that_is_taken_is_said(monkeypatch):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="--port"):
            serving.serve(lambda *_: None, serving.Access("page"), "127.0.0.1", taken.getsockname()[1], None, print)
