"""consilium coordinator run, resume, report, stop RUN."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.coordinator_options import HERE, Folder, RunName
from cli.live import live_rounds
from common.job import Job, load_job

if TYPE_CHECKING:
    from deploy.federation import Federation
    from deploy.flower import Flower


def run(
    job: Annotated[Path, typer.Argument(help="The job, a YAML file; see configs/.", metavar="JOB")],
    folder: Folder = HERE,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start it and return; `status` shows how far it is.")
    ] = False,
) -> None:
    """Train JOB with the hospitals that are connected, and write a model and a report. Ctrl-C leaves the run going.

    Each hospital must have approved the job; the job id that they approve is printed first.
    """
    from deploy.coordinator import require_up
    from deploy.federation import load
    from deploy.runs import new_folder, start

    parsed = load_job(job)
    federation = load(folder)
    console = Console()
    flower = require_up(federation)
    console.print(
        f"[bold]{parsed.name}[/]: {', '.join(parsed.classes)}; {parsed.backbone.name}, {parsed.method.name}, "
        f"{parsed.method.rounds} rounds, at least {parsed.quorum.min_hospitals} hospitals\njob id {parsed.job_id}",
        highlight=False,
    )
    where = new_folder(federation, parsed)
    _watch(flower, where, start(flower, where, federation.roster), parsed, console, detach)


def resume(
    run: RunName,
    folder: Folder = HERE,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start it and return; `status` shows how far it is.")
    ] = False,
) -> None:
    """Go on with RUN, which failed or was stopped, from its last checkpoint."""
    from deploy.coordinator import require_up
    from deploy.federation import load
    from deploy.runs import find, require_resumable, start

    federation = load(folder)
    where = find(federation, run)
    flower = require_up(federation)
    require_resumable(flower, where)
    _watch(
        flower,
        where,
        start(flower, where, federation.roster, resume=True),
        load_job(where / "job.json"),
        Console(),
        detach,
    )


def report(run: RunName, folder: Folder = HERE) -> None:
    """Write the report of RUN again, and print its table."""
    from cli.runs import report as write
    from deploy.federation import load
    from deploy.runs import find

    write(find(load(folder), run))


def stop_run(federation: "Federation", word: str, console: Console) -> None:
    """Stop a run of which Flower knows."""
    from common.errors import ConfigError
    from deploy.coordinator import require_up
    from deploy.runs import find, run_ids

    where = find(federation, word)
    ids = run_ids(where)
    if not ids:
        raise ConfigError(f"{where.name} was never started")
    flower = require_up(federation)
    if (before := flower.status(ids[-1])).finished:
        console.print(f"{where.name} is over already ({before.status})")
        return
    flower.stop(ids[-1])
    console.print(
        f"{where.name} is stopped; to go on with it: consilium coordinator resume {where.name}", soft_wrap=True
    )


def _watch(flower: "Flower", where: Path, run_id: int, job: Job, console: Console, detach: bool) -> None:
    """Show a run until it is over; exit with what it came to."""
    from deploy.runs import follow
    from server.recorder import LAST_CHECKPOINT
    from server.summary_table import print_summary

    going = f"see it: consilium coordinator status   end it: consilium coordinator stop {where.name}"
    console.print(f"run {run_id} in {where}", highlight=False, soft_wrap=True)
    if detach:
        console.print(going, highlight=False, soft_wrap=True)
        return
    try:
        with live_rounds(where, job, console):
            outcome = follow(flower, where, run_id)
    except KeyboardInterrupt:
        console.print(f"\nthe run goes on.\n{going}", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    if outcome.failure is not None:
        message = f"error: {where.name} ended as '{outcome.status}': {outcome.failure}\nits folder is {where}"
        if (where / LAST_CHECKPOINT).exists():
            message += f"\nto go on from its last checkpoint: consilium coordinator resume {where.name}"
        Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(outcome.exit_code)
    print_summary(json.loads((where / "summary.json").read_text(encoding="utf-8")), console)
    console.print(
        f"\nmodel   {where / 'model.safetensors'}\nreport  {where / 'report.html'}", highlight=False, soft_wrap=True
    )
