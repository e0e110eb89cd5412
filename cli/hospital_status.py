"""The table of consilium hospital status."""

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from client.agent_status import AgentStatus
    from client.hospital_file import HospitalFile
    from common.job import Job
    from deploy.supervisor_state import State


def print_status(
    own: "HospitalFile",
    serving: bool,
    agent: "AgentStatus | None",
    processes: "State | None",
    why: str | None,
    waiting: "list[Job]",
) -> None:
    """What a hospital is doing. why: why it is not connected, if that is known. waiting: jobs that nobody approved yet."""
    console = Console()
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("hospital", own.name)
    table.add_row("agent", _agent_words(serving, agent))
    if agent and agent.problem:
        table.add_row("problem", agent.problem)
    for name, one in (processes.processes if processes else {}).items():
        again = f", started again {one.restarts} times" if one.restarts else ""
        table.add_row(f"process {name}", f"{one.state} since {_clock(one.since)}{again}")
    if processes is None:
        table.add_row("processes", "none here: consilium hospital join starts them")
    if why:
        table.add_row("not connected", why)
    for job in waiting:
        table.add_row("waits", f"job '{job.name}': consilium hospital approve {job.job_id[:12]}")
    console.print(table)


def _agent_words(serving: bool, agent: "AgentStatus | None") -> str:
    if not serving or agent is None:
        return "does not answer"
    doing = "idle"
    if agent.doing:
        progress = f", {agent.done} of {agent.total}" if agent.total else ""
        doing = f"{agent.doing} since {_clock(agent.doing_since or 0)}{progress}"
    last = f", last at {_clock(agent.last_answer)}" if agent.last_answer else ""
    return f"{doing}; up since {_clock(agent.since)}; answered {agent.answered}, declined {agent.declined}{last}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
