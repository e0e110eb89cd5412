"""Our messages as those of `agent.proto`, and back."""

from collections.abc import Mapping

from client.proto import agent_pb2
from common.packed import Field, Packed, arrays_from_bytes, arrays_to_bytes

METHODS: Mapping[str, str] = {
    "describe": "Describe",
    "initial": "Initial",
    "statistics": "Statistics",
    "fit": "Fit",
    "evaluate": "Evaluate",
    "distances": "Distances",
    "own": "Own",
    "personalise": "Personalise",
    "duplicates": "Duplicates",
    "collisions": "Collisions",
    "groups": "Groups",
    "keys": "Keys",
    "shares": "Shares",
    "masked": "Masked",
    "confirm": "Confirm",
    "unmask": "Unmask",
}
"""The method of the agent for each kind of request (`common.wire.REQUESTS`)."""


def to_request(packed: Packed, message_id: str) -> agent_pb2.Request:
    """A request for the agent.

    Raises:
        ValueError: an array or a field that the contract cannot carry.
    """
    return agent_pb2.Request(message_id=message_id, arrays=arrays_to_bytes(packed.arrays), fields=_fields(packed))


def to_reply(packed: Packed) -> agent_pb2.Reply:
    """A reply of the agent.

    Raises:
        ValueError: an array or a field that the contract cannot carry.
    """
    return agent_pb2.Reply(arrays=arrays_to_bytes(packed.arrays), fields=_fields(packed))


def to_packed(message: agent_pb2.Request | agent_pb2.Reply) -> Packed:
    """What a message holds; its content is not yet checked.

    Raises:
        ValueError: its arrays cannot be decoded, or a field is empty.
    """
    return Packed(arrays_from_bytes(message.arrays), {name: _value(one) for name, one in message.fields.items()})


def _fields(packed: Packed) -> dict[str, agent_pb2.Field]:
    return {name: _field(value) for name, value in packed.fields.items()}


def _field(value: Field) -> agent_pb2.Field:
    if isinstance(value, str):
        return agent_pb2.Field(text=value)
    if type(value) is int and -(2**63) <= value < 2**63:
        return agent_pb2.Field(whole=value)
    if isinstance(value, float):
        return agent_pb2.Field(real=value)
    raise ValueError("expected fields of text, whole numbers of 64 bits, or real numbers")


def _value(one: agent_pb2.Field) -> Field:
    which = one.WhichOneof("value")
    if which is None:
        raise ValueError("a field has no value")
    value: Field = getattr(one, which)
    return value
