"""consilium hospital: from the coordinator's kit to taking part, and what the hospital's people do meanwhile."""

import json
import logging
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli import ledger
from cli.hospital_jobs import approve, jobs, revoke
from cli.hospital_options import HERE, File, Format, Kit, hospital_file, is_json
from cli.hospital_roster import roster
from cli.hospital_status import print_status
from cli.web import hospital_web
from common.errors import ConfigError

if TYPE_CHECKING:
    from deploy.supervisor_state import State

app = typer.Typer(
    help="Take part in a federation: make a key, join, approve jobs.",
    no_args_is_help=True,
    epilog="Three commands from the coordinator's kit to taking part: keygen, join, approve.",
)

Socket = Annotated[
    Path | None,
    typer.Option(
        help="The agent's Unix socket, an absolute path.",
        metavar="PATH",
        envvar="CONSILIUM_AGENT_SOCKET",
        show_default="run/agent.sock in the kit",
    ),
]


@app.command()
def keygen(kit: Kit = HERE) -> None:
    """Make this hospital's node key; its public half goes to the coordinator, the private one to nobody."""
    from deploy.kit import NODE_KEY, read_kit
    from deploy.node_key import make_node_key, public_path

    settings = read_kit(kit)
    key = kit / NODE_KEY
    fingerprint = make_node_key(key)
    console = Console()
    console.print(f"made {key}: it never leaves this machine", highlight=False, soft_wrap=True)
    console.print(
        f"send {public_path(key)} to the coordinator of '{settings.federation}'", highlight=False, soft_wrap=True
    )
    console.print(f"and compare its fingerprint by telephone: [bold]{fingerprint}[/]", highlight=False, soft_wrap=True)


@app.command()
def serve(
    kit: Kit = HERE,
    file: File = None,
    socket: Socket = None,
    socket_group: Annotated[
        str | None,
        typer.Option(help="Group, by name or number, that may use the socket too: the courier's.", metavar="GROUP"),
    ] = None,
) -> None:
    """Run the agent alone, in the foreground. It needs the images and no network; SIGTERM stops it.

    `join` does this, too. In containers and under a service manager the agent is a service of its own.
    """
    from client.agent import serve as run

    # A service's log: lines with the time, not a terminal's colours.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    run(hospital_file(kit, file), _socket(kit, socket), socket_group)


@app.command()
def health(kit: Kit = HERE, socket: Socket = None) -> None:
    """Exit code 0 if the agent answers on its socket, else 1: for health checks."""
    from client.agent_socket import is_serving

    path = _socket(kit, socket)
    serving = is_serving(path)
    typer.echo("serving" if serving else f"nothing serves on {path}")
    raise typer.Exit(0 if serving else 1)


@app.command()
def join(
    kit: Kit = HERE,
    socket: Socket = None,
    agent: Annotated[
        bool,
        typer.Option("--agent/--no-agent", help="Start the agent too, or expect it on --socket, run by another user."),
    ] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background; `stop` ends it.")] = False,
) -> None:
    """Keep this hospital connected: agent, SuperNode and courier, started again when they die. Ctrl-C ends it.

    The agent runs without a network where this machine allows that (a network namespace of its own).
    """
    from deploy.hospital import hospital_processes, run_folder, trouble, without_network
    from deploy.kit import read_kit
    from deploy.processes import tool
    from deploy.supervisor import start_detached, supervise

    settings = read_kit(kit)
    processes = hospital_processes(kit, socket, agent)
    console = Console()
    if agent:
        source = hospital_file(kit, None).data.source
        if not source.exists():
            raise ConfigError(
                f"{kit / 'hospital.yaml'}: data is {source}, which is not there; say where the images are"
            )
        if not without_network():
            console.print(
                "this machine does not let the agent give up the network (unshare --net): it is asked nothing over it, but "
                "nothing takes it away either; containers do (docs/operations.md)",
                style="yellow",
            )
    console.print(f"{settings.hospital} joins '{settings.federation}' at {settings.address}", highlight=False)
    if detach:
        where = [*(["--socket", str(socket)] if socket else []), *([] if agent else ["--no-agent"])]
        command = [tool("consilium"), "hospital", "join", "--kit", str(kit.resolve()), *where]
        start_detached(command, run_folder(kit))
        console.print(f"connected; to look: consilium hospital status --kit {shlex.quote(str(kit))}", soft_wrap=True)
        return
    told = ""

    def show(state: "State") -> None:
        nonlocal told
        line = ", ".join(f"{name} {one.state}" for name, one in state.processes.items())
        why = trouble(kit) if state.processes.get("supernode") and not state.ready else None
        line += f" ({why})" if why else ""
        if line != told:
            told = line
            console.print(f"{time.strftime('%H:%M:%S')}  {line}", highlight=False, soft_wrap=True)

    supervise(run_folder(kit), processes, show)


@app.command()
def stop(kit: Kit = HERE) -> None:
    """End what `join` keeps running here."""
    from deploy.hospital import run_folder
    from deploy.supervisor import stop as end

    typer.echo("stopped" if end(run_folder(kit)) else "nothing runs here")


@app.command()
def status(kit: Kit = HERE, file: File = None, socket: Socket = None, output_format: Format = "table") -> None:
    """What this hospital is doing: its processes, its agent, and the jobs that wait. Exit code 1 if the agent is away."""
    from dataclasses import asdict

    from client.agent_socket import is_serving
    from client.agent_status import read_status
    from client.approvals import Approvals
    from deploy.hospital import run_folder, trouble
    from deploy.supervisor import read_state

    own = hospital_file(kit, file)
    serving = is_serving(_socket(kit, socket))
    processes, agent = read_state(run_folder(kit)), read_status(own.state_folder)
    waiting = [one.job for one in Approvals(own.state_folder).known() if one.approved is None]
    why = trouble(kit) if processes and not processes.ready else None
    if is_json(output_format):
        found = {
            "hospital": own.name,
            "serving": serving,
            "agent": asdict(agent) if agent else None,
            "processes": asdict(processes)["processes"] if processes else {},
            "problem": why,
            "waiting": [{"name": job.name, "job_id": job.job_id} for job in waiting],
        }
        typer.echo(json.dumps(found, indent=1))
    else:
        print_status(own, serving, agent, processes, why, waiting)
    raise typer.Exit(0 if serving else 1)


@app.command()
def doctor(
    kit: Kit = HERE,
    file: File = None,
    socket: Socket = None,
    job: Annotated[Path | None, typer.Option(help="Also look whether this job could run here.", metavar="JOB")] = None,
    output_format: Format = "table",
) -> None:
    """Look for what is missing or will soon fail, and say what to do about it. Exit code 1 on errors."""
    from common.job import load_job
    from deploy.findings import exit_code, print_findings, to_json
    from deploy.hospital_doctor import examine

    as_json = is_json(output_format)
    found = examine(kit, socket, load_job(job) if job else None, file)
    if as_json:
        typer.echo(to_json(found))
    else:
        print_findings(found, Console())
    raise typer.Exit(exit_code(found))


for command in (jobs, approve, revoke, roster):
    app.command()(command)
app.command("web")(hospital_web)
app.add_typer(ledger.app, name="ledger")


def _socket(kit: Path, socket: Path | None) -> Path:
    from deploy.hospital import socket_path

    return socket or socket_path(kit)
