"""consilium hospital jobs, approve, revoke: what a person reads before a job may ask anything."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.hospital_options import HERE, File, Format, Kit, hospital_file, is_json

if TYPE_CHECKING:
    from client.hospital_file import HospitalFile
    from client.policy import Policy
    from common.job import Job


def jobs(kit: Kit = HERE, file: File = None, output_format: Format = "table") -> None:
    """The jobs that were asked of this hospital: those that wait for approval first."""
    from client.approvals import Approvals

    known = Approvals(hospital_file(kit, file).state_folder).known()
    if is_json(output_format):
        rows = [
            {
                "job_id": one.job.job_id,
                "name": one.job.name,
                "approved": one.approved,
                "job": one.job.model_dump(mode="json"),
            }
            for one in known
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    if not known:
        typer.echo("no job was asked of this hospital yet")
        return
    table = Table(box=None)
    for heading in ("job", "id", "task", "method", "approved"):
        table.add_column(heading)
    for one in known:
        task = f"{', '.join(one.job.classes)} ({one.job.modality})"
        table.add_row(one.job.name, one.job.job_id[:12], task, one.job.method.name, one.approved or "[yellow]waits[/]")
    Console().print(table)


def approve(
    job: Annotated[str, typer.Argument(help="The beginning of its id, or a job file.", metavar="JOB_ID|JOB_FILE")],
    kit: Kit = HERE,
    file: File = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Read a job in plain words and in full, and allow it: the agent then answers what this job asks, and no other."""
    from client.approvals import Approvals

    own = hospital_file(kit, file)
    approvals = Approvals(own.state_folder)
    chosen = _job(job, approvals.find)
    _show(chosen, own.policy)
    _show_budget(chosen, own)
    if own.policy.approve == "auto":
        typer.echo("policy.approve is auto: this hospital answers every job, approved or not")
    if not yes:
        typer.confirm(f"approve job '{chosen.name}' for {own.name}?", abort=True)
    approvals.approve(chosen)
    typer.echo(f"approved {chosen.job_id}")


def revoke(
    job: Annotated[str, typer.Argument(help="The beginning of its id, or a job file.", metavar="JOB_ID|JOB_FILE")],
    kit: Kit = HERE,
    file: File = None,
) -> None:
    """Take an approval back: from its next request on the agent declines the job. What has left has left."""
    from client.approvals import Approvals

    approvals = Approvals(hospital_file(kit, file).state_folder)
    chosen = _job(job, approvals.find)
    typer.echo(f"revoked {chosen.job_id}" if approvals.revoke(chosen) else f"{chosen.job_id} was not approved")


def _show_budget(job: "Job", own: "HospitalFile") -> None:
    """Of a private job: what it spends, what is spent already by the ledger, and the limit."""
    from client.ledger_reading import read_ledger

    budget, limit = job.privacy.differential_privacy, own.policy.max_epsilon_total
    if budget is None or job.hospitals_protected:
        return
    reading = read_ledger(own.state_folder)
    entries = reading.entries if reading is not None else ()
    before = entries[-1].epsilon_total if entries else 0.0
    spent = sum(entry.epsilon for entry in entries if entry.job_id == job.job_id)
    typer.echo(
        f"epsilon: {before:g} spent so far by this ledger, of this job {spent:g}; it spends {budget.epsilon:g} in all; "
        f"limit {'none' if limit is None else f'{limit:g}'} (policy.max_epsilon_total)"
    )


def _job(text: str, find: "Callable[[str], Job]") -> "Job":
    from common.job import load_job

    return load_job(Path(text)) if Path(text).suffix in (".yaml", ".yml", ".json") else find(text)


def _show(job: "Job", policy: "Policy") -> None:
    import yaml

    from client.job_in_words import in_words

    console = Console()
    table = Table(box=None, show_header=False, title=f"{job.name}  {job.job_id}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for heading, words in in_words(job, policy):
        table.add_row(heading, words)
    console.print(table)
    console.print("\nin full:", style="bold")
    console.print(
        yaml.safe_dump(job.model_dump(mode="json", exclude_none=True), sort_keys=False), markup=False, highlight=False
    )
