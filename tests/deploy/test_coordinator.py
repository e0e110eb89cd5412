"""The processes of `up`, as commands; tests/system starts them."""

import itertools
import socket
from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy.coordinator import is_up, own_address, processes, require_up, superlink_address, taken_ports, up
from deploy.federation import Federation
from deploy.gateway import find_nginx
from deploy.health import https_status, is_port_taken


def test_the_superlink_is_on_loopback_with_tls_and_node_keys(federation: Federation, nginx: str) -> None:
    superlink, executor, gateway = processes(federation)
    command = list(superlink.command)
    options = dict(itertools.pairwise(command))
    assert options["--host"] == "127.0.0.1"
    assert options["--port"] == str(federation.settings.superlink_port)
    assert options["--isolation"] == "process"
    assert options["--database"] == str(federation.state / "superlink.db")
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(command)
    assert "--insecure" not in (*command, *executor.command)
    for option in ("--ssl-ca-certfile", "--ssl-certfile", "--ssl-keyfile"):
        assert Path(options[option]).is_file()
    assert gateway.command[0] == find_nginx()


def test_hospitals_can_call_only_when_all_else_is_ready(federation: Federation, nginx: str) -> None:
    superlink, executor, gateway = processes(federation)
    assert superlink.after == ()
    assert executor.after == gateway.after == ("superlink",)
    assert superlink.ready is not None
    assert not superlink.ready()


def test_every_process_has_a_flower_folder_of_its_own_and_phones_nobody(federation: Federation, nginx: str) -> None:
    made = processes(federation)
    homes = {one.environment["FLWR_HOME"] for one in made}
    assert len(homes) == 3
    for one in made:
        assert one.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert one.environment["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] == "0.2"


def test_what_is_not_up_says_how_to_start_it(federation: Federation) -> None:
    assert not is_up(federation)
    with pytest.raises(ConfigError, match=r"not up: no SuperLink answers at 127\.0\.0\.1:\d+\. Start it"):
        require_up(federation)


def test_a_superlink_elsewhere_is_named_by_the_environment(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIUM_SUPERLINK", "superlink:8000")
    assert superlink_address(federation) == ("superlink", 8000)
    monkeypatch.setenv("CONSILIUM_SUPERLINK", "superlink")
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        superlink_address(federation)


def test_a_port_of_another_program_is_found_before_anything_starts(federation: Federation, nginx: str) -> None:
    assert taken_ports(federation) == []
    with socket.create_server(("127.0.0.1", federation.settings.superlink_port)):
        assert taken_ports(federation) == [federation.settings.superlink_port]
        with pytest.raises(ConfigError, match=f"port {federation.settings.superlink_port} is taken by another program"):
            up(federation)
    assert not (federation.folder / "logs").exists()


def test_a_broken_certificate_is_found_before_anything_starts(federation: Federation, nginx: str) -> None:
    (federation.certificates / "server.key").write_text("nothing")
    with pytest.raises(ConfigError, match=r"the gateway cannot run: .*server\.key"):
        up(federation)


def test_addresses_of_this_machine() -> None:
    assert [own_address(one) for one in ("0.0.0.0", "::", "192.0.2.7")] == ["127.0.0.1", "::1", "192.0.2.7"]


def test_who_does_not_speak_tls_is_not_healthy(federation: Federation) -> None:
    address = ("127.0.0.1", federation.settings.port)
    assert not is_port_taken(address)
    with pytest.raises(OSError, match="refused"):
        https_status(address, "localhost", federation.ca)
