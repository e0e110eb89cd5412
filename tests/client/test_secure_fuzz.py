"""Jobs under secure aggregation: whatever is asked in whatever order, a hospital says nothing plain and unmasks a sum once.

Three hospitals are asked all five phases by a coordinator that mixes honest sessions with requests of any kind: out of order,
again, of other sessions, with foreign keys, with corrupted terms, and with odd arrays. Directly, and through an agent's socket.
"""

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from client.agent_socket import held, is_serving
from client.agent_status import StatusFile
from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile
from client.policy import OF_SIMULATIONS
from client.proto import agent_pb2
from client.proto.convert import METHODS, to_packed, to_request
from common.errors import ConfigError, RefusalCode
from common.head import Head, Standardisation
from common.job import job_from_json
from common.messages import pack_heads, pack_standardisation
from common.model import Model
from common.packed import REFUSAL, Packed
from common.phases import PHASE_REQUESTS
from common.secure_sum.combiner import Combiner
from common.secure_sum.errors import SecureSumError
from common.secure_sum.primitives import new_key, point_of
from common.secure_sum.roster import parse_roster
from common.secure_sum.sizes import KEY_SHARE_BYTES, POINT_BYTES, SEED_SHARE_BYTES
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Phase
from common.summed import Question, layout_of
from common.wire import REQUESTS, SUMMED, dimensions, problem_with, reply_schema
from simulation.kits import make_kits

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

CODES = {code.value for code in RefusalCode}
NAMES = ("hospital-a", "hospital-b", "hospital-c")
SERVICE = "/consilium.agent.v1.Agent/"
SECURE = {"secure_aggregation": True}
OPEN_AT_ONCE, KEPT = 5, 60
JOBS = {
    "fedavg": {"method": {"name": "fedavg", "rounds": 9999, "warm_start": "analytic"}, "privacy": SECURE},
    "dp-gd": {
        "method": {"name": "dp-gd", "rounds": 9999},
        "privacy": {**SECURE, "differential_privacy": {"epsilon": 3.0}},
        "evaluation": {"test_fraction": 0.25},
    },
    "own-noise": {
        "method": {"name": "fedavg", "rounds": 9999, "local_epochs": 1},
        "privacy": {**SECURE, "differential_privacy": {"epsilon": 3.0, "noise": "own"}},
        "evaluation": {"test_fraction": 0.25},
    },
}
OF_ROUNDS = {"fedavg": ("fit", "evaluate"), "dp-gd": ("gradient", "evaluate"), "own-noise": ("noised-fit", "evaluate")}
FIRST = {"fedavg": ("holdings", "statistics"), "dp-gd": ("centre",), "own-noise": ("centre",)}


@dataclass(eq=False)
class Session:
    """An honest session that is under way: the question, and what combines the answers."""

    question: Packed
    combiner: Combiner


@dataclass
class Fuzzer:
    """Asks hospitals, remembers what was asked, and holds every answer to what may leave."""

    name: str
    job: object
    ask: object
    roster: object
    rng: random.Random
    sessions: list[Session] = field(default_factory=list)
    asked: list[tuple[str, Packed]] = field(default_factory=list)
    replies: list[Packed] = field(default_factory=list)
    about: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    masked: dict[tuple[str, str], bytes] = field(default_factory=dict)
    opened: dict[tuple[str, str], bytes] = field(default_factory=dict)
    seen: Counter = field(default_factory=Counter)
    sent: int = 0
    round: itertools.count = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        described = self.send("hospital-a", "describe", Packed({}, {"job": self.job.canonical_json()}))
        self.fingerprint = str(described.fields["fingerprint"])
        self.first = list(FIRST[self.name])

    # ------------------------------------------------------------------------------------------------------ what is asked

    def step(self) -> None:
        """One or more inputs."""
        how = self.rng.random()
        if len(self.sessions) < OPEN_AT_ONCE and how < 0.1:
            self.begin()
        elif self.sessions and how < 0.25:
            self.advance(self.rng.choice(self.sessions))
        elif how < 0.32:
            self.send(self.rng.choice(NAMES), *self.plain())
        elif self.asked:
            kind, packed = self.rng.choice(self.asked)
            if self.rng.random() < 0.3:
                kind = self.rng.choice([*PHASE_REQUESTS, *REQUESTS, "approve", ""])
            if self.rng.random() < 0.85:
                packed = self.changed(packed)
            self.send(self.rng.choice(NAMES), kind, packed)

    def begin(self) -> None:
        """Open an honest session, about a round that was not asked for or one that was."""
        question = self.question()
        about = Question.of(self.kind, question)
        layout = layout_of(about, self.job, {})
        subject = Subject(self.job.job_id, about.purpose, layout, about.digest)
        terms = subject.terms(self.roster, 3, self.rng.choice([2, 3]))
        self.sessions.append(Session(question, Combiner(terms, layout, self.roster, NAMES)))

    def question(self) -> Packed:
        self.kind = self.first.pop() if self.first else self.rng.choice(OF_ROUNDS[self.name])
        number = next(self.round) if self.rng.random() < 0.8 else self.rng.randrange(1, 20)
        rng = np.random.default_rng(self.rng.randrange(2**32))
        classes, features = self.job.num_classes, self.job.num_features
        standard = Standardisation(np.zeros(features, np.float16), np.full(features, 0.5, np.float16))
        head = Head(rng.normal(0, 0.05, (classes, features)).astype(np.float32), np.zeros(classes, np.float32))
        arrays, fields = dict(pack_standardisation(standard)), {}
        if self.kind == "evaluate":
            arrays |= pack_heads([head])
            fields = {"part": "test", "round": number}
        elif self.kind in ("fit", "gradient", "noised-fit"):
            arrays |= Model(head).arrays()
            fields = {"round": number}
        wanted = SUMMED[self.kind].arrays
        return Packed({name: array for name, array in arrays.items() if name in wanted}, {**self.identity(), **fields})

    def identity(self) -> dict[str, str]:
        return {"job": self.job.canonical_json(), "fingerprint": self.fingerprint}

    def advance(self, session: Session) -> None:
        """The next phase of an honest session, in which some hospitals are not heard of."""
        phase = session.combiner.phase
        replies = {}
        for name, one in session.combiner.requests().items():
            inner = session.question if phase is Phase.MASKED else Packed({}, self.identity())
            request = Packed({**one.arrays, **inner.arrays}, {**one.fields, **inner.fields})
            self.asked.append((phase.value, request))
            reply = self.send(name, phase.value, request)
            if REFUSAL not in reply.fields and self.rng.random() > 0.04:
                replies[name] = reply
        del self.asked[:-KEPT]
        try:
            session.combiner.take(replies)
        except SecureSumError:
            self.sessions.remove(session)
            return
        if session.combiner.phase is None:
            self.seen["opened"] += session.combiner.total is not None
            self.sessions.remove(session)

    def plain(self) -> tuple[str, Packed]:
        """A well-formed question whose answer would not be masked."""
        kind = self.rng.choice(["statistics", "fit", "evaluate", "own", "personalise", "initial", "describe"])
        rng = np.random.default_rng(self.rng.randrange(2**32))
        classes, features = self.job.num_classes, self.job.num_features
        standard = Standardisation(np.zeros(features, np.float16), np.ones(features, np.float16))
        head = Head(rng.normal(0, 0.05, (classes, features)).astype(np.float32), np.zeros(classes, np.float32))
        arrays = {
            **(pack_heads([head]) if kind == "evaluate" else Model(head).arrays()),
            **pack_standardisation(standard),
        }
        fields = {**self.identity(), "round": 1, "part": "test"}
        schema = REQUESTS[kind]
        return kind, Packed(
            {name: one for name, one in arrays.items() if name in schema.arrays},
            {name: one for name, one in fields.items() if name in schema.fields},
        )

    def changed(self, packed: Packed) -> Packed:
        """A request with one or two things wrong."""
        arrays, fields = dict(packed.arrays), dict(packed.fields)
        for _ in range(self.rng.choice([1, 1, 2])):
            if arrays and self.rng.random() < 0.6:
                name = self.rng.choice(list(arrays))
                arrays[name] = self.changed_array(name, arrays[name])
                if arrays[name] is None:
                    del arrays[name]
            else:
                self.change_field(fields)
        return Packed(arrays, fields)

    def changed_array(self, name: str, array: np.ndarray) -> np.ndarray | None:
        array, rng = np.array(array), self.rng
        how = rng.randrange(9)
        if how == 0:
            return None
        if how == 1 and array.size and array.dtype == np.uint8:
            array.flat[rng.randrange(array.size)] ^= 1 << rng.randrange(8)
        elif how == 2 and array.ndim:
            array = np.roll(array, 1, axis=0)
        elif how == 3 and array.ndim:
            array = array[: rng.randrange(len(array) + 1)]
        elif how == 4 and array.ndim and array.size:
            array = np.concatenate([array, array[:1]])
        elif how == 5:
            array = array.astype(rng.choice(["float32", "int64", "uint8", "uint64"]))
        elif how == 6 and array.ndim == 2 and array.shape[1] == POINT_BYTES and len(array):
            # A key of the coordinator's own in the place of a hospital's.
            array[rng.randrange(len(array))] = np.frombuffer(point_of(new_key()), np.uint8)
        elif how == 7:
            # The same entry of another request or reply: foreign keys, shares, signatures, flags.
            others = [one.arrays[name] for one in self.replies if name in one.arrays]
            others += [one.arrays[name] for _, one in self.asked if name in one.arrays]
            array = rng.choice(others) if others else array
            array = array[None] if array.ndim == 1 and name in ("signature", "encryption-key", "mask-key") else array
        elif array.dtype == np.uint8 and array.ndim == 1:
            array = np.array([rng.randrange(2) for _ in array], np.uint8)
        else:
            array = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, array.shape).astype(array.dtype)
        return array

    def change_field(self, fields: dict) -> None:
        name = self.rng.choice([*fields, "session", "purpose", "round", "part", "job-id"])
        known = [one.fields[name] for _, one in self.asked if name in one.fields]
        odd = ["", "a" * 64, "fit:1", "fit:01", "holdings", "evaluate:train:1:1:" + "0" * 16, 0, -1, 2, 256, 2**62, 0.5]
        if self.rng.random() < 0.2:
            fields.pop(name, None)
        elif name == "job":
            fields[name] = str(fields.get(name, "")).replace(*self.rng.choice(
                [("true", "false"), ("9999", "10000"), ("3.0", "1e9"), ('"own"', '"shared"'), ("normal", "odd"), ("{", "")]
            ))  # fmt: skip
        else:
            fields[name] = self.rng.choice([*known, *known, *odd] if known else odd)

    # ------------------------------------------------------------------------------------------------ what may be answered

    def send(self, hospital: str, kind: str, request: Packed) -> Packed:
        reply = self.ask(hospital, kind, request)
        self.sent += 1
        if REFUSAL in reply.fields:
            assert (set(reply.fields), dict(reply.arrays)) == ({REFUSAL}, {})
            assert reply.fields[REFUSAL] in CODES - {"internal-error"}, (kind, request.fields)
            self.seen[str(reply.fields[REFUSAL])] += 1
            return reply
        self.seen[kind] += 1
        self.hold(hospital, kind, request, reply)
        self.replies.append(reply)
        del self.replies[:-KEPT]
        return reply

    def hold(self, hospital: str, kind: str, request: Packed, reply: Packed) -> None:
        """An answer is one of the phases, exactly as the contract has it, and one that may be given now."""
        assert kind in (*PHASE_REQUESTS, "describe"), kind
        job = job_from_json(str(request.fields["job"]))
        assert job.privacy.secure_aggregation
        session = str(reply.fields.get("session"))
        if kind == "keys":
            self.about[hospital, session] = (str(request.fields["purpose"]), str(request.fields["question"]))
        sizes = dimensions(job)
        if kind in ("shares", "unmask"):
            sizes["P"] = len(next(iter(reply.arrays.values())))
            assert 2 <= sizes["P"] <= 3
        if kind == "masked":
            purpose, digest = self.about[hospital, session]
            sizes["L"] = layout_of(Question.read(job, purpose, digest), job, {}).length
        assert problem_with(reply, reply_schema(kind, job, {}), sizes) is None
        key = (hospital, session)
        if kind == "masked":
            vector = reply.arrays["vector"]
            # Plain whole numbers begin with zeros or ones; masked ones do so by chance only.
            plain = np.isin(vector >> np.uint64(56), np.array([0, 255], np.uint64)).mean()
            assert plain < 2 / 256 + 6 / np.sqrt(len(vector))
            # A second vector of one session would have the same masks: their difference would be plain.
            assert self.masked.setdefault(key, vector.tobytes()) == vector.tobytes()
        if kind == "unmask":
            told = b"".join(array.tobytes() for array in reply.arrays.values())
            assert self.opened.setdefault((hospital, self.about[key][0]), told) == told
            seeds, keys = (reply.arrays[name].any(axis=1) for name in ("seed-shares", "key-shares"))
            assert not (seeds & keys).any()


@pytest.fixture(scope="module")
def fuzzer(phantoms, cache_dir, tmp_path_factory, serve):
    """A fuzzer of one of `JOBS`, directly or with one hospital behind its agent's socket."""
    opened = []
    patch = pytest.MonkeyPatch()
    patch.setattr(StatusFile, "_write", lambda _: None)  # thousands of fsyncs would only take time
    patch.setattr("common.secure_sum.once.os.fsync", lambda _: None)

    def make(name: str, seed: int, socket: bool = False) -> Fuzzer:
        from common.job import parse_job

        folder = tmp_path_factory.mktemp("secure")
        kits = make_kits(folder, NAMES)
        job = parse_job(
            {
                "name": "fuzzed",
                "classes": ["normal", "opacity"],
                "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 1}},
                "image": {"size": 64},
                "features": {"stages": "last"},
                **JOBS[name],
            }
        )
        hospitals = {
            one: Hospital(
                HospitalFile(
                    name=one,
                    data=Data(folder=phantoms[one]),
                    cache=cache_dir,
                    state=folder / one / "state",
                    device="cpu",
                    node_key=kits[one]["node-key"],
                    roster=kits[one]["roster"],
                    policy=OF_SIMULATIONS.model_copy(update={"require_secure_aggregation": True}),
                )
            )
            for one in NAMES
        }
        called = {one: hospital.answer for one, hospital in hospitals.items()}
        if socket:
            path = folder / "agent.sock"
            holding = held(path)
            holding.__enter__()
            running, channel = (
                serve(hospitals["hospital-a"], path, folder / "status"),
                grpc.insecure_channel(f"unix://{path}"),
            )
            opened.extend([channel.close, running.stop, lambda: holding.__exit__(None, None, None)])
            number = itertools.count()

            def through(kind: str, request: Packed) -> Packed:
                method = channel.unary_unary(SERVICE + METHODS.get(kind, "Approve"))
                data = to_request(request, str(next(number))).SerializeToString()
                if kind not in METHODS:
                    with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                        method(data, timeout=60)
                    return Packed({}, {REFUSAL: "bad-request"})
                return to_packed(agent_pb2.Reply.FromString(method(data, timeout=60)))

            called["hospital-a"] = through
        roster = parse_roster((folder / "roster.txt").read_text())
        found = Fuzzer(name, job, lambda one, kind, request: called[one](kind, request), roster, random.Random(seed))
        if socket:
            opened.insert(0, lambda: is_serving(path) or pytest.fail("the agent has stopped"))
        return found

    yield make
    for close in opened:
        close()
    patch.undo()


def thrown(fuzzer: Fuzzer, inputs: int) -> None:
    while fuzzer.sent < inputs:
        fuzzer.step()


def long(*values, name):
    return pytest.param(*values, marks=pytest.mark.slow, id=name)


@pytest.mark.parametrize(
    ("name", "socket", "inputs"),
    [
        pytest.param("fedavg", False, 250, id="fedavg"),
        pytest.param("own-noise", True, 200, id="own-noise-socket"),
        long("fedavg", False, 8000, name="fedavg-long"),
        long("dp-gd", False, 5000, name="dp-gd-long"),
        long("own-noise", False, 5000, name="own-noise-long"),
        long("fedavg", True, 4000, name="fedavg-socket-long"),
    ],
)
def test_nothing_plain_is_answered_and_no_sum_is_opened_twice(fuzzer, name, socket, inputs):
    pytest.importorskip("opacus")
    one = fuzzer(name, inputs, socket)
    thrown(one, inputs)
    # Every phase was reached and answered, and refused as well; sums were opened in between.
    assert all(one.seen[kind] > 0 for kind in ("keys", "shares", "masked", "unmask")), one.seen
    assert one.seen["opened"] > 0, one.seen
    assert one.seen["secure-sum"] > inputs / 20, one.seen
    assert one.seen["bad-request"] > inputs / 20, one.seen
    if inputs > 1000:
        assert one.seen["confirm"] > 0, one.seen


def test_a_hospital_that_answers_in_plain_would_be_found(fuzzer):
    """The checks above can fail: an unmasked vector, a plain answer, a second unmasking."""
    one = fuzzer("fedavg", 1)
    while not (one.masked and one.opened):
        one.step()
    (hospital, session), _ = next(iter(one.masked.items()))
    job = {"job": one.job.canonical_json()}
    question = Question.read(one.job, *one.about[hospital, session])
    length = layout_of(question, one.job, {}).length
    identity = {"job-id": one.job.job_id, "fingerprint": one.fingerprint, "session": session}
    vector = Packed({"vector": np.arange(length, dtype=np.uint64)}, {**identity, "purpose": question.purpose})
    with pytest.raises(AssertionError):
        one.hold(hospital, "masked", Packed({}, job), vector)
    with pytest.raises(AssertionError):
        one.hold(hospital, "fit", Packed({}, job), Packed())
    (again, purpose), _ = next(iter(one.opened.items()))
    other = next(key for key, about in one.about.items() if key[0] == again and about[0] == purpose)
    shares = {
        "seed-shares": np.ones((2, SEED_SHARE_BYTES), np.uint8),
        "key-shares": np.ones((2, KEY_SHARE_BYTES), np.uint8),
    }
    with pytest.raises(AssertionError):
        one.hold(again, "unmask", Packed({}, job), Packed(shares, {**identity, "session": other[1]}))


def test_a_job_without_secure_aggregation_is_refused_whatever_its_name(fuzzer):
    one = fuzzer("fedavg", 2)
    plain = one.job.canonical_json().replace('"secure_aggregation":true', '"secure_aggregation":false')
    assert job_from_json(plain).privacy.secure_aggregation is False
    reply = one.send("hospital-a", "describe", Packed({}, {"job": plain}))
    assert reply.fields == {REFUSAL: "against-policy"}
    with pytest.raises(ConfigError):
        Question.read(one.job, "gradient:1", "0" * 64)
