"""The coordinator's folder.

    federation.yaml   name, address, hospitals
    certificates/     the authority and the server's certificate (deploy/certificates.py)
    keys/NAME.pub     the public key of each hospital that sent one
    roster.txt        the public keys as hospitals get them, for secure aggregation
    kits/NAME[.zip]   what each hospital gets (deploy/kit.py)
    state/            the SuperLink's database, and which key is registered as which node
    runs/             one folder per run
    gateway/ flower/ logs/ supervisor.*    what the processes need while they run

Everything here is made from federation.yaml, the authority and the keys; only they, state/ and runs/ need a backup.
"""

import importlib.metadata
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field

from common.artifact import write_atomically
from common.config_file import Section, load_yaml, parse, unknown
from common.errors import ConfigError
from common.secure_sum.roster import Roster
from deploy.certificates import ALWAYS, CA, SERVER, inspect, issue_server, make_ca
from deploy.kit import ROSTER, Host, Kit, Name, Port, remove_kit, write_kit
from deploy.node_key import fingerprint, read_public_key

SETTINGS = "federation.yaml"
_HEADER = "# Written by `consilium coordinator provision`; change it with that command.\n"


class Settings(Section):
    """federation.yaml.

    host and port are where hospitals connect; `listen` is the address of this machine on which the gateway waits for them.
    superlink_port is on the loopback interface. names: further names in the certificate. hospitals: the fingerprint of each
    hospital's public key, null until it has sent one.
    """

    name: Name
    host: Host
    port: Port = 8443
    listen: Host = "0.0.0.0"  # noqa: S104  hospitals come from outside
    superlink_port: Port = 8000
    names: tuple[Host, ...] = ()
    hospitals: dict[Name, str | None] = Field(default_factory=dict)


@dataclass(frozen=True)
class Federation:
    """A coordinator's folder (absolute) and its settings."""

    folder: Path
    settings: Settings

    @property
    def certificates(self) -> Path:
        """The folder of authority and certificate."""
        return self.folder / "certificates"

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.certificates / CA

    @property
    def state(self) -> Path:
        """The folder of the SuperLink's database."""
        return self.folder / "state"

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return self.folder / "runs"

    @property
    def roster(self) -> Path:
        """The public keys of all hospitals that have sent one, as they are in the kits."""
        return self.folder / ROSTER

    @property
    def gateway(self) -> Path:
        """The gateway's folder."""
        return self.folder / "gateway"

    def kit(self, hospital: str) -> Path:
        """The folder of a hospital's kit."""
        return self.folder / "kits" / hospital

    def key(self, hospital: str) -> Path:
        """A hospital's public key."""
        return self.folder / "keys" / f"{hospital}.pub"

    def flower_home(self, component: str) -> Path:
        """Flower's own folder of one of the processes."""
        return self.folder / "flower" / component


def load(folder: Path) -> Federation:
    """The federation in `folder`.

    Raises:
        ConfigError: there is none, or its settings are wrong.
    """
    folder = folder.resolve()
    if not (folder / SETTINGS).is_file():
        raise ConfigError(
            f"{folder} is not a federation's folder: it has no {SETTINGS}. Give another one with --folder DIR, or make one: "
            "consilium coordinator provision --name NAME --host HOST --hospital NAME"
        )
    return Federation(folder, parse(Settings, load_yaml(folder / SETTINGS), str(folder / SETTINGS)))


def exists(folder: Path) -> bool:
    """Whether there is a federation in `folder`."""
    return (folder / SETTINGS).is_file()


def save(folder: Path, settings: Settings) -> Federation:
    """Write the settings and make all that is missing or no longer fits them; doing it again changes nothing.

    The certificate is renewed when it lacks a name; the authority is made once and never again.

    Raises:
        ConfigError: a part of the folder is damaged.
    """
    federation = Federation(folder.resolve(), settings)
    federation.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for private in (federation.certificates, federation.state, federation.runs, federation.folder / "kits"):
        private.mkdir(exist_ok=True, mode=0o700)
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    write_atomically(federation.folder / SETTINGS, _HEADER + text, 0o600)
    if not federation.ca.exists():
        make_ca(federation.certificates, settings.name)
    if lacking_names(federation):
        renew(federation)
    certificate, roster = federation.ca.read_bytes(), _roster(federation)
    write_atomically(federation.roster, roster, 0o600)
    for hospital in settings.hospitals:
        write_kit(federation.kit(hospital), _kit(settings, hospital), certificate, roster)
    return federation


def lacking_names(federation: Federation) -> list[str]:
    """Names that the server's certificate should have and has not; all of them if there is no certificate."""
    wanted = [_normal(name) for name in (federation.settings.host, *federation.settings.names, *ALWAYS)]
    path = federation.certificates / SERVER
    has = inspect(path).names if path.exists() else ()
    return [name for name in wanted if name not in has]


def renew(federation: Federation) -> None:
    """Issue a new server certificate."""
    issue_server(
        federation.certificates, [_normal(name) for name in (federation.settings.host, *federation.settings.names)]
    )


def with_hospitals(settings: Settings, names: Sequence[str]) -> Settings:
    """The settings with further hospitals, which have no key yet."""
    more = {name: None for name in names if name not in settings.hospitals}
    return parse(Settings, {**settings.model_dump(), "hospitals": {**settings.hospitals, **more}}, "--hospital")


def take_key(federation: Federation, hospital: str, file: Path, replace: bool = False) -> Federation:
    """Keep the public key that a hospital sent. The same key again changes nothing.

    Raises:
        ConfigError: no such hospital, not a usable key, another hospital's key, or another key than before without `replace`.
    """
    hospitals = require_hospital(federation, hospital)
    line = read_public_key(file)
    print_ = fingerprint(line)
    before = hospitals[hospital]
    if owner := next((name for name, known in hospitals.items() if known == print_ and name != hospital), None):
        raise ConfigError(f"{file} is the key of {owner} ({print_}); every hospital makes its own")
    if before not in (None, print_) and not replace:
        raise ConfigError(
            f"{hospital} has another key already: {before}, not {print_}. If the hospital confirms by telephone that it made a "
            "new one, add --replace; its old key is then worth nothing any more"
        )
    write_atomically(federation.key(hospital), f"{line} {hospital}\n")
    return save(
        federation.folder, federation.settings.model_copy(update={"hospitals": {**hospitals, hospital: print_}})
    )


def forget_hospital(federation: Federation, hospital: str) -> Federation:
    """Remove a hospital with its key and its kit.

    Raises:
        ConfigError: no such hospital.
    """
    rest = {name: known for name, known in require_hospital(federation, hospital).items() if name != hospital}
    federation.key(hospital).unlink(missing_ok=True)
    remove_kit(federation.kit(hospital))
    return save(federation.folder, federation.settings.model_copy(update={"hospitals": rest}))


def require_hospital(federation: Federation, hospital: str) -> dict[str, str | None]:
    """All hospitals, this one among them.

    Raises:
        ConfigError: it is not.
    """
    hospitals = federation.settings.hospitals
    if hospital not in hospitals:
        raise ConfigError(
            f"{unknown('hospital', hospital, sorted(hospitals) or ['(none yet)'])}; or add it with --hospital"
        )
    return hospitals


def _kit(settings: Settings, hospital: str) -> Kit:
    return Kit(
        federation=settings.name,
        hospital=hospital,
        host=settings.host,
        port=settings.port,
        flwr=importlib.metadata.version("flwr"),
        consilium=importlib.metadata.version("consilium"),
    )


def _roster(federation: Federation) -> str:
    known = {name for name, print_ in federation.settings.hospitals.items() if print_}
    return Roster({name: read_public_key(federation.key(name)) for name in known}).text()


def _normal(name: str) -> str:
    """A name as a certificate has it: an address in its shortest form."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name
