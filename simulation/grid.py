"""A Flower Grid in one process: messages go straight to the real ClientApp, one hospital after the other.

Deterministic and quick (about a millisecond a message), and otherwise like the deployed one: the same messages, the same
error codes when an app raises. Messages that ask many hospitals to train the same can be looked at together first.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from common.errors import FederationError
from common.flower_records import MESSAGE_TYPES, from_records
from common.packed import Packed

log = logging.getLogger(__name__)

COORDINATOR = 1
CLIENT_APP_RAISED = 2
"""Flower's error code for an app that raised (flwr.common.constant.ErrorCode)."""
NodeConfig = Mapping[str, str | int | float | bool]
Ahead = Callable[[Packed, Sequence[NodeConfig]], None]


class InProcessGrid(Grid):
    """Hospitals by name with their node configs; each gets its own node id and Flower state.

    ahead: shown a request to `fit` and the node configs it goes to, before they are asked one by one.
    """

    def __init__(self, app: ClientApp, hospitals: Mapping[str, NodeConfig], ahead: Ahead | None = None) -> None:
        # Flower asks the process which run it belongs to whenever a message is made.
        TaskIdentity.task_id = TaskIdentity.run_id = 1
        TaskIdentity.node_id = COORDINATOR
        self._app, self._ahead = app, ahead
        self._names = dict(enumerate(hospitals, start=COORDINATOR + 1))
        self._configs = {node: hospitals[name] for node, name in self._names.items()}
        self._states: dict[int, RecordDict] = {}
        self._waiting: dict[str, Message] = {}
        self._number = itertools.count(1)

    def set_run(self, run: Run) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> Run:
        """There is no run record in one process."""
        raise FederationError("the in-process engine keeps no Flower run record")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes, in the order the hospitals were given."""
        return list(self._names)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes with the hospitals' names."""
        return [NodeInfo(node_id=node, name=name) for node, name in self._names.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; they are answered when they are pulled."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message-{next(self._number)}"
            message.metadata.__dict__["_src_node_id"] = COORDINATOR
            self._waiting[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to queued messages."""
        waiting = [self._waiting.pop(message_id) for message_id in message_ids if message_id in self._waiting]
        self._look_ahead(waiting)
        return [reply for message in waiting for reply in self._deliver(message)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:  # noqa: ARG002
        """Push, then pull."""
        return self.pull_messages(self.push_messages(messages))

    def _look_ahead(self, waiting: Sequence[Message]) -> None:
        """Show what goes to several nodes at once; messages of one question share their content."""
        fits: dict[int, list[Message]] = {}
        for message in waiting if self._ahead is not None else ():
            if message.metadata.message_type == MESSAGE_TYPES["fit"]:
                fits.setdefault(id(message.content), []).append(message)
        for messages in fits.values():
            if self._ahead is not None and len(messages) > 1:
                configs = [self._configs[message.metadata.dst_node_id] for message in messages]
                self._ahead(from_records(messages[0].content), configs)

    def _deliver(self, message: Message) -> list[Message]:
        node = message.metadata.dst_node_id
        try:
            # Made anew for each message, since of thousands of hospitals most keep nothing in it.
            state = self._states.get(node, RecordDict())
            context = Context(run_id=1, node_id=node, node_config=dict(self._configs[node]), state=state, run_config={})
            reply = self._app(message, context)
            if len(context.state):
                self._states[node] = context.state
        except Exception as error:
            log.debug("the app of node %d raised", node, exc_info=True)
            reply = Message(Error(code=CLIENT_APP_RAISED, reason=str(error)), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = node
        return [reply]
