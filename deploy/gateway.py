"""The gateway: nginx in front of the SuperLink, which lets hospitals' requests through and nothing else.

The configuration is `templates/nginx.conf`, with the values of a `Gateway` put in.
"""

import os
import pwd
import shutil
import string
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common.artifact import write_atomically
from common.errors import ConfigError
from deploy.certificates import CA, SERVER, SERVER_KEY
from deploy.federation import Federation

CONFIG = "nginx.conf"
_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
_TEMPLATE = Path(__file__).resolve().parent / "templates" / CONFIG


class _Template(string.Template):
    """With @ instead of $, which is nginx's own."""

    delimiter = "@"


@dataclass(frozen=True)
class Gateway:
    """Where the gateway listens (ADDRESS:PORT), where the SuperLink is, and which files it uses.

    upstream_name: the name the SuperLink's certificate must have. folder: where nginx may write. The logs may be /dev/stdout
    and stderr.
    """

    listen: str
    upstream: str
    upstream_name: str
    certificate: str
    key: str
    ca: str
    folder: str
    access_log: str = "/dev/stdout"
    error_log: str = "stderr"


IN_A_CONTAINER = Gateway(
    listen="0.0.0.0:8443",
    upstream="superlink:8000",
    upstream_name="superlink",
    certificate=f"/etc/consilium/{SERVER}",
    key=f"/etc/consilium/{SERVER_KEY}",
    ca=f"/etc/consilium/{CA}",
    folder="/tmp",  # noqa: S108  of the container, which has one process and a read-only root
)
"""The gateway of the containers: the same file for every federation."""


def gateway_of(federation: Federation) -> Gateway:
    """The gateway on the coordinator's own machine."""
    settings, certificates = federation.settings, federation.certificates
    listen = f"[{settings.listen}]" if ":" in settings.listen else settings.listen
    return Gateway(
        listen=f"{listen}:{settings.port}",
        upstream=f"127.0.0.1:{settings.superlink_port}",
        upstream_name="localhost",
        certificate=str(certificates / SERVER),
        key=str(certificates / SERVER_KEY),
        ca=str(certificates / CA),
        folder=str(federation.gateway),
    )


def config_text(gateway: Gateway, user: str | None = None) -> str:
    """nginx.conf. user: whose the worker processes are, only where nginx is started by root.

    Raises:
        ConfigError: a path has a character that nginx would not read as part of it.
    """
    values = {name: getattr(gateway, name) for name in Gateway.__dataclass_fields__}
    if wrong := [value for value in values.values() if not set(value).isdisjoint("\t\r\n;{}\"'\\$#")]:
        raise ConfigError(f"nginx cannot use '{wrong[0]}': no quotes, ;, {{}}, $ or # in paths, please")
    return (
        _Template(_TEMPLATE.read_text(encoding="utf-8"))
        .substitute(values, user=f"user {user};" if user else "")
        .replace("\n\n\n", "\n\n")
    )


def write_config(gateway: Gateway, folder: Path | None = None) -> Path:
    """Write nginx.conf into `folder`, by default the gateway's own; returns its path."""
    path = (folder or Path(gateway.folder)) / CONFIG
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Workers of a root's nginx would be nobody's and could not read the folder. Better: do not run it as root.
    write_atomically(path, config_text(gateway, pwd.getpwuid(0).pw_name if os.geteuid() == 0 else None))
    return path


def find_nginx() -> str:
    """Where nginx is on this machine.

    Raises:
        ConfigError: there is none.
    """
    found = shutil.which("nginx") or next(
        (str(Path(place) / "nginx") for place in _PLACES if (Path(place) / "nginx").is_file()), None
    )
    if found is None:
        raise ConfigError(
            "nginx is not installed, and without it hospitals could reach more of Flower than they may. Install Debian's "
            "package nginx-light (`make nginx`, or apt-get install nginx-light); it need not run as a service"
        )
    return found


def command(config: Path) -> list[str]:
    """The command that runs the gateway in the foreground."""
    return [find_nginx(), "-e", "stderr", "-p", str(config.parent), "-c", str(config), "-g", "daemon off;"]


def check_config(config: Path) -> str | None:
    """What nginx finds wrong with its configuration; None if nothing.

    Raises:
        ConfigError: there is no nginx.
    """
    done = subprocess.run(
        [*command(config), "-t", "-q"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=20,
    )
    return None if done.returncode == 0 else (done.stderr.strip() or f"nginx -t ended with {done.returncode}")
