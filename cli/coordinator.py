"""consilium coordinator: the side of a federation that sees no patient."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli import coordinator_runs
from cli.coordinator_options import HERE, Folder
from cli.provision import provision
from cli.web import coordinator_web
from common.errors import ConfigError

if TYPE_CHECKING:
    from deploy.supervisor import State

FORMATS = ("table", "json")

app = typer.Typer(
    help="Run a federation: provision it, keep it up, train jobs with its hospitals.",
    no_args_is_help=True,
    epilog="From nothing to a model: provision, up, run. `doctor` says what is missing.",
)
app.command()(provision)


@app.command()
def up(
    folder: Folder = HERE,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background; `stop` ends it.")] = False,
) -> None:
    """Keep the coordinator running: SuperLink, executor and gateway, started again when they die. Ctrl-C ends it."""
    from deploy.coordinator import up as run
    from deploy.federation import load
    from deploy.processes import tool
    from deploy.supervisor import start_detached

    federation = load(folder)
    settings = federation.settings
    console = Console()
    where = f"'{settings.name}' is up; hospitals connect to {settings.host}:{settings.port}"
    if detach:
        command = [tool("consilium"), "coordinator", "up", "--folder", str(federation.folder)]
        start_detached(command, federation.folder)
        console.print(f"{where}; logs are in {federation.folder / 'logs'}", highlight=False, soft_wrap=True)
        return
    told = ""

    def show(state: "State") -> None:
        nonlocal told
        line = ", ".join(f"{name} {one.state}" for name, one in state.processes.items())
        if line != told:
            told = line
            console.print(
                f"{time.strftime('%H:%M:%S')}  {where if state.ready else line}", highlight=False, soft_wrap=True
            )

    run(federation, show)


@app.command()
def status(folder: Folder = HERE) -> None:
    """Processes, certificate, hospitals and runs."""
    from cli.coordinator_status import print_status
    from deploy.federation import load

    print_status(load(folder), Console())


@app.command()
def doctor(
    folder: Folder = HERE,
    job: Annotated[Path | None, typer.Option(help="Also look whether this job could run.", metavar="JOB")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Look for what is missing or will soon fail, and say what to do about it. Exit code 1 on errors."""
    from deploy.doctor import examine
    from deploy.federation import load
    from deploy.findings import exit_code, print_findings, to_json

    if output_format not in FORMATS:
        raise ConfigError(f"--format: expected one of {', '.join(FORMATS)}, got '{output_format}'")
    found = examine(load(folder), job)
    if output_format == "json":
        typer.echo(to_json(found))
    else:
        print_findings(found, Console())
    raise typer.Exit(exit_code(found))


@app.command()
def stop(
    run: Annotated[
        str | None, typer.Argument(help="A run to stop; without it, the coordinator itself.", metavar="[RUN]")
    ] = None,
    folder: Folder = HERE,
) -> None:
    """Stop RUN, or without it the coordinator: its processes end, and what they knew stays."""
    from deploy.federation import load
    from deploy.supervisor import stop as stop_processes

    federation = load(folder)
    console = Console()
    if run is not None:
        coordinator_runs.stop_run(federation, run, console)
    elif stop_processes(federation.folder):
        console.print("stopped; a run that was going can go on after `up` with `resume`")
    else:
        console.print("nothing runs here")


app.command()(coordinator_runs.run)
app.command()(coordinator_runs.resume)
app.command()(coordinator_runs.report)
app.command("web")(coordinator_web)
