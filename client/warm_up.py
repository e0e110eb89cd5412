"""What the agent does before it is asked: first use of the libraries, then the features of the jobs that are approved."""

import logging
import threading
from collections.abc import Callable

import torch

from client.agent_status import StatusFile
from client.approvals import Approvals
from common.errors import ConsiliumError
from common.job import Job

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0


def use_torch_once() -> None:
    """The first training step in a process takes more than a second; take it before anybody waits for it."""
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    loss = torch.nn.functional.cross_entropy(layer(torch.zeros(1, 2)), torch.zeros(1, dtype=torch.int64))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def warm_up(
    prepare: Callable[[Job], None], approvals: Approvals, status: StatusFile, stopping: threading.Event
) -> None:
    """Prepare each approved job once, those too that are approved later, until the agent stops.

    What goes wrong is told in the agent's status and its log; the request that needs the job will be declined for the same
    reason.
    """
    seen: set[str] = set()
    while not stopping.is_set():
        for job in approvals.approved_jobs(besides=seen):
            if stopping.is_set():
                return
            seen.add(job.job_id)
            try:
                prepare(job)
                status.change(problem=None)
                log.info("job '%s' is prepared", job.name)
            except Exception as error:  # whatever it is, the agent goes on answering
                # The text may name files: it stays in the state folder, which is the hospital's own.
                status.change(problem=f"job '{job.name}': {error}")
                log.warning("job '%s' cannot be prepared: %s", job.name, type(error).__name__)
                log.debug("because of:", exc_info=not isinstance(error, ConsiliumError))
        stopping.wait(_LOOK_EVERY_S)
