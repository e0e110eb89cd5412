"""Questions to many hospitals over Flower's Grid, with a deadline: the coordinator's only way to the network.

Replies are fetched a few at a time. Whoever gives `use` is handed each hospital's answers as they come, and they are
not kept: the memory of a question then does not grow with the number of hospitals.

A hospital has at most one request waiting behind the one it works at. So a slow hospital does not work through a queue of
rounds that are over, and one that was started again, and has lost a request, gets the next.

Nothing a hospital's process may have written into an error is kept or logged: only Flower's error code is.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, cast

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.flower_records import MESSAGE_TYPES, from_records, size_of, to_records
from common.wire import Packed
from server.pending import Asked, Pending, Reply

log = logging.getLogger(__name__)

NO_ANSWER = "no answer before the deadline"
TOO_LATE = "no answer within the grace period"
NOT_CONNECTED = "not connected"
BUSY = "still busy with earlier requests"
NOT_TAKEN = "Flower did not take the request for it"
UNREACHABLE = "Flower's SuperLink could not be reached"
CLOCKS_APART_S = 310.0
"""Flower lets in a hospital whose clock is off by so much, and judges by that clock whether an answer is void."""
_CONNECTED_EVERY_S = 2.0
_MOST_AT_ONCE, _BYTES_AT_ONCE = 128, 4_000_000
"""Replies fetched together: at most so many, and of about so many bytes, but at least one."""
_T = TypeVar("_T")


class Exchange:
    """Speaks to the hospitals connected to a Grid.

    poll_s: seconds between looks for replies. retry_s: seconds until a hospital that declined or failed to describe itself
    is asked again; None in simulations, where hospitals neither come nor go and every answer is final.
    """

    def __init__(self, grid: Grid, poll_s: float = 0.3, retry_s: float | None = None) -> None:
        self._grid, self._poll_s, self.retry_s = grid, poll_s, retry_s
        self._in_flight: dict[str, Pending] = {}
        # Message ids by node, in the order in which they were sent.
        self._at: dict[int, dict[str, None]] = {}
        self._made: tuple[Packed, RecordDict] | None = None
        self._overtaken: set[str] = set()
        self._nodes: dict[int, str] = {}
        self._known, self._looked_at = False, -math.inf
        self._told: set[str] = set()

    def nodes(self) -> dict[int, str]:
        """The connected nodes and their registered names (empty where there is none).

        While Flower cannot be reached, those of the last look.
        """
        found = self._reach(lambda: list(self._grid.get_nodes()))
        if found is not None:
            self._nodes = {int(node.node_id): str(node.name) for node in found}
            self._known, self._looked_at = True, time.monotonic()
        return dict(self._nodes)

    def pause(self) -> None:
        """Wait for the next look."""
        time.sleep(self._poll_s)

    def post(
        self,
        kind: str,
        request: Packed | Mapping[int, Packed],
        nodes: Iterable[int],
        server_round: int,
        deadline_s: float,
        use: Callable[[int, list[Packed]], None] | None = None,
        reply_bytes: int = 0,
    ) -> Pending:
        """Put a request to some nodes and go on; `look` fetches what comes back.

        request: the same for all, or one for each node. use, reply_bytes: as in `ask`.
        """
        nodes = list(nodes)
        same = self._records_of(request) if isinstance(request, Packed) else None
        records = {node: same or to_records(cast("Mapping[int, Packed]", request)[node]) for node in nodes}
        at_once = max(1, min(_MOST_AT_ONCE, _BYTES_AT_ONCE // max(reply_bytes, 1)))
        end = time.monotonic() + deadline_s
        pending = Pending(MESSAGE_TYPES[kind], str(server_round), end, records, use, at_once)
        self._send(pending)
        return pending

    def _records_of(self, request: Packed) -> RecordDict:
        """As Flower's records; those of a request that is put to one node after the other are made once."""
        if self._made is None or self._made[0] is not request:
            self._made = (request, to_records(request))
        return self._made[1]

    def look(self, pending: Mapping[int, Pending]) -> None:
        """Fetch what has come, and send what of these could not be sent before. Answers may take some out of the mapping."""
        self._fetch()
        for one in list(pending.values()):
            self._send(one)

    def ask(
        self,
        kind: str,
        request: Packed | Mapping[int, Packed],
        nodes: Iterable[int],
        server_round: int,
        deadline_s: float,
        needed: int = 0,
        grace_s: float | None = None,
        watch: Callable[[Pending, float], None] = lambda _pending, _end: None,
        use: Callable[[int, list[Packed]], None] | None = None,
        reply_bytes: int = 0,
    ) -> Asked:
        """Put a request to some nodes and collect what comes back.

        It ends when all have answered, at the deadline, or `grace_s` after `needed` of them gave a usable answer. Hospitals
        that are not connected are waited for only while fewer than `needed` have given one. watch: told again and again how
        far it is, and when it will end on the monotonic clock. use: is handed a node's answers as soon as they are there; they
        are then neither kept nor returned. reply_bytes: about how long an answer is, so that few long ones are held at once.
        """
        self._told.clear()
        if self.retry_s is not None:
            self.nodes()
        pending = self.post(kind, request, nodes, server_round, deadline_s, use, reply_bytes)
        end = pending.end
        while True:
            self._fetch()
            now = time.monotonic()
            if grace_s is not None and end == pending.end and len(pending.usable) >= needed:
                end = min(end, now + grace_s)
            watch(pending, end)
            if now >= end or self._settled(pending, needed):
                break
            self.pause()
            self._send(pending)
        return self.close(pending, TOO_LATE if end < pending.end else NO_ANSWER)

    def close(self, pending: Pending, why: str = NO_ANSWER) -> Asked:
        """What came back so far; who has not answered has failed, with the reason `why`."""
        failures = dict(pending.failures) | dict.fromkeys(pending.open.values(), why)
        for node in pending.unsent:
            if node not in failures:
                away, busy = self._away(node), self._busy(node)
                failures[node] = NOT_CONNECTED if away else BUSY if busy else UNREACHABLE
        pending.unsent.clear()
        return Asked(
            pending.answers,
            {node: reason for node, reason in failures.items() if node not in pending.answered},
            pending.bytes_down,
            pending.bytes_up,
        )

    def _send(self, pending: Pending) -> None:
        """Send what is not sent yet to nodes that are connected and free."""
        if pending.unsent and self.retry_s is not None and time.monotonic() > self._looked_at + _CONNECTED_EVERY_S:
            self.nodes()
        sizes = _Sizes()
        for node in list(pending.unsent):
            if self._away(node) or self._busy(node):
                continue
            ids = self._push(pending, node)
            if ids is None:
                return
            del pending.unsent[node]
            if not ids or not ids[0]:
                pending.failures[node] = NOT_TAKEN
                continue
            pending.sent(ids[0], node, sizes(pending.records[node]))
            self._in_flight[ids[0]] = pending
            self._at.setdefault(node, {})[ids[0]] = None

    def _push(self, pending: Pending, node: int) -> list[str] | None:
        """Push one message, because of several Flower would not say which it refused: its id, if it was taken."""
        # Void soon after the deadline: a hospital that comes late does not start on it.
        ttl = max(pending.end - time.monotonic(), 0.0) + CLOCKS_APART_S
        message = Message(
            pending.records[node],
            dst_node_id=node,
            message_type=pending.message_type,
            group_id=pending.group,
            ttl=ttl,
        )
        return self._reach(lambda: list(self._grid.push_messages([message])))

    def _fetch(self) -> None:
        """Fetch every reply there is, also late ones to earlier questions: they show that a hospital is free again."""
        now = time.monotonic()
        for message_id, pending in list(self._in_flight.items()):
            if now > pending.end + CLOCKS_APART_S:
                self._forget(message_id)
        waiting = list(self._in_flight)
        while waiting:
            first = self._in_flight.get(waiting[0])
            some = waiting[: first.at_once if first else _MOST_AT_ONCE]
            del waiting[: len(some)]
            messages = self._reach(lambda some=some: list(self._grid.pull_messages(some)))  # type: ignore[misc]
            if messages is None:
                return
            self._take(messages)

    def _take(self, messages: list[Message]) -> None:
        """Sort some replies, all those to one request among them, and hand on what is to be used as it comes."""
        answered: dict[str, Pending] = {}
        while messages:
            # Each is let go as soon as it is decoded.
            message = messages.pop(0)
            message_id = message.metadata.reply_to_message_id
            if asked := self._in_flight.get(message_id):
                asked.take(message_id, _read(message), again=self.retry_s is not None)
                answered[message_id] = asked
                if asked.unsent:
                    self._looked_at = -math.inf
        # Only now: a node may have sent several answers.
        for message_id, asked in answered.items():
            self._answered(message_id)
            asked.hand_on()

    def _answered(self, message_id: str) -> None:
        """Cross a request off. Hospitals work in order: one that was sent before it is lost, or its answer is on its way."""
        if (pending := self._in_flight.get(message_id)) is None:
            return
        node = pending.open[message_id]
        for earlier in self._at[node]:
            if earlier == message_id:
                break
            self._overtaken.add(earlier)
        self._forget(message_id)
        del pending.open[message_id]

    def _forget(self, message_id: str) -> None:
        node = self._in_flight.pop(message_id).open[message_id]
        del self._at[node][message_id]
        if not self._at[node]:
            del self._at[node]
        self._overtaken.discard(message_id)

    def _away(self, node: int) -> bool:
        return self.retry_s is not None and self._known and node not in self._nodes

    def _busy(self, node: int) -> bool:
        """Whether it works at a request, and another one waits, whose deadlines have not passed."""
        now = time.monotonic()
        at_work = [
            message_id
            for message_id in self._at.get(node, ())
            if message_id not in self._overtaken and now < self._in_flight[message_id].end
        ]
        return len(at_work) > 1

    def _settled(self, pending: Pending, needed: int) -> bool:
        """Whether nothing more is worth waiting for."""
        if pending.open or not all(self._away(node) for node in pending.unsent):
            return False
        usable = len(pending.usable)
        return not pending.unsent or usable >= needed or usable + len(pending.unsent) < needed

    def _reach(self, call: Callable[[], _T]) -> _T | None:
        """What Flower answers; None if it cannot be reached: its SuperLink may be starting again.

        Flower's own client waits as long as no connection can be made; what it raises is an answer that is no answer.
        """
        try:
            return call()
        except Exception as error:
            name = type(error).__name__
            if name not in self._told:
                log.warning("Flower's SuperLink gave no proper answer (%s); trying again until the deadline", name)
                self._told.add(name)
            log.debug("Flower's Grid raised", exc_info=True)
            return None


class _Sizes:
    """Bytes of records; of those that go to many nodes they are counted once."""

    def __init__(self) -> None:
        self._last: tuple[RecordDict, int] | None = None

    def __call__(self, records: RecordDict) -> int:
        if self._last is None or self._last[0] is not records:
            self._last = (records, size_of(records))
        return self._last[1]


def _read(message: Message) -> Reply:
    node = message.metadata.src_node_id
    if message.has_error():
        return Reply(node, error_code=int(message.error.code))
    size = 0
    try:
        size = size_of(message.content)
        return Reply(node, size, from_records(message.content))
    except Exception:  # whatever a hostile message does to a decoder, it costs its own reply only
        return Reply(node, size)
