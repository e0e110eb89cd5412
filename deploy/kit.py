"""The kit: what a coordinator gives a hospital, as a folder and as a zip file. There is nothing secret in it.

    ca.crt          the certificate by which the hospital knows the coordinator
    kit.yaml        which federation, which hospital, where
    roster.txt      the public node keys of all hospitals, for secure aggregation
    hospital.yaml   the hospital's own file, to be filled in; it stays at the hospital
    README.md       three steps

The hospital makes its node key itself, in its copy of the kit.
"""

import shutil
import string
import zipfile
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from common.artifact import write_atomically
from common.config_file import Section, load_yaml, parse
from common.errors import ConfigError

CA, KIT, HOSPITAL, README, ROSTER = "ca.crt", "kit.yaml", "hospital.yaml", "README.md", "roster.txt"
NODE_KEY = "node_key"
"""Where the hospital's private key is, once it has made it."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Host = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9a-fA-F:]*:[0-9a-fA-F:]+)$")]
Port = Annotated[int, Field(ge=1, le=65535)]
_TEMPLATES = Path(__file__).resolve().parent / "templates"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class Kit(Section):
    """kit.yaml: the hospital's name in the federation, the coordinator's address, and the versions it runs."""

    federation: Name
    hospital: Name
    host: Host
    port: Port
    flwr: str
    consilium: str

    @property
    def address(self) -> str:
        """HOST:PORT of the coordinator's gateway."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def write_kit(folder: Path, kit: Kit, ca_certificate: bytes, roster: str = "") -> Path:
    """Write the kit to `folder` (mode 0700) and to `folder`.zip; returns the zip. The same kit is the same bytes."""
    files = {
        CA: ca_certificate,
        ROSTER: roster.encode(),
        KIT: f"# Written by the coordinator of '{kit.federation}'.\n{yaml.safe_dump(kit.model_dump(), sort_keys=False)}".encode(),
        HOSPITAL: _filled(HOSPITAL, kit),
        README: _filled(README, kit),
    }
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in files.items():
        write_atomically(folder / name, content)
    archive = zip_path(folder)
    partial = archive.with_name(f".{archive.name}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{folder.name}/{name}", _ZIP_TIME)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            file.writestr(entry, content)
    partial.replace(archive)
    return archive


def zip_path(folder: Path) -> Path:
    """Where the zip of the kit in `folder` is."""
    return folder.with_name(f"{folder.name}.zip")


def remove_kit(folder: Path) -> None:
    """Delete a kit and its zip."""
    shutil.rmtree(folder, ignore_errors=True)
    zip_path(folder).unlink(missing_ok=True)


def read_kit(folder: Path) -> Kit:
    """The kit in `folder`.

    Raises:
        ConfigError: there is none, or it is incomplete.
    """
    for name in (KIT, CA):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder} is not a hospital's kit: it has no {name}. Unpack the zip that the coordinator gave you, "
                "and run this inside of it, or give its folder with --kit DIR"
            )
    return parse(Kit, load_yaml(folder / KIT), str(folder / KIT))


def _filled(name: str, kit: Kit) -> bytes:
    text = (_TEMPLATES / name).read_text(encoding="utf-8")
    return string.Template(text).substitute(kit.model_dump()).encode()
