"""consilium hospital ledger: what left this hospital, and whether the record of it is as it was written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.hospital_options import HERE, File, Format, Kit, hospital_file, is_json
from common.errors import ConfigError, LedgerError

if TYPE_CHECKING:
    from client.ledger_entry import Entry
    from client.ledger_reading import Reading

EXPORTS = ("csv", "json", "html")

app = typer.Typer(help="What left this hospital: every answer, recorded before it left.", no_args_is_help=True)


@app.command()
def show(
    kit: Kit = HERE,
    file: File = None,
    last: Annotated[int, typer.Option(min=1, help="Show so many of the newest entries.")] = 20,
    job: Annotated[
        str | None, typer.Option(help="Only a job's: the beginning of its id or of its name.", metavar="PREFIX")
    ] = None,
    output_format: Format = "table",
) -> None:
    """The newest entries, and the head: note it elsewhere. Exit code 1 if the ledger is not as it was written."""
    from client.ledger_export import as_dict

    as_json = is_json(output_format)
    reading = _read(kit, file)
    about = [one for one in reading.entries if job is None or _is_about(one, job)]
    if as_json:
        found = {
            "head": reading.last.text,
            "verified": not reading.problems,
            "problems": [str(problem) for problem in reading.problems],
            "epsilon": reading.entries[-1].epsilon_total if reading.entries else 0.0,
            "entries": [as_dict(one) for one in about[-last:]],
        }
        typer.echo(json.dumps(found, indent=1))
    else:
        console = Console()
        console.print(_table(about[-last:]))
        if len(about) > last:
            console.print(f"{len(about) - last} older entries: --last", style="dim", highlight=False)
        _print_state(reading, console)
    raise typer.Exit(1 if reading.problems else 0)


@app.command()
def verify(
    kit: Kit = HERE,
    file: File = None,
    head: Annotated[
        str | None,
        typer.Option(help="A head that was noted elsewhere: that entry must be there, unchanged.", metavar="SEQ:HASH"),
    ] = None,
) -> None:
    """Exit code 0 if the ledger is as it was written and complete, else 1, and where it is not.

    Who may write the hospital's files can write the whole ledger anew: only --head, with a head noted elsewhere, shows that.
    """
    from client.ledger_reading import expected_problem

    reading = _read(kit, file)
    found = expected_problem(reading.entries, head) if head is not None else None
    problems = [*reading.problems, *([found] if found else [])]
    console = Console()
    for problem in problems:
        console.print(f"{problem.what}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    console.print(f"verified: {len(reading.entries)} entries, all as they were written", highlight=False)
    _print_state(reading, console)


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The file to write.", metavar="FILE")],
    output_format: Annotated[str, typer.Option("--format", help="csv, json or html.")],
    kit: Kit = HERE,
    file: File = None,
) -> None:
    """The whole ledger for others: CSV, JSON, or a page for a data-protection officer. Exit code 1 if it does not verify."""
    from client.ledger_export import to_csv, to_json
    from client.ledger_page import to_html
    from common.artifact import write_atomically

    if output_format not in EXPORTS:
        raise ConfigError(f"--format: expected one of {', '.join(EXPORTS)}, got '{output_format}'")
    reading = _read(kit, file)
    written = {"csv": to_csv, "json": to_json, "html": to_html}[output_format](reading)
    try:
        write_atomically(out, written, mode=0o600)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {out}: {error.strerror}; choose another file") from error
    console = Console()
    console.print(f"wrote {out}: {len(reading.entries)} entries", highlight=False, soft_wrap=True)
    _print_state(reading, console)
    raise typer.Exit(1 if reading.problems else 0)


def _read(kit: Path, file: Path | None) -> "Reading":
    from client.ledger_reading import ledger_folder, read_ledger

    own = hospital_file(kit, file)
    reading = read_ledger(own.state_folder)
    if reading is None:
        raise LedgerError(
            f"there is no ledger in {ledger_folder(own.state_folder)}; the agent begins one when it first starts. If it has "
            "run before, the ledger was removed"
        )
    return reading


def _is_about(entry: "Entry", beginning: str) -> bool:
    return any(name is not None and name.startswith(beginning) for name in (entry.job_id, entry.job))


def _table(entries: "Sequence[Entry]") -> Table:
    from client.ledger_words import repair_in_words, shown_arrays, size

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("entry", "time", "decision", "kind", "job", "round", "what", "size", "masked", "epsilon"):
        table.add_column(heading, justify="right" if heading in ("entry", "round", "size", "epsilon") else "left")
    for one in entries:
        what = shown_arrays(one)
        if one.decision == "refused":
            what = (
                f"{one.code}{f', {one.count} times' if one.count > 1 else ''}{f': {one.reason}' if one.reason else ''}"
            )
        elif one.decision == "repaired":
            what = repair_in_words(one)
        sent = one.decision == "sent"
        cells = [
            str(one.seq),
            one.time[:19].replace("T", " "),
            one.decision,
            one.kind or "",
            one.job or "",
            "" if one.round is None else str(one.round),
            what,
            size(one.bytes) if sent else "",
            ("yes" if one.masked else "no") if sent else "",
            f"{one.epsilon:.3g}" if sent else "",
        ]
        table.add_row(*map(Text, cells))
    return table


def _print_state(reading: "Reading", console: Console) -> None:
    """Problems in red, what is worth saying, and the head."""
    for problem in reading.problems:
        console.print(f"{problem.what}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if reading.note:
        console.print(f"note: {reading.note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"head {reading.last.text}", markup=False, highlight=False, soft_wrap=True)
