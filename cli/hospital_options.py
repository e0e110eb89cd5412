"""Options that the commands of `consilium hospital` share, and what they mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import ConfigError

if TYPE_CHECKING:
    from client.hospital_file import HospitalFile

Kit = Annotated[Path, typer.Option(help="The unpacked kit of the coordinator.", metavar="DIR", envvar="CONSILIUM_KIT")]
File = Annotated[
    Path | None,
    typer.Option(
        help="This hospital's own file.",
        metavar="FILE",
        envvar="CONSILIUM_HOSPITAL_FILE",
        show_default="hospital.yaml in the kit",
    ),
]
Format = Annotated[str, typer.Option("--format", help="table or json.")]
HERE = Path()


def hospital_file(kit: Path, file: Path | None) -> "HospitalFile":
    """The hospital's own file; the node key and the roster are those of the kit, unless the file says otherwise.

    Raises:
        ConfigError: with every problem of the file.
    """
    from client.hospital_file import load_hospital_file
    from deploy.kit import HOSPITAL, NODE_KEY, ROSTER

    found = load_hospital_file(file or kit / HOSPITAL)
    of_kit = {"node_key": kit / NODE_KEY, "roster": kit / ROSTER}
    return found.model_copy(
        update={key: path.absolute() for key, path in of_kit.items() if getattr(found, key) is None and path.is_file()}
    )


def is_json(output_format: str) -> bool:
    """What --format said.

    Raises:
        ConfigError: neither table nor json.
    """
    if output_format not in ("table", "json"):
        raise ConfigError(f"--format: expected table or json, got '{output_format}'")
    return output_format == "json"
