"""One question to many hospitals over Flower's Grid, with a deadline: the coordinator's only way to the network.

Nothing a hospital's process may have written into an error is kept or logged: only Flower's error code is.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import FederationError
from common.flower_records import MESSAGE_TYPES, from_records, size_of, to_records
from common.wire import Packed

log = logging.getLogger(__name__)

NO_ANSWER = "no answer before the deadline"
UNREADABLE = "the answer cannot be decoded"


@dataclass(frozen=True)
class Asked:
    """What came back, by node: the decoded answers (more than one is possible), or why there is none."""

    answers: Mapping[int, list[Packed]]
    failures: Mapping[int, str]
    bytes_down: int
    bytes_up: int


@dataclass
class _Replies:
    answers: dict[int, list[Packed]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    bytes_up: int = 0


class Exchange:
    """Speaks to the hospitals connected to a Grid. `poll_s`: seconds between looks for replies."""

    def __init__(self, grid: Grid, poll_s: float = 0.3) -> None:
        self._grid = grid
        self._poll_s = poll_s

    def nodes(self) -> dict[int, str]:
        """The connected nodes and their registered names (empty where there is none)."""
        return {int(node.node_id): str(node.name) for node in self._grid.get_nodes()}

    def wait_for(self, hospitals: int, deadline_s: float) -> dict[int, str]:
        """The connected nodes, once there are enough.

        Raises:
            FederationError: too few at the deadline.
        """
        end = time.monotonic() + deadline_s
        told = False
        while len(nodes := self.nodes()) < hospitals:
            if time.monotonic() >= end:
                raise FederationError(
                    f"{len(nodes)} hospitals are connected after {deadline_s:g} s, the job needs {hospitals} "
                    "(quorum.min_hospitals); start the missing ones or lower the quorum"
                )
            if not told:
                log.info("waiting for hospitals: %d connected, %d needed", len(nodes), hospitals)
                told = True
            time.sleep(self._poll_s)
        return nodes

    def ask(
        self,
        kind: str,
        request: Packed | Mapping[int, Packed],
        nodes: Iterable[int],
        server_round: int,
        deadline_s: float,
    ) -> Asked:
        """Put a request to some nodes and collect what comes back until all have answered or the deadline.

        request: the same for all, or one for each node.
        """
        nodes = list(nodes)
        same = to_records(request) if isinstance(request, Packed) else None
        records = {node: same or to_records(cast("Mapping[int, Packed]", request)[node]) for node in nodes}
        messages = [
            Message(records[node], dst_node_id=node, message_type=MESSAGE_TYPES[kind], group_id=str(server_round))
            for node in nodes
        ]
        end = time.monotonic() + deadline_s
        sent = dict(zip(self._grid.push_messages(messages), nodes, strict=True))
        replies = _Replies()
        open_ids = set(sent)
        while True:
            for message in self._grid.pull_messages(list(open_ids)):
                message_id = message.metadata.reply_to_message_id
                node = sent.get(message_id)
                if node is None:
                    continue
                open_ids.discard(message_id)
                _sort(message, node, replies)
            if not open_ids or time.monotonic() >= end:
                break
            time.sleep(self._poll_s)
        failures = {sent[message_id]: NO_ANSWER for message_id in open_ids} | {
            node: reason for node, reason in replies.failures.items() if node not in replies.answers
        }
        down = len(nodes) * size_of(same) if same else sum(size_of(one) for one in records.values())
        return Asked(replies.answers, failures, down, replies.bytes_up)


def _sort(message: Message, node: int, replies: _Replies) -> None:
    if message.has_error():
        replies.failures[node] = f"the hospital's app failed (Flower error code {int(message.error.code)})"
        return
    if message.metadata.src_node_id != node:
        replies.failures[node] = "the answer came from another node"
        return
    try:
        replies.bytes_up += size_of(message.content)
        packed = from_records(message.content)
    except Exception:  # whatever a hostile message does to a decoder, it costs its own reply only
        replies.failures[node] = UNREADABLE
        return
    replies.answers.setdefault(node, []).append(packed)
