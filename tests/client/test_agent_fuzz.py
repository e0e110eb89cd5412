"""Thousands of hostile inputs on the socket of a real agent: it goes on serving, and nothing off the allow-list comes back."""

import contextlib
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from client.agent_socket import held, is_serving
from client.agent_status import StatusFile
from client.proto import agent_pb2
from client.proto.convert import METHODS, to_packed, to_request
from common.errors import RefusalCode
from common.job import Job, job_from_json, parse_job
from common.packed import REFUSAL, Packed
from common.phases import PHASE_REQUESTS
from common.wire import MAX_HEADS, REPLIES, problem_with, reply_schema
from common.wire import dimensions as dimensions_of

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

CODES = {code.value for code in RefusalCode}
SERVICE = "/consilium.agent.v1.Agent/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
AT_ONCE = 8

NEVER_SENT = {"Exception calling application", "Traceback", ".py", "/tmp"}
"""What gRPC would say of an exception inside the agent, and what no status of a call may hold."""


@dataclass
class Target:
    """A hospital's agent, well-formed requests by kind, and what came of the inputs."""

    path: Path
    good: dict[str, agent_pb2.Request]
    job: Job
    channel: grpc.Channel
    waiting: list[tuple[str, bytes, grpc.Future]] = field(default_factory=list)
    seen: Counter = field(default_factory=Counter)

    def call(self, kind: str, data: bytes) -> None:
        """Send bytes as a request of a kind; answers are read a few at a time."""
        method = self.channel.unary_unary(SERVICE + METHODS.get(kind, kind))
        self.waiting.append((kind, data, method.future(data, timeout=60)))
        if len(self.waiting) >= AT_ONCE:
            self.read()

    def read(self) -> None:
        for kind, data, future in self.waiting:
            error = future.exception()
            if error is None:
                outcome = self.outcome(kind, data, future.result())
            else:
                outcome = f"status {error.code().name}"
                assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED), (error, data[:200])
                assert not any(word in error.details() for word in NEVER_SENT), (error.details(), data[:200])
            self.seen[outcome] += 1
        self.waiting.clear()

    def outcome(self, kind: str, data: bytes, reply: bytes) -> str:
        """A refusal's code, or `answer`; anything else fails the test."""
        packed = to_packed(agent_pb2.Reply.FromString(reply))
        if REFUSAL in packed.fields:
            assert (set(packed.fields), dict(packed.arrays)) == ({REFUSAL}, {}), data[:200]
            assert packed.fields[REFUSAL] in CODES
            return str(packed.fields[REFUSAL])
        asked = to_packed(agent_pb2.Request.FromString(data))
        job = job_from_json(str(asked.fields["job"]))
        heads = len(packed.arrays["losses"]) if "losses" in packed.arrays else 1
        assert heads <= MAX_HEADS
        assert problem_with(packed, reply_schema(kind, job, {}), dimensions_of(job, heads)) is None, data[:200]
        return "answer"


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def target(phantoms, hospital_with, requests_of, serve, tmp_path_factory, patched):
    job = parse_job(
        {
            "name": "fuzzed",
            "classes": ["normal", "opacity"],
            "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 1}},
            "image": {"size": 64},
            "features": {"stages": "last"},
            "method": {"name": "fedavg", "warm_start": "analytic"},
            "evaluation": {"cross_site": True, "groups": ["sex"]},
            "personalisation": {"epochs": 1},
        }
    )
    folder = tmp_path_factory.mktemp("fuzzed")
    hospital = hospital_with(phantoms["hospital-a"], allow_backbones=("squeezenet1_1",), min_count=2)
    asked = requests_of(job, hospital)
    good = {
        "describe": asked.describe(),
        "initial": asked.about(),
        "statistics": asked.statistics(),
        "fit": asked.fit(),
        "evaluate": asked.evaluate(heads=1),
        "distances": asked.distances(),
        "own": asked.statistics(),
        "personalise": asked.personalise(),
        "groups": asked.fit(),
        # Of no use for this job, and hostile all the same.
        "duplicates": asked.about(),
        "collisions": Packed({name: np.zeros(4, np.uint8) for name in ("exact", "near")}, asked.about().fields),
        **dict.fromkeys(
            PHASE_REQUESTS, Packed({"survived": np.ones(3, np.uint8)}, {**asked.about().fields, "session": "a" * 64})
        ),
    }
    path = folder / "agent.sock"
    patched.setattr(StatusFile, "_write", lambda _: None)  # thousands of fsyncs would only take time
    with held(path), grpc.insecure_channel(f"unix://{path}") as channel:
        running = serve(hospital, path, folder / "status")
        yield Target(path, {kind: to_request(one, kind) for kind, one in good.items()}, job, channel)
        running.stop()


# -------------------------------------------------------------------------------------------------------- what is thrown at it


def raw_bytes(rng: random.Random, target: Target) -> None:
    """Bytes on the socket that are no gRPC, or begin as HTTP/2 and go wrong."""
    frame = (
        struct.pack(">I", rng.randrange(200))[1:] + bytes([rng.randrange(12), rng.randrange(256)]) + rng.randbytes(4)
    )
    content = rng.choice(
        [
            rng.randbytes(rng.randrange(400)),
            PREFACE + rng.randbytes(rng.randrange(200)),
            PREFACE + frame + rng.randbytes(rng.randrange(200)),
            PREFACE + b"\0\0\0\4\0\0\0\0\0" + frame * rng.randrange(1, 5),
            b"GET / HTTP/1.1\r\nHost: " + rng.randbytes(8) + b"\r\n\r\n",
        ]
    )
    with socket.socket(socket.AF_UNIX) as caller, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        caller.settimeout(5)
        caller.connect(str(target.path))
        caller.sendall(content)
        if rng.random() < 0.02:
            caller.recv(100)
    target.seen["raw"] += 1


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Bytes with some of them changed, cut out, put in, repeated or cut off."""
    content = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(content) + 1)
        how = rng.randrange(5)
        if how == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            content[at : at + rng.randrange(1, 9)] = b""
        elif how == 2:
            content[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif how == 3:
            content[at:at] = content[at : at + rng.randrange(1, 64)]
        else:
            del content[at:]
    return bytes(content)


def garbage_frame(rng: random.Random, target: Target) -> None:
    target.call(rng.choice([*METHODS, "Approve", "describe"]), rng.randbytes(rng.randrange(300)))


def mutated_request(rng: random.Random, target: Target) -> None:
    """A valid request with flipped, lost or added bytes anywhere: in the job, the numbers, or protobuf's own."""
    kind = rng.choice(list(METHODS))
    target.call(kind, mutated(rng, target.good[rng.choice([kind, kind, *METHODS])].SerializeToString()))


def mutated_header(rng: random.Random, target: Target) -> None:
    """Arrays whose safetensors header lies: lengths, offsets, dtypes, shapes, names."""
    kind = rng.choice(["statistics", "fit", "evaluate", "own", "personalise", "groups", "distances"])
    data = target.good[kind].arrays
    length = struct.unpack("<Q", data[:8])[0]
    header, numbers = data[8 : 8 + length], data[8 + length :]
    how = rng.randrange(4)
    if how == 0:
        header = mutated(rng, header)
    elif how == 1:
        length_told = rng.choice(
            [0, 1, length - 1, length + 1, len(data), 2**31, 2**63, 2**64 - 1, rng.randrange(2**64)]
        )
        send(target, kind, struct.pack("<Q", length_told) + header + numbers)
        return
    elif how == 2:
        content = json.loads(header)
        one = content[rng.choice([name for name in content if name != "__metadata__"])]
        changes: dict[str, Callable[[], object]] = {
            "dtype": lambda: rng.choice(["F64", "F32", "I64", "BF16", "BOOL", "U8", "F8_E4M3", "C64", "", 7, None]),
            "shape": lambda: [
                rng.choice([0, 1, -1, 2, 512, 2**31, 2**63, 2**64, 1.5, "2"]) for _ in range(rng.randrange(5))
            ],
            "data_offsets": lambda: [
                rng.choice([0, -1, 8, 4096, len(numbers), 2**40, 2**64]) for _ in range(rng.randrange(1, 4))
            ],
        }
        key = rng.choice(list(changes))
        one[key] = changes[key]()
        header = json.dumps(content).encode()
    else:
        content = json.loads(header)
        name = rng.choice(["", "weight\0", "../../etc/passwd", "x" * 10_000, "weight", "__metadata__", "\ud800"])
        content[name] = rng.choice([{}, [], None, "F32", content.get("mean"), {"a": "b"}])
        header = json.dumps(content).encode()
    send(target, kind, struct.pack("<Q", len(header)) + header + numbers)


def send(target: Target, kind: str, arrays: bytes, **changes: object) -> None:
    request = agent_pb2.Request()
    request.CopyFrom(target.good[kind])
    request.arrays = arrays
    target.call(kind, request.SerializeToString())


def random_fields(rng: random.Random, target: Target) -> None:
    """A valid request with other fields: other types, odd text, numbers at the end of their range, jobs a little changed."""
    kind = rng.choice(list(METHODS))
    request = agent_pb2.Request()
    request.CopyFrom(target.good[kind])
    name = rng.choice([*request.fields, "job", "round", "part", "path", "refused", "\x1b[2J", ""])
    value = rng.choice(
        [
            agent_pb2.Field(),
            agent_pb2.Field(text=rng.choice(["", "train", "test", "/etc/passwd", "\0", "x" * 5000, "{}", "[" * 3000])),
            agent_pb2.Field(whole=rng.choice([0, -1, 1, 2**63 - 1, -(2**63), rng.randrange(100)])),
            agent_pb2.Field(real=rng.choice([0.0, -0.0, 1.5, float("inf"), float("nan"), 1e308])),
            agent_pb2.Field(text=changed_job(rng, target.job)),
        ]
    )
    if rng.random() < 0.3:
        del request.fields[rng.choice(list(request.fields))]
    request.fields[name].CopyFrom(value)
    request.message_id = rng.choice(["", "m", "x" * 1000, "\n"])
    target.call(kind, request.SerializeToString())


def changed_job(rng: random.Random, job: Job) -> str:
    content = json.loads(job.canonical_json())
    where = content
    while isinstance(where, dict):
        key = rng.choice(list(where))
        if not isinstance(where[key], dict) or rng.random() < 0.3:
            break
        where = where[key]
    odd = [None, -1, 0, 10**30, 1e400, "", "x", [], {}, ["a", "a"], [[]] * 50, {"name": "random", "seed": 2**63}, True]
    where[key] = rng.choice(odd)
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def random_numbers(rng: random.Random, target: Target) -> None:
    """A valid request with other numbers in its arrays: huge, tiny, NaN. Some are answered."""
    kind = rng.choice(["statistics", "fit", "evaluate", "own", "personalise", "groups", "distances"])
    packed = to_packed(target.good[kind])
    name = rng.choice(list(packed.arrays))
    generator = np.random.default_rng(rng.randrange(2**32))
    array = packed.arrays[name].copy()
    with np.errstate(all="ignore"):
        odd = rng.choice([np.nan, np.inf, -np.inf, 0.0, -1.0, 6e-8, 65504.0, 3e38, generator.normal()])
        array.flat[generator.integers(array.size, size=rng.choice([1, 5, array.size]))] = odd
    request = to_request(Packed({**packed.arrays, name: array}, packed.fields), str(rng.random()))
    target.call(kind, request.SerializeToString())


MIX: dict[Callable[[random.Random, Target], None], int] = {
    raw_bytes: 15,
    garbage_frame: 15,
    mutated_request: 30,
    mutated_header: 20,
    random_fields: 18,
    random_numbers: 2,
}
"""What is thrown, and in what shares."""


@pytest.mark.parametrize(
    "inputs", [pytest.param(2_000, id="quick"), pytest.param(20_000, id="long", marks=pytest.mark.slow)]
)
def test_no_input_stops_the_agent_or_gets_more_than_the_allow_list(inputs, target):
    rng = random.Random(inputs)
    target.seen.clear()
    throws = rng.choices(list(MIX), weights=list(MIX.values()), k=inputs)
    for number, throw in enumerate(throws):
        throw(rng, target)
        if number % 1000 == 999:
            target.read()
            assert is_serving(target.path), number
    target.read()
    assert sum(target.seen.values()) == inputs
    # Both ways out were met: refused for many reasons, and answered where a change was harmless.
    assert target.seen["answer"] > 0
    assert target.seen["bad-request"] > inputs / 4


def test_the_requests_that_are_mutated_are_good_ones(target):
    target.seen.clear()
    for kind, request in target.good.items():
        target.call(kind, request.SerializeToString())
        target.read()
    # `initial` is for jobs that tune, the phases for those with secure aggregation, two for those that check for duplicates.
    refused = 3 + len(PHASE_REQUESTS)
    assert dict(target.seen) == {"answer": len(REPLIES) - refused, "bad-request": refused}
