"""What whoever watches or saves a run is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.checkpoint import Checkpoint, Round
from server.members import Members
from server.now import Now


@dataclass(frozen=True)
class Hooks:
    """Functions called as the run goes on: with the members, each judged round, the state after it, and what goes on now."""

    described: Sequence[Callable[[Members], None]] = ()
    judged: Sequence[Callable[[Round], None]] = ()
    checkpoint: Sequence[Callable[[Checkpoint], None]] = ()
    now: Sequence[Callable[[Now], None]] = ()

    def tell(self, now: Now) -> None:
        """Tell what is going on now to all who want to know."""
        for one in self.now:
            one(now)
