import os
import socket
import sys
from pathlib import Path

from deploy.processes import QUIET, flower_environment, free_port, tool


def test_nothing_phones_home(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert QUIET.items() <= environment.items()


def test_this_pythons_commands_are_found_first(tmp_path: Path) -> None:
    assert flower_environment(tmp_path)["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert flower_environment(tmp_path)["FLWR_HOME"] == str(tmp_path)
    assert Path(tool("flwr")).parent == Path(sys.executable).parent


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
