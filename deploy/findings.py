"""What a doctor finds, and how it is told: for the coordinator's and the hospital's `doctor` alike."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Level = Literal["ok", "warning", "error"]
_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it (empty if nothing)."""

    check: str
    level: Level
    what: str
    remedy: str = ""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", what)


def warning(check: str, what: str, remedy: str) -> Finding:
    """It works, but not for long or not for everyone."""
    return Finding(check, "warning", what, remedy)


def error(check: str, what: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check, "error", what, remedy)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 if there is an error, else 0."""
    return 1 if any(one.level == "error" for one in findings) else 0


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """A table, and a last line that counts."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("check", "", "found"):
        table.add_column(heading, overflow="fold")
    for one in findings:
        style = _STYLES[one.level]
        remedy = f"\n→ {escape(one.remedy)}" if one.remedy else ""
        table.add_row(one.check, f"[{style}]{one.level}[/]", f"{escape(one.what)}{remedy}")
    console.print(table)
    counts = {level: sum(one.level == level for one in findings) for level in ("error", "warning")}
    told = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count)
    console.print(told or "all is well", style="bold")


def to_json(findings: Sequence[Finding]) -> str:
    """The findings as a JSON list."""
    return json.dumps([asdict(one) for one in findings], indent=1)
