"""A way to a PACS over HTTP: who we are, whom we trust, how long we wait, and what went wrong in words.

Name, password and token come from a file or the environment, never from the command line, where every user of the machine
sees them. Certificates are always checked. No proxy, .netrc or redirect is followed: images and passwords go where we were told.
"""

import ipaddress
import logging
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import urlsplit

import requests
from pydantic import model_validator

from client.importing_files import Found
from common.config_file import Section, load_yaml, parse
from common.errors import ConfigError

USER, PASSWORD, TOKEN = "CONSILIUM_PACS_USER", "CONSILIUM_PACS_PASSWORD", "CONSILIUM_PACS_TOKEN"
WHERE = (
    "Put user and password, or token, into a file for --credentials (YAML, mode 0600), or set "
    f"{USER} and {PASSWORD}, or {TOKEN}"
)
TIMEOUT_S = (10.0, 120.0)
"""To connect, and to wait for the next bytes."""
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Between tries; a PACS that is started again takes about half a minute."""


class Pacs(Protocol):
    """A PACS that lists instances and delivers them."""

    def find(self, query: Mapping[str, str]) -> list[Found]:
        """All instances of the series that a query matches."""
        ...


@dataclass(frozen=True)
class Access:
    """An address and how to get in. ca: certificates to trust instead of the public ones."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: Path | None = None
    waits_s: Sequence[float] = WAITS_S


class Credentials(Section):
    """The file of `--credentials`: user and password, or token."""

    user: str = ""
    password: str = ""
    token: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.token) == bool(self.user and self.password):
            raise ValueError("expected either user and password, or token")
        return self


def access(
    url: str, credentials: Path | None, ca: Path | None, plain_http: bool, environment: Mapping[str, str]
) -> Access:
    """The way to a PACS, from options and environment.

    Raises:
        ConfigError: the address is none, holds a password, or is not encrypted; a file cannot be read, or others may read it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"'{url}' is no address of a PACS; expected https://HOST[:PORT]/PATH")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"the address of the PACS holds a user name or a token: other users of this machine can see it. {WHERE}"
        )
    if parts.scheme == "http" and not plain_http and not _is_loopback(parts.hostname):
        raise ConfigError(
            f"{url} is not encrypted: images and passwords can be read on the way. Use https://, or --plain-http if the way "
            "is protected otherwise"
        )
    if ca is not None and not ca.is_file():
        raise ConfigError(f"--ca {ca} is not there; give the file with the certificate of the PACS's authority (PEM)")
    found = _from_file(credentials) if credentials else _from_environment(environment)
    return Access(url.rstrip("/"), found.user, found.password, found.token, ca)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _from_file(path: Path) -> Credentials:
    content = load_yaml(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"--credentials {path} has mode {mode:04o}: others may read it; chmod 600 it")
    try:
        return parse(Credentials, content, f"--credentials {path}")
    except ConfigError:
        # The message would quote what is in the file.
        raise ConfigError(
            f"--credentials {path}: expected the keys user and password, or token, with texts in quotes"
        ) from None


def _from_environment(environment: Mapping[str, str]) -> Credentials:
    given = {
        key: environment[name]
        for key, name in (("user", USER), ("password", PASSWORD), ("token", TOKEN))
        if environment.get(name)
    }
    return parse(Credentials, given, f"{USER}, {PASSWORD}, {TOKEN}") if given else Credentials.model_construct()


def session_for(way: Access) -> requests.Session:
    """An HTTP session that knows who we are and whom to trust."""
    # These log addresses, and with them UIDs and queries.
    for name in ("dicomweb_client", "retrying", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    session.verify = str(way.ca) if way.ca else True
    if way.token:
        session.headers["Authorization"] = f"Bearer {way.token}"
    elif way.user:
        session.auth = (way.user, way.password)
    return session
