"""The courier's way to the agent: one call over the hospital's Unix socket, tried again while nobody listens there.

Only an agent that cannot be reached is tried again: it may be restarting, or have died in the middle of the call. An agent that
lives gives the answer to a repeated message id again; one that was started anew computes it again, to the same bits.
"""

import logging
import time

import grpc

from client.proto import agent_pb2
from client.proto.convert import METHODS, to_packed, to_request
from common.errors import Refusal, RefusalCode
from common.packed import Packed

log = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""How long the courier goes on looking for an agent that does not listen: time for it to start anew."""

MAX_MESSAGE_BYTES = 1 << 30
"""Larger messages are declined on both sides of the socket."""

MAX_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux (sun_path in unix(7))."""

_PAUSE_S = 0.5
_SERVICE = f"/{agent_pb2.DESCRIPTOR.services_by_name['Agent'].full_name}/"
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A Unix socket has no proxy, whatever the environment says.
    ("grpc.enable_http_proxy", 0),
)
_CODES = {
    grpc.StatusCode.UNAVAILABLE: RefusalCode.AGENT_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: RefusalCode.DEADLINE_PASSED,
    grpc.StatusCode.CANCELLED: RefusalCode.DEADLINE_PASSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RefusalCode.MESSAGE_TOO_LARGE,
}


def ask_agent(
    socket: str, kind: str, request: Packed, message_id: str, deadline_s: float, patience_s: float = PATIENCE_S
) -> Packed:
    """The agent's reply to a request of a kind (`common.wire.REQUESTS`).

    socket: absolute path. deadline_s: for the whole call, tries included.

    Raises:
        Refusal: the agent cannot be reached, is too slow, or the request cannot be sent; with its neutral code.
    """
    if kind not in METHODS:
        raise Refusal(RefusalCode.BAD_REQUEST, "the request is of no known kind")
    try:
        message = to_request(request, message_id)
    except ValueError as error:
        raise Refusal(RefusalCode.BAD_REQUEST, "the request cannot be carried to the agent") from error
    start = time.monotonic()
    while True:
        left = start + deadline_s - time.monotonic()
        try:
            return to_packed(_call(socket, kind, message, max(left, 0.0)))
        except grpc.RpcError as error:
            code = error.code()
            tried_s = time.monotonic() - start
            if code is not grpc.StatusCode.UNAVAILABLE or tried_s + _PAUSE_S >= min(patience_s, deadline_s):
                raise Refusal(
                    _CODES.get(code, RefusalCode.INTERNAL), f"the agent's call ended as {code.name}"
                ) from error
        time.sleep(_PAUSE_S)


def _call(socket: str, kind: str, message: agent_pb2.Request, timeout_s: float) -> agent_pb2.Reply:
    # A new channel each time: one that has met a dead socket waits before it looks again.
    with grpc.insecure_channel(f"unix://{socket}", options=_OPTIONS) as channel:
        call = channel.unary_unary(
            _SERVICE + METHODS[kind],
            request_serializer=agent_pb2.Request.SerializeToString,
            response_deserializer=agent_pb2.Reply.FromString,
        )
        reply: agent_pb2.Reply = call(message, timeout=timeout_s)
        return reply
