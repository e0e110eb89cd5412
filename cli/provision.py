"""consilium coordinator provision: make a federation, add hospitals, register their keys."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.coordinator_options import HERE, Folder
from common.errors import ConfigError

if TYPE_CHECKING:
    from deploy.federation import Federation, Settings


def provision(
    folder: Folder = HERE,
    name: Annotated[str | None, typer.Option(help="The federation's name; given once.", metavar="NAME")] = None,
    host: Annotated[
        str | None, typer.Option(help="DNS name or address at which hospitals reach this machine.", metavar="HOST")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port for the hospitals.", metavar="PORT", show_default="8443")
    ] = None,
    hospital: Annotated[
        list[str] | None, typer.Option(help="A hospital to add; may be given several times.", metavar="NAME")
    ] = None,
    register: Annotated[
        list[str] | None,
        typer.Option(
            help="The public key that a hospital sent; registered at once if the coordinator is up.",
            metavar="NAME=FILE.pub",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --register: the hospital has a new key, its old one is void.")
    ] = False,
    remove: Annotated[
        list[str] | None, typer.Option(help="A hospital to remove, with its key and kit.", metavar="NAME")
    ] = None,
    san: Annotated[
        list[str] | None, typer.Option(help="A further name or address for the certificate.", metavar="HOST")
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Issue a new server certificate; kits stay valid.")] = False,
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address of this machine on which hospitals are awaited.",
            metavar="ADDRESS",
            show_default="all, or loopback if --host is",
        ),
    ] = None,
    superlink_port: Annotated[
        int | None, typer.Option(help="Loopback port of Flower's SuperLink.", metavar="PORT", show_default="8000")
    ] = None,
) -> None:
    """Make a federation's folder, or change it: certificates, hospitals' kits, keys. Doing it again changes nothing.

    First --name, --host and a --hospital for each hospital: send each its kit. Then --register NAME=FILE.pub for each key that
    comes back.
    """
    from deploy import federation as federations

    keys = [_name_and_file(one) for one in register or ()]
    before = federations.load(folder) if federations.exists(folder) else None
    given = {"name": name, "host": host, "port": port, "listen": listen, "superlink_port": superlink_port}
    settings = _settings(folder, before.settings if before else None, given, san or [])
    federation = federations.save(folder, federations.with_hospitals(settings, hospital or []))
    for one in remove or ():
        federation = federations.forget_hospital(federation, one)
    for one, file in keys:
        federation = federations.take_key(federation, one, file, replace)
    if renew:
        federations.renew(federation)
    console = Console()
    _tell(federation, console)
    certificate = (
        before is None or renew or before.settings.names != settings.names or before.settings.host != settings.host
    )
    _make_known(federation, before, bool(remove or keys), bool(before and certificate), console)


def _settings(folder: Path, before: "Settings | None", given: dict[str, Any], san: list[str]) -> "Settings":
    from common.config_file import parse
    from deploy.federation import Settings

    chosen = {key: value for key, value in given.items() if value is not None}
    if before is None:
        if missing := [f"--{key} {key.upper()}" for key in ("name", "host") if key not in chosen]:
            raise ConfigError(f"{folder} is not there yet: to make a federation, give {' and '.join(missing)}, too")
        chosen.setdefault("listen", "127.0.0.1" if _is_loopback(chosen["host"]) else "0.0.0.0")  # noqa: S104
        return parse(Settings, {**chosen, "names": tuple(san)}, "provision")
    if chosen.get("name", before.name) != before.name:
        raise ConfigError(
            f"{folder} is the federation '{before.name}', and its name is in every certificate and kit; for another federation "
            "give another --folder"
        )
    names = tuple(dict.fromkeys((*before.names, *san)))
    return parse(Settings, {**before.model_dump(), **chosen, "names": names}, "provision")


def _tell(federation: "Federation", console: Console) -> None:
    settings = federation.settings
    console.print(
        f"[bold]{settings.name}[/] in {federation.folder}, for hospitals at {settings.host}:{settings.port}",
        soft_wrap=True,
    )
    table = Table(box=None, header_style="dim")
    for heading in ("hospital", "its key", "its kit"):
        table.add_column(heading, overflow="fold")
    for name, print_ in settings.hospitals.items():
        table.add_row(name, print_ or "[yellow]not here yet[/]", str(federation.kit(name).with_name(f"{name}.zip")))
    if settings.hospitals:
        console.print(table)
    waiting = [name for name, print_ in settings.hospitals.items() if print_ is None]
    if not settings.hospitals:
        console.print("next: add hospitals with --hospital NAME")
    elif waiting:
        console.print(
            f"next: send each hospital its kit; when {waiting[0]}'s node_key.pub comes back, compare the fingerprint by "
            f"telephone and\n  consilium coordinator provision --register {waiting[0]}=node_key.pub",
            soft_wrap=True,
            highlight=False,
        )


def _make_known(
    federation: "Federation",
    before: "Federation | None",
    keys_changed: bool,
    certificate_changed: bool,
    console: Console,
) -> None:
    """Tell the SuperLink, if it runs; and say what needs a restart or new kits."""
    from deploy.coordinator import flower_of, is_up
    from deploy.registration import registrations, synchronise

    up = before is not None and is_up(before)
    wanted = {name: print_ for name, print_ in federation.settings.hospitals.items() if print_}
    lagging = wanted != {name: one.fingerprint for name, one in registrations(federation).items()}
    if up and before is not None and (keys_changed or lagging):
        for line in synchronise(federation, flower_of(before)):
            console.print(line, soft_wrap=True, highlight=False)
    elif keys_changed:
        console.print(
            "the coordinator is not up: keys are registered when it is (consilium coordinator up)", soft_wrap=True
        )
    if keys_changed and len(wanted) > 1:
        console.print(
            f"for jobs with secure aggregation send every hospital the new {federation.roster}, which it reads with\n"
            "  consilium hospital roster roster.txt",
            soft_wrap=True,
            highlight=False,
        )
    if before is None:
        return
    was, now = before.settings, federation.settings
    if (was.host, was.port) != (now.host, now.port):
        console.print("[yellow]the address changed: every hospital needs its new kit (its key stays)[/]")
    ports_changed = (was.port, was.listen, was.superlink_port) != (now.port, now.listen, now.superlink_port)
    if up and (certificate_changed or ports_changed):
        console.print("[yellow]restart the coordinator when no run is going: consilium coordinator stop, then up[/]")


def _name_and_file(text: str) -> tuple[str, Path]:
    name, equals, file = text.partition("=")
    if not equals or not name or not file:
        raise ConfigError(f"--register: expected NAME=FILE.pub, as st-marys=node_key.pub, got '{text}'")
    return name, Path(file)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
