"""A question on its way to some hospitals, and what has come back so far."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from common.wire import REFUSAL, Packed

UNREADABLE = "the answer cannot be decoded"
NODE_UNAVAILABLE = 5
FLOWER_ERRORS: Mapping[int, str] = MappingProxyType(
    {
        1: "the hospital's app could not be loaded",
        2: "the hospital's app failed",
        3: "the request was void, or the answer to it incomplete",
        4: "the answer was void before it was fetched",
        NODE_UNAVAILABLE: "the hospital is not connected any more",
        6: "the hospital's app refused the request",
        7: "the hospital does not trust the app bundle",
        8: "the process of the hospital's app died",
    }
)
"""Flower's error codes (`flwr.common.constant.ErrorCode`) in words. 3, 4 and 5 come from the SuperLink, not from a hospital."""


@dataclass(frozen=True)
class Asked:
    """What came back, by node: the decoded answers (more than one is possible), or why there is none.

    Answers that were handed on as they came are not among them.
    """

    answers: Mapping[int, list[Packed]]
    failures: Mapping[int, str]
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class Reply:
    """One message that came back: whose, its size in bytes, and an answer (None if it cannot be decoded) or Flower's error."""

    node: int
    size: int = 0
    packed: Packed | None = None
    error_code: int | None = None


@dataclass
class Pending:
    """A question. `end`: its deadline, on the monotonic clock. records: Flower's records for each node.

    unsent: nodes it is still to be sent to, in order. open: message id -> node, where an answer may still come. answered: nodes
    with an answer that can be decoded; usable: those whose answer is no refusal. use: is handed a node's answers as soon as
    they are there, which are then not kept. at_once: replies fetched together.
    """

    message_type: str
    group: str
    end: float
    records: Mapping[int, Any]
    use: Callable[[int, list[Packed]], None] | None = None
    at_once: int = 256
    unsent: dict[int, None] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    answers: dict[int, list[Packed]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    usable: set[int] = field(default_factory=set)
    bytes_down: int = 0
    bytes_up: int = 0

    def __post_init__(self) -> None:
        self.unsent = dict.fromkeys(self.records)

    @property
    def done(self) -> bool:
        """Whether every node has answered or failed."""
        return not (self.unsent or self.open)

    def sent(self, message_id: str, node: int, size: int) -> None:
        """A request is on its way."""
        self.open[message_id] = node
        self.failures.pop(node, None)
        self.bytes_down += size

    def take(self, message_id: str, reply: Reply, again: bool) -> None:
        """Sort a reply. again: a hospital that lost its connection is sent the request once more when it is back."""
        node = self.open[message_id]
        self.bytes_up += reply.size
        if reply.error_code is not None:
            self.failures[node] = flower_error(reply.error_code)
            if again and reply.error_code == NODE_UNAVAILABLE:
                self.unsent.setdefault(node)
        elif reply.node != node:
            self.failures[node] = "the answer came from another node"
        elif reply.packed is None:
            self.failures[node] = UNREADABLE
        else:
            self.answers.setdefault(node, []).append(reply.packed)
            self.answered.add(node)
            if REFUSAL not in reply.packed.fields:
                self.usable.add(node)

    def hand_on(self) -> None:
        """Give the answers that are there to whoever uses them as they come."""
        if self.use is not None:
            while self.answers:
                self.use(*self.answers.popitem())


def flower_error(code: int) -> str:
    """Flower's error code in words."""
    said = f"no heartbeat; Flower error code {code}" if code == NODE_UNAVAILABLE else f"Flower error code {code}"
    return f"{FLOWER_ERRORS.get(code, 'Flower could not deliver request or answer')} ({said})"
