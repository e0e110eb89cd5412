"""A way to a PACS over HTTP: who we are, whom we trust, how long we wait, and what went wrong in words.

Name, password and token come from a file or the environment, never from the command line, where every user of the machine
sees them. Certificates are always checked. No proxy, .netrc or redirect is followed: images and passwords go where we were told.
"""

import ipaddress
import logging
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, Self, TypeVar
from urllib.parse import urlsplit

import requests
from pydantic import model_validator

from client.importing_files import Found
from common.config_file import Section, load_yaml, parse, unknown
from common.errors import ConfigError, DataError, NotDeliveredError

USER, PASSWORD, TOKEN = "CONSILIUM_PACS_USER", "CONSILIUM_PACS_PASSWORD", "CONSILIUM_PACS_TOKEN"
TIMEOUT_S = (10.0, 120.0)
"""To connect, and to wait for the next bytes."""
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Between tries; a PACS that is started again takes about half a minute."""

_AGAIN = (408, 425, 429, 502, 503, 504)
T = TypeVar("T")

QUERY_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("PatientID", "PatientName", "PatientBirthDate", "PatientSex"), "study"),
        **dict.fromkeys(("StudyDate", "StudyTime", "StudyDescription", "StudyID", "StudyInstanceUID"), "study"),
        **dict.fromkeys(("AccessionNumber", "ReferringPhysicianName", "ModalitiesInStudy", "InstitutionName"), "study"),
        **dict.fromkeys(("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesDate", "SeriesNumber"), "series"),
        **dict.fromkeys(("BodyPartExamined", "ProtocolName", "StationName", "Manufacturer"), "series"),
    }
)
"""What may be asked for, and whose attribute it is; series are what is looked for."""


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
    if parts.username or parts.password:
        raise ConfigError(
            f"the address of the PACS holds a user name: other users of this machine can see it. {_WHERE}"
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


_WHERE = (
    "Put user and password, or token, into a file for --credentials (YAML, mode 0600), or set "
    f"{USER} and {PASSWORD}, or {TOKEN}"
)


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
    return parse(Credentials, content, f"--credentials {path}")


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


def parse_query(items: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` of the command line, checked.

    Raises:
        ConfigError: no `=`, an unknown key, one twice, or none at all.
    """
    query: dict[str, str] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise ConfigError(
                f"--query '{item}': expected KEY=VALUE, such as Modality=CT or StudyDate=20260101-20260131"
            )
        if key not in QUERY_KEYS:
            raise ConfigError(f"--query '{item}': {unknown('key', key, list(QUERY_KEYS))}")
        if key in query:
            raise ConfigError(f"--query {key} is given twice; import once for each value")
        query[key] = value
    if not query:
        raise ConfigError(
            "a PACS holds more than anyone wants to copy: say what with --query, such as --query Modality=CT"
        )
    return query


def retried(action: Callable[[], T], way: Access, kind: str, tries: int | None = None) -> T:
    """What an action over HTTP returns, tried again while the PACS is away or busy. tries: at most so many.

    Raises:
        NotDeliveredError: the PACS is there, and does not deliver this one thing.
        DataError: the PACS cannot be reached, lets nobody in, has no trusted certificate, or speaks something else than `kind`.
    """
    waits_s = list(way.waits_s)[: None if tries is None else tries - 1]
    while True:
        try:
            return action()
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError) as error:
            if not waits_s or not _passes(error):
                raise _explained(error, way, kind) from error
        time.sleep(waits_s.pop(0))


def _passes(error: Exception) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in _AGAIN
    away = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, away) and not isinstance(error, requests.exceptions.SSLError)


def _explained(error: Exception, way: Access, kind: str) -> DataError:
    """The error in words; the address of the request is left out, it names patients."""
    url = way.url
    if isinstance(error, requests.exceptions.SSLError):
        return DataError(
            f"{url}: no secure connection: its certificate is not of an authority that is trusted here, or not for this name, "
            "or it does not speak TLS. Give the authority's certificate with --ca FILE"
        )
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return DataError(f"{url} sends us to another address, which is not followed; give the final address")
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        if status == 401:
            return DataError(f"{url} lets nobody in without a valid user and password or token (401). {_WHERE}")
        if status == 403:
            return DataError(
                f"{url} knows us, but does not allow this (403); ask its administrator for the right to search and read"
            )
        if status in _AGAIN:
            return DataError(f"{url} is not ready: it answers with {status} again and again; look into its log")
        if status in (400, 404, 405, 406, 415):
            return NotDeliveredError(f"{url} does not answer as {kind} does ({status}); {_EXPECTED[kind]}")
        return NotDeliveredError(f"{url} answers with {status}; look into its log")
    if isinstance(error, requests.Timeout):
        return DataError(f"{url} does not answer in time; is it overloaded, or does a firewall swallow the way to it?")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return DataError(
            f"{url} cannot be reached; is the address right, does it run, does the network let us through?"
        )
    return NotDeliveredError(f"{url} answers, but not as {kind} does ({type(error).__name__}); {_EXPECTED[kind]}")


_EXPECTED = {
    "DICOMweb": "expected the root of its DICOMweb service, such as https://HOST/dicom-web (Orthanc needs its DICOMweb plugin)",
    "Orthanc": "expected the root of Orthanc's REST API, such as https://HOST:8042; for other PACS use --dicomweb",
}
