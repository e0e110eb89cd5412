"""consilium hospital roster: whom this hospital takes for the other hospitals, and a new list from the coordinator."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.hospital_options import HERE, Kit
from common.errors import ConfigError


def roster(
    file: Annotated[
        Path | None,
        typer.Argument(help="A new roster.txt from the coordinator, to be put into the kit.", metavar="[FILE]"),
    ] = None,
    kit: Kit = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the fingerprints were compared.")] = False,
) -> None:
    """Show the hospitals by whose node keys secure aggregation is protected; with FILE, take over a new list.

    Whoever writes this list could add hospitals that do not exist. Compare the fingerprints with the other hospitals, once.
    """
    from common.artifact import write_atomically
    from common.secure_sum.roster import Roster, parse_roster
    from deploy.kit import ROSTER
    from deploy.node_key import fingerprint

    def read(path: Path) -> Roster:
        try:
            return parse_roster(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read the roster {path}: {error}; the coordinator's file is called {ROSTER}"
            ) from error

    console = Console()
    before = read(kit / ROSTER) if (kit / ROSTER).exists() else Roster({})
    now = read(file) if file is not None else before
    table = Table(box=None, header_style="dim")
    for heading in ("hospital", "fingerprint of its node key", ""):
        table.add_column(heading, overflow="fold")
    for name in sorted({*now.keys, *before.keys}):
        key, old = now.keys.get(name), before.keys.get(name)
        change = "" if key == old else "removed" if key is None else "new" if old is None else "another key than before"
        table.add_row(name, fingerprint(key or old or ""), f"[yellow]{change}[/]" if file is not None else "")
    console.print(table if now.keys or before.keys else "no hospital is in the roster yet")
    if file is None:
        return
    if now == before:
        console.print("the same as before: nothing to do")
        return
    if not yes:
        typer.confirm("Are these fingerprints those that the other hospitals told you?", abort=True)
    write_atomically(kit / ROSTER, now.text())
    console.print(f"{kit / ROSTER} is written; sessions that begin from now on use it", soft_wrap=True)
