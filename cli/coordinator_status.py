"""The tables of consilium coordinator status."""

import time
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Table

from common.errors import FederationError
from common.job import load_job
from deploy.certificates import SERVER, inspect
from deploy.coordinator import flower_of, is_up
from deploy.federation import Federation
from deploy.flower import Flower, Node, Run
from deploy.registration import registrations
from deploy.runs import FAILURE, folders, rounds_done, run_ids
from deploy.supervisor import read_state
from server.recorder import JOB, SUMMARY

_RUNS_SHOWN = 10
_SOON_DAYS = 30


def print_status(federation: Federation, console: Console) -> None:
    """What runs, who is there, what was trained. Asking Flower takes two or three seconds."""
    settings = federation.settings
    console.print(
        f"[bold]{settings.name}[/]  {settings.host}:{settings.port}  {federation.folder}",
        highlight=False,
        soft_wrap=True,
    )
    days = inspect(federation.certificates / SERVER).days_left
    style = "green" if days > _SOON_DAYS else "red"
    advice = "" if days > _SOON_DAYS else "; renew it: consilium coordinator provision --renew"
    console.print(f"certificate: [{style}]{days:.0f} days left[/]{advice}", highlight=False)
    console.print(_processes(federation))
    nodes, runs = _ask(flower_of(federation), console) if is_up(federation) else (None, None)
    console.print(_hospitals(federation, nodes))
    if folders(federation):
        console.print(_runs(federation, runs))


def _ask(flower: Flower, console: Console) -> tuple[list[Node] | None, list[Run] | None]:
    with ThreadPoolExecutor(2) as pool:
        nodes, runs = pool.submit(flower.supernodes), pool.submit(flower.runs)
    try:
        return nodes.result(), runs.result()
    except FederationError as error:
        console.print(str(error), style="yellow", markup=False, soft_wrap=True)
        return None, None


def _processes(federation: Federation) -> Table:
    table = _table("process", "state", "since", "restarts", "pid")
    state = read_state(federation.folder)
    if state is None:
        elsewhere = "[green]the SuperLink answers, but not from here[/]" if is_up(federation) else "[red]not up[/]"
        table.add_row("coordinator", elsewhere, "", "", "")
        return table
    for name, one in state.processes.items():
        style = "green" if one.state == "ready" else "yellow"
        table.add_row(name, f"[{style}]{one.state}[/]", _ago(one.since), str(one.restarts), str(one.pid or ""))
    return table


def _hospitals(federation: Federation, nodes: list[Node] | None) -> Table:
    table = _table("hospital", "key", "connected")
    known = registrations(federation)
    statuses = {node.node_id: node.status for node in nodes or ()}
    for name, print_ in federation.settings.hospitals.items():
        registered = known.get(name)
        key = "[yellow]not here yet[/]"
        connected = "?" if nodes is None else "[yellow]no[/]"
        if print_ is not None:
            key = "registered" if registered and registered.fingerprint == print_ else "[yellow]not registered yet[/]"
        if registered and nodes is not None and statuses.get(registered.node_id) == "online":
            connected = "[green]yes[/]"
        table.add_row(name, key, connected)
    return table


def _runs(federation: Federation, runs: list[Run] | None) -> Table:
    table = _table("run", "status", "rounds")
    statuses = {run.run_id: run.status for run in runs or ()}
    for folder in folders(federation)[:_RUNS_SHOWN]:
        done = rounds_done(folder)
        status = "finished" if (folder / SUMMARY).exists() else "failed" if (folder / FAILURE).exists() else "?"
        said = [statuses[one] for one in run_ids(folder)[-1:] if one in statuses]
        table.add_row(folder.name, (said or [status])[0], f"{done} of {load_job(folder / JOB).method.rounds}")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _ago(since: float) -> str:
    seconds = max(0.0, time.time() - since)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
