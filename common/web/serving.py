"""Start a page: on loopback unless told otherwise, with an address that holds the token, printed once."""

import ipaddress
import logging
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import uvicorn
from starlette.types import ASGIApp

from common.errors import ConfigError
from common.web.access import Access

log = logging.getLogger(__name__)


def require_safe(host: str, url: str | None) -> None:
    """Refuse to serve a network without TLS.

    Raises:
        ConfigError: `host` is not an address of loopback and there is no https address of a proxy; or `url` is none.
    """
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise ConfigError(f"--url: expected an address like https://web.example.org, got '{url}'")
    if url is not None and urlsplit(url).path not in ("", "/"):
        raise ConfigError(f"--url: expected a host of its own, without a path, got '{url}'")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigError(f"--host: expected an IP address, got '{host}'; leave it out for 127.0.0.1") from error
    if not loopback and not (url or "").startswith("https://"):
        raise ConfigError(
            f"--host {host} would send token and images over the network as they are; leave it out and use an ssh tunnel, or put "
            "a proxy with TLS before it and say with --url https://... where people find it (docs/web.md)"
        )


def serve(app: ASGIApp, access: Access, host: str, port: int, url: str | None, say: Callable[[str], None]) -> None:
    """Serve until the process is told to stop. port: 0 takes one that is free. say: prints the address with the token.

    Raises:
        ConfigError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}; give another --port") from error
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        say(f"{(url or f'http://{shown}:{port}').rstrip('/')}/login?token={access.token}")
        # No log of requests: the token is in one, and names of runs in others. No header of a proxy is believed.
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=2,
            limit_concurrency=64,
        )
        uvicorn.Server(config).run(sockets=[listening])
