"""The gateway with a real nginx, in front of a small HTTPS server in the SuperLink's place."""

import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.errors import ConfigError
from deploy.federation import Federation, Settings, save
from deploy.gateway import IN_A_CONTAINER, check_config, command, config_text, find_nginx, gateway_of, write_config
from deploy.health import https_status, is_healthy, is_port_taken
from deploy.processes import free_port

PULL = "POST /v1/fleet/pull-messages HTTP/1.1"


@dataclass
class Seen:
    """What reached the server behind the gateway."""

    lines: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Running:
    federation: Federation
    seen: Seen
    log: Path

    def send(self, request: bytes | str) -> int:
        """The status that a raw request gets; 0 if there is none."""
        federation = self.federation
        context = ssl.create_default_context(cafile=str(federation.ca))
        with (
            socket.create_connection(("127.0.0.1", federation.settings.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(request if isinstance(request, bytes) else request.encode("latin-1"))
            line = connection.makefile("rb").readline().split()
            return int(line[1]) if line and line[0].startswith(b"HTTP/") else 0

    def ask(self, line: str, *headers: str, body: bytes = b"") -> int:
        head = [line, "Host: localhost", f"Content-Length: {len(body)}", *headers, "Connection: close"]
        return self.send("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536

    def _answer(self) -> None:
        seen: Seen = self.server.seen  # type: ignore[attr-defined]
        seen.lines.append(self.requestline)
        seen.headers.append({name.lower(): value for name, value in self.headers.items()})
        seen.bodies.append(self.rfile.read(int(self.headers.get("content-length", 0))))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if shutil.which("nginx") is None and not Path("/usr/sbin/nginx").exists():
        pytest.skip("nginx is not installed (make nginx)")
    folder = tmp_path_factory.mktemp("gateway")
    settings = Settings(
        name="chest", host="localhost", listen="127.0.0.1", port=free_port(), superlink_port=free_port()
    )
    federation = save(folder / "a federation", settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(federation.certificates / "server.crt", federation.certificates / "server.key")
    server = ThreadingHTTPServer(("127.0.0.1", settings.superlink_port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.seen = seen = Seen()  # type: ignore[attr-defined]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    log = folder / "gateway.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command(write_config(gateway_of(federation))), stdout=output, stderr=output)
    try:
        limit = time.monotonic() + 20
        while not is_healthy(("127.0.0.1", settings.port), "localhost", federation.ca):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.02)
        yield Running(federation, seen, log)
    finally:
        process.terminate()
        process.wait(10)
        server.shutdown()
        server.server_close()


@pytest.fixture
def gateway(running: Running) -> Running:
    running.seen.lines.clear()
    running.seen.headers.clear()
    running.seen.bodies.clear()
    return running


FLEET = (
    "register-node",
    "activate-node",
    "deactivate-node",
    "unregister-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)


@pytest.mark.parametrize("name", FLEET)
def test_what_hospitals_need_passes_unchanged(gateway: Running, name: str) -> None:
    assert gateway.ask(f"POST /v1/fleet/{name} HTTP/1.1", "flwr-signature: abc", body=b"\x00\x01") == 200
    assert gateway.seen.lines == [f"POST /v1/fleet/{name} HTTP/1.1"]
    assert gateway.seen.bodies == [b"\x00\x01"]
    assert gateway.seen.headers[0]["flwr-signature"] == "abc"


def test_flower_asks_for_nothing_else(gateway: Running) -> None:
    import flwr.supernode.fleet_http_client as client

    assert client.__file__
    assert set(re.findall(r'"/v1/fleet/([^"]+)"', Path(client.__file__).read_text())) == set(FLEET)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/",
        "/docs",
        "/openapi.json",
        "/v1/fleet",
        "/v1/fleet/",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/./pull-messages",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/%2E%2E%2Fcontrol%2Flist-runs",
        "/v1/fleet/..;/control/list-runs",
        "/v1/fleet//pull-messages",
        "//v1/fleet/pull-messages",
        "/v1/fleet\\..\\control\\list-runs",
        "/v1/fleet/pull-messages/../../control/list-runs",
        "/v1/fleet/pull-messages?x=/v1/control/list-runs",
        "/v1/fleet/pull-messages?",
        "/v1/fleet/pull-messages#x",
        "/v1/fleet/pull%2dmessages",
        "/v1/fleet/pull-messages%00",
        "/v1/fleet/pull-messages%20",
        "/v1/fleet/pull-messages/",
        "/V1/FLEET/PULL-MESSAGES",
        "/v1/control/../fleet/pull-messages",
        "/%76%31/fleet/pull-messages",
        "/v1/control/list-runs%3f/v1/fleet/pull-messages",
        "/health/../v1/control/list-runs",
        "/health?",
        "/health/",
        "http://localhost/v1/control/list-runs",
        "https://localhost/v1/fleet/../control/list-runs",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_else_passes(gateway: Running, method: str, target: str) -> None:
    assert gateway.ask(f"{method} {target} HTTP/1.1") in (400, 403)
    assert gateway.seen.lines == []


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /v1/fleet/pull-messages HTTP/1.1",
        "HEAD /v1/fleet/pull-messages HTTP/1.1",
        "PUT /v1/fleet/pull-messages HTTP/1.1",
        "DELETE /v1/fleet/pull-messages HTTP/1.1",
        "OPTIONS /v1/fleet/pull-messages HTTP/1.1",
        "PATCH /v1/fleet/pull-messages HTTP/1.1",
        "TRACE /v1/fleet/pull-messages HTTP/1.1",
        "CONNECT /v1/fleet/pull-messages HTTP/1.1",
        "CONNECT localhost:8000 HTTP/1.1",
        "POST /health HTTP/1.1",
        "post /v1/fleet/pull-messages HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET /v1/control/list-runs",
    ],
)
def test_no_other_method_passes(gateway: Running, request_line: str) -> None:
    assert gateway.ask(request_line) in (0, 400, 403, 405)
    assert gateway.seen.lines == []


@pytest.mark.parametrize(
    "hidden",
    [
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Content-Length: 4\r\nContent-Length: 60",
        "Transfer-Encoding: xchunked",
    ],
)
def test_a_second_request_cannot_hide_in_the_first(gateway: Running, hidden: str) -> None:
    second = "POST /v1/control/list-runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    gateway.send(f"{PULL}\r\nHost: localhost\r\n{hidden}\r\n\r\n0\r\n\r\n{second}")
    assert not [line for line in gateway.seen.lines if "control" in line]
    assert not [body for body in gateway.seen.bodies if b"control" in body]


def test_pipelined_requests_are_looked_at_one_by_one(gateway: Running) -> None:
    first = f"{PULL}\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    second = "POST /v1/control/list-runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert gateway.send(first + second) == 200
    assert gateway.seen.lines == [PULL]


def test_no_connection_is_upgraded_and_no_header_makes_another_address(gateway: Running) -> None:
    headers = ("Upgrade: websocket", "Connection: Upgrade, close", "X-Forwarded-For: 192.0.2.1", "Host: other")
    for header in headers:
        assert gateway.send(f"{PULL}\r\nHost: x\r\nContent-Length: 0\r\n{header}\r\n\r\n") in (200, 400)
    for got in gateway.seen.headers:
        assert not {"upgrade", "connection"} & set(got)
        assert (got["host"], got["x-forwarded-for"]) == ("localhost", "127.0.0.1")


def test_pieces_of_arrays_pass_and_more_does_not(gateway: Running) -> None:
    piece = bytes(5 * 2**20 + 1000)
    assert gateway.ask("POST /v1/fleet/push-object HTTP/1.1", body=piece) == 200
    assert [len(body) for body in gateway.seen.bodies] == [len(piece)]
    head = "POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nContent-Length: 17000000\r\n\r\n"
    assert gateway.send(head) == 413


def test_bursts_of_one_address_are_no_attack(gateway: Running) -> None:
    request = f"{PULL}\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    federation = gateway.federation
    context = ssl.create_default_context(cafile=str(federation.ca))
    with (
        socket.create_connection(("127.0.0.1", federation.settings.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        stream = connection.makefile("rb")
        for _ in range(100):
            connection.sendall(request.encode())
            assert stream.readline().split()[1] == b"200"
            while stream.readline() != b"\r\n":
                pass
            stream.read(2)


def test_only_tls_of_today_is_spoken(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", gateway.federation.settings.port), 10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert plain.recv(100).split()[1] == b"400"
    context = ssl.create_default_context(cafile=str(gateway.federation.ca))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", gateway.federation.settings.port), 10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_the_log_has_what_is_needed_and_no_secrets(gateway: Running) -> None:
    gateway.ask("POST /v1/fleet/activate-node HTTP/1.1", "flwr-signature: secret-one")
    gateway.ask("POST /v1/control/list-runs?token=secret-two HTTP/1.1", "Authorization: secret-three")
    gateway.ask(PULL)
    limit = time.monotonic() + 10
    while (text := gateway.log.read_text()).count("/v1/control/list-runs") < 1:
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert '"POST /v1/fleet/activate-node" 200' in text
    assert '"POST /v1/control/list-runs" 403' in text
    assert "secret" not in text
    assert '"POST /v1/fleet/pull-messages" 200' not in text


def test_all_that_nginx_writes_is_in_the_folder(gateway: Running) -> None:
    assert {path.name for path in gateway.federation.gateway.iterdir()} == {
        "nginx.conf",
        "nginx.pid",
        *("body", "proxy", "fastcgi", "uwsgi", "scgi"),
    }


def test_the_server_does_not_say_its_version(gateway: Running) -> None:
    assert (
        https_status(("127.0.0.1", gateway.federation.settings.port), "localhost", gateway.federation.ca, "/docs")
        == 403
    )
    text = config_text(gateway_of(gateway.federation))
    assert "server_tokens off;" in text


def test_a_superlink_with_another_certificate_is_not_talked_to(
    federation: Federation, nginx: str, tmp_path: Path
) -> None:
    other = save(tmp_path / "other", federation.settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.certificates / "server.crt", other.certificates / "server.key")
    server = ThreadingHTTPServer(("127.0.0.1", federation.settings.superlink_port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.seen = seen = Seen()  # type: ignore[attr-defined]
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    log = tmp_path / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(command(write_config(gateway_of(federation))), stdout=output, stderr=output)
    try:
        address = ("127.0.0.1", federation.settings.port)
        limit = time.monotonic() + 20
        while not is_port_taken(address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit
            time.sleep(0.02)
        assert https_status(address, "localhost", federation.ca) == 502
        assert not is_healthy(address, "localhost", federation.ca)
        assert seen.lines == []
        assert "certificate verify" in log.read_text()
    finally:
        process.terminate()
        process.wait(10)
        server.shutdown()
        server.server_close()


def test_a_config_is_checked_before_it_is_used(federation: Federation, nginx: str) -> None:
    config = write_config(gateway_of(federation))
    assert check_config(config) is None
    (federation.certificates / "server.crt").unlink()
    assert "server.crt" in (check_config(config) or "")


def test_the_containers_config_differs_in_its_places_only(federation: Federation) -> None:
    text = config_text(IN_A_CONTAINER)
    assert "server superlink:8000;" in text
    assert 'ssl_certificate "/etc/consilium/server.crt";' in text
    assert 'proxy_ssl_trusted_certificate "/etc/consilium/ca.crt";' in text
    assert "proxy_ssl_name superlink;" in text
    assert "user " not in text.split("events")[0].split("@")[0].replace("#", "")
    assert "@" not in text
    own = config_text(gateway_of(federation))
    for line in ("proxy_ssl_verify on;", "return 403;", "server_tokens off;"):
        assert line in text
        assert line in own


def test_paths_that_nginx_would_misread_are_refused() -> None:
    with pytest.raises(ConfigError, match="nginx cannot use"):
        config_text(replace(IN_A_CONTAINER, ca="/etc/a;b/ca.crt"))


def test_a_missing_nginx_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("deploy.gateway._PLACES", ())
    with pytest.raises(ConfigError, match=r"nginx is not installed.*make nginx"):
        find_nginx()
