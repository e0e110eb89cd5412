"""The courier: Flower's ClientApp. It hands each request to the hospital and the answer back, and holds no patient data.

What answers is for the hospital to decide, in its SuperNode's node config:

    agent-socket="/path/agent.sock"     the hospital's agent, behind its Unix socket
    hospital-dir="/path/images"         a `Hospital` in this process, for simulations; also hospital-name, cache-dir,
                                        weights-dir, device, state-dir, node-key, roster,
                                        consortium-secret

In Flower's simulation runtime there is no such config per node; there `client/simulated.py` says which hospital a node is. It
is not part of what a coordinator ships to real hospitals (`deploy/bundle.py`), and neither is the `Hospital`.
"""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.courier import ask_agent
from common.errors import ConfigError, Refusal, RefusalCode
from common.flower_records import MESSAGE_TYPES, from_records, to_records
from common.packed import REFUSAL, Packed

if TYPE_CHECKING:
    from client.hospital import Hospital

log = logging.getLogger(__name__)

app = ClientApp()
Answer = Callable[[str, Packed], Packed]

Settings = tuple[tuple[str, str], ...]
hospitals: dict[Settings, "Hospital"] = {}
"""Hospitals in this process, by their settings: the features stay in memory from message to message."""


def settings_of(node: Mapping[str, str | int | float | bool]) -> Settings:
    """A node config as the key of `hospitals`."""
    return tuple(sorted((key, str(value)) for key, value in node.items()))


def _handler(kind: str) -> Callable[[Message, Context], Message]:
    """Answers requests of one kind (`common.wire.REQUESTS` says what each is)."""

    def handle(message: Message, context: Context) -> Message:
        return _translate(kind, message, context)

    return handle


for _kind, _message_type in MESSAGE_TYPES.items():
    _category, _, _action = _message_type.partition(".")
    {"query": app.query, "train": app.train, "evaluate": app.evaluate}[_category](_action or "default")(_handler(_kind))


def _translate(kind: str, message: Message, context: Context) -> Message:
    try:
        try:
            request = from_records(message.content)
        except ValueError as error:
            raise Refusal(RefusalCode.BAD_REQUEST, "the message is none of ours") from error
        records = to_records(_answer(kind, request, message, context))
    except Exception as error:  # its text may name a file or a patient: nothing of it may leave
        code = error.code if isinstance(error, Refusal) else RefusalCode.INTERNAL
        log.warning("the courier declines: %s", code)
        log.debug("the courier declines because of:", exc_info=True)
        records = to_records(Packed({}, {REFUSAL: code.value}))
    return Message(records, reply_to=message)


def _answer(kind: str, request: Packed, message: Message, context: Context) -> Packed:
    node = {key: str(value) for key, value in context.node_config.items()}
    if "agent-socket" in node:
        return ask_agent(node["agent-socket"], kind, request, message.metadata.message_id, message.metadata.ttl)
    return _hospital(node, context)(kind, request)


def _hospital(node: dict[str, str], context: Context) -> Answer:
    if "hospital-dir" not in node:
        if "num-partitions" not in node:
            raise ConfigError(
                "node config: expected agent-socket or hospital-dir, got neither; start the SuperNode with "
                "--node-config 'agent-socket=\"/path/agent.sock\"'"
            )
        from client.simulated import node_settings

        node = node_settings(node, {key: str(value) for key, value in context.run_config.items()})
    settings = settings_of(node)
    if settings not in hospitals:
        hospitals[settings] = _open(node)
    hospital = hospitals[settings]
    if "announce" not in node:
        return hospital.answer

    def announced(kind: str, request: Packed) -> Packed:
        reply = hospital.answer(kind, request)
        if kind == "describe" and REFUSAL not in reply.fields:
            return Packed(reply.arrays, {**reply.fields, "hospital": hospital.name})
        return reply

    return announced


def _open(node: dict[str, str]) -> "Hospital":
    # Imported only where a hospital lives in this process: a courier in front of an agent needs no torch.
    from client.hospital import Hospital
    from client.hospital_file import Data, HospitalFile
    from client.policy import OF_SIMULATIONS

    folder = Path(node["hospital-dir"])
    return Hospital(
        HospitalFile(
            name=node.get("hospital-name") or _name_of(folder),
            data=Data(folder=folder),
            cache=Path(node["cache-dir"]) if node.get("cache-dir") else None,
            weights_dir=Path(node["weights-dir"]) if node.get("weights-dir") else None,
            device=node.get("device", "auto"),
            state=Path(node["state-dir"]) if node.get("state-dir") else None,
            node_key=Path(node["node-key"]) if node.get("node-key") else None,
            roster=Path(node["roster"]) if node.get("roster") else None,
            consortium_secret=Path(node["consortium-secret"]) if node.get("consortium-secret") else None,
            policy=OF_SIMULATIONS,
        )
    )


def _name_of(folder: Path) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", folder.name.lower()).strip("-_")[:63] or "hospital"
