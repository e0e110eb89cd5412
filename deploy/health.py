"""One question over TLS: does something answer there, and what? No proxy is asked, whatever the environment says."""

import itertools
import socket
import ssl
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """What answered: the HTTP status, and its Date (Unix time, s) if it gave one."""

    status: int
    date: float | None


def https_answer(
    address: tuple[str, int], server_name: str, ca: Path, path: str = "/health", timeout_s: float = 2.0
) -> Answer:
    """The answer to GET `path` at `address`, whose certificate must be from `ca` and be valid for `server_name`.

    Raises:
        OSError: nothing answers, or not with such a certificate (ssl.SSLError is an OSError).
    """
    context = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection(address, timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {server_name}\r\nConnection: close\r\n\r\n".encode())
        with connection.makefile("rb") as stream:
            words = stream.readline(200).split()
            head = list(itertools.takewhile(lambda line: line.strip(), iter(lambda: stream.readline(1000), b"")))
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise OSError("what answers there does not speak HTTP")
    return Answer(int(words[1]), _date(head))


def _date(head: list[bytes]) -> float | None:
    text = next((line.partition(b":")[2].decode("latin-1") for line in head if line.lower().startswith(b"date:")), "")
    try:
        return parsedate_to_datetime(text.strip()).timestamp()
    except ValueError:
        return None


def https_status(
    address: tuple[str, int], server_name: str, ca: Path, path: str = "/health", timeout_s: float = 2.0
) -> int:
    """The HTTP status of an answer.

    Raises:
        OSError: as `https_answer`.
    """
    return https_answer(address, server_name, ca, path, timeout_s).status


def is_healthy(address: tuple[str, int], server_name: str, ca: Path) -> bool:
    """Whether GET /health answers 200 there."""
    try:
        return https_status(address, server_name, ca) == 200
    except OSError:
        return False


def is_port_taken(address: tuple[str, int]) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection(address, 1.0).close()
    except OSError:
        return False
    return True
