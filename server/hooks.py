"""What whoever watches or saves a run is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.checkpoint import Checkpoint, Round
from server.members import Members


@dataclass(frozen=True)
class Hooks:
    """Functions called as the run goes on: with the members, with each judged round, with the state after each round."""

    described: Sequence[Callable[[Members], None]] = ()
    judged: Sequence[Callable[[Round], None]] = ()
    checkpoint: Sequence[Callable[[Checkpoint], None]] = ()
