"""One question over TLS: does something answer there, and what? No proxy is asked, whatever the environment says."""

import socket
import ssl
from pathlib import Path


def https_status(
    address: tuple[str, int], server_name: str, ca: Path, path: str = "/health", timeout_s: float = 2.0
) -> int:
    """The HTTP status of GET `path` at `address`, whose certificate must be from `ca` and be valid for `server_name`.

    Raises:
        OSError: nothing answers, or not with such a certificate (ssl.SSLError is an OSError).
    """
    context = ssl.create_default_context(cafile=str(ca))
    with (
        socket.create_connection(address, timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=server_name) as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {server_name}\r\nConnection: close\r\n\r\n".encode())
        words = connection.makefile("rb").readline(200).split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise OSError("what answers there does not speak HTTP")
    return int(words[1])


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
