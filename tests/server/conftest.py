"""Hospitals that answer as a script says, over the real in-process Grid: no images, no torch."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from common.drift import learning_rates
from common.flower_records import MESSAGE_TYPES, from_records, to_records
from common.groups import group_names
from common.head import Head
from common.job import Job, job_from_json
from common.messages import Description, Space, pack_counts, unpack_heads, unpack_named, unpack_standardisation
from common.metrics import SCORE_BINS, count
from common.model import TUNED, Model, digest_of_arrays
from common.projection import projection_of
from common.ridge import Ridge
from common.sums import Sums
from common.unlike import UNLIKE, Spread, distance_bins
from common.wire import CORRECTION, PARTS, PERSONALISED, STATISTICS_DTYPE, Packed
from server.exchange import Exchange
from simulation.grid import InProcessGrid

KINDS = {word: kind for kind, word in MESSAGE_TYPES.items()}
IMAGES = np.array([[30, 20], [6, 4], [9, 7]])
Tamper = Callable[[str, RecordDict], RecordDict]
Examples = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By part: features (N, D) float32 and labels (N,)."""


@dataclass
class Scripted:
    """Moves what is trained by `step` everywhere; `tamper` may change, replace or refuse its replies of some `kinds`.

    In scaffold each of its steps goes along what it is sent besides, as `step` is of its own gradient.

    examples: real ones, so that sums and counts are true; without, all features have mean 0 and deviation 1, and the
    counts are drawn once for all. tuned: the pretrained arrays of its backbone. steps: what it says it made, for scaffold
    and fednova, by default those of a round. asked: the kinds of the requests so far.
    """

    step: float = 0.1
    images: np.ndarray = field(default_factory=lambda: IMAGES)
    fingerprint: str = "a" * 64
    tamper: Tamper | None = None
    kinds: tuple[str, ...] = ("fit",)
    examples: Examples | None = None
    tuned: Mapping[str, np.ndarray] = field(default_factory=dict)
    steps: int | None = None
    asked: list[str] = field(default_factory=list)
    requests: list[Packed] = field(default_factory=list)

    def answer(self, kind: str, request: Packed) -> Packed:
        self.asked.append(kind)
        self.requests.append(request)
        job = job_from_json(str(request.fields["job"]))
        reply = getattr(self, f"_{kind}")(job, request)
        identity = {"job-id": job.job_id, "fingerprint": self.fingerprint}
        repeated = {name: request.fields[name] for name in ("part", "round") if name in request.fields}
        return Packed(reply.arrays, {**identity, **repeated, **reply.fields})

    def images_of(self, job: Job) -> np.ndarray:
        if self.examples is None:
            return self.images.astype(np.int64)
        return np.array([np.bincount(self.examples[part][1], minlength=job.num_classes) for part in PARTS])

    def _describe(self, job: Job, _request: Packed) -> Packed:
        images = self.images_of(job)
        n = int(images[0].sum()) * job.examples_per_image
        sums, squares = np.zeros(job.num_features), np.full(job.num_features, float(n))
        if self.examples is not None:
            features = self.examples["train"][0].astype(np.float64)
            sums, squares = features.sum(axis=0), (features**2).sum(axis=0)
        return Description(
            Space(job.job_id, self.fingerprint, "b" * 64, digest_of_arrays(self.tuned)),
            **{"images": images, "patients": images.sum(axis=1), "sums": sums, "squares": squares, "examples": n},
            **{"other_labels": 0, "unreadable": 0, "decoded": 0, "cached": n},
        ).pack()

    def _initial(self, _job: Job, _request: Packed) -> Packed:
        return Packed({f"{TUNED}{name}": array for name, array in self.tuned.items()})

    def _statistics(self, job: Job, request: Packed) -> Packed:
        sums = self.sums(job, request)
        arrays = {"gram": sums.triangle(STATISTICS_DTYPE), "class-sums": sums.class_sums.astype(STATISTICS_DTYPE)}
        return Packed(arrays, {"examples": int(sums.examples)})

    def sums(self, job: Job, request: Packed) -> Sums:
        """Of the standardised training examples; projected if the job says so."""
        projected = job.method.projection
        if self.examples is None:
            width, counts = (projected or job.num_features) + 1, self.images[0] * float(job.examples_per_image)
            class_sums = np.zeros((width, len(counts)))
            class_sums[-1] = counts
            return Sums(np.eye(width) * counts.sum(), class_sums)
        features, labels = self._standardised("train", request)
        if projected:
            features = (features @ projection_of(job)).astype(np.float32)
        return Sums.of(features, labels, job.num_classes)

    def _fit(self, job: Job, request: Packed) -> Packed:
        start = Model.from_arrays(request.arrays)
        moved = {name: (array + np.float32(self.step)).astype(np.float32) for name, array in start.arrays().items()}
        counts = pack_counts(self._counts(job, request, "validation", [start.head]))
        views = 1 if job.tune.deep else job.examples_per_image
        fields = {"examples": int(self.images_of(job)[0].sum()) * views, "loss-sum": 1.0}
        steps = self.steps or self.steps_of(job, fields["examples"])
        if job.method.name == "scaffold":
            lr_of = learning_rates(job, int(request.fields["round"]))
            for name, array in moved.items():
                moved[name] = array - np.float32(steps * lr_of(name)) * request.arrays[f"{CORRECTION}{name}"]
        if job.method.counts_steps:
            fields["steps"] = steps
        return Packed({**moved, **counts}, fields)

    @staticmethod
    def steps_of(job: Job, examples: int) -> int:
        """Steps of a round of local training, the last of each epoch with what examples are left."""
        return job.method.local.epochs * -(-examples // (job.method.local.batch_size * (job.tune.accumulate or 1)))

    def _evaluate(self, job: Job, request: Packed) -> Packed:
        heads = unpack_heads(request.arrays)
        return Packed(pack_counts(self._counts(job, request, str(request.fields["part"]), heads)))

    def _distances(self, job: Job, request: Packed) -> Packed:
        spread = Spread.from_arrays(unpack_named(UNLIKE, request.arrays))
        found = np.zeros((job.num_classes, SCORE_BINS), np.int32)
        if self.examples is None:
            found[:, SCORE_BINS // 2] = self.images[PARTS.index("validation")]
        else:
            features, labels = self.examples["validation"]
            np.add.at(found, (labels, distance_bins(spread.squared_distances(features))), 1)
        return Packed({"distances": found})

    def _own(self, job: Job, request: Packed) -> Packed:
        examples = int(self.images_of(job)[0].sum()) * job.examples_per_image
        return Packed(Model(self.own(job, request)).arrays(), {"examples": examples})

    def own(self, job: Job, request: Packed) -> Head:
        """The closed-form head of this hospital's own examples."""
        return Ridge(self.sums(job, request)).logits(0.1)

    def _personalise(self, job: Job, request: Packed) -> Packed:
        head = Model.from_arrays(request.arrays).head
        personalised = Head(head.weight + np.float32(self.step), head.bias)
        heads = dict(zip(PERSONALISED, (head, personalised, self.own(job, request)), strict=True))
        return Packed(pack_counts(self._counts(job, request, str(request.fields["part"]), list(heads.values()))))

    def _groups(self, job: Job, request: Packed) -> Packed:
        """Half of the test images are of the first group of each attribute, the rest of none."""
        [counts] = self._counts(job, request, "test", [Model.from_arrays(request.arrays).head])
        names = group_names(job.evaluation.groups)
        firsts = [place for place, (attribute, _) in enumerate(names) if names[place - 1][0] != attribute or place == 0]
        found = np.zeros((len(names), job.num_classes, job.num_classes), np.int32)
        found[firsts] = counts.confusion // 2
        return Packed({"confusion": found})

    def _standardised(self, part: str, request: Packed) -> tuple[np.ndarray, np.ndarray]:
        features, labels = self.examples[part]
        return unpack_standardisation(request.arrays).apply(features), labels

    def _counts(self, job: Job, request: Packed, part: str, heads: list[Head]):
        """Counts of each head on one part of the data."""
        if self.examples is not None:
            features, labels = self._standardised(part, request)
            return [count(head.probabilities(features), labels) for head in heads]
        labels = np.repeat(np.arange(job.num_classes), self.images[PARTS.index(part)])
        drawn = np.random.default_rng(0).dirichlet(np.ones(job.num_classes), len(labels))
        return [count(drawn, labels)] * len(heads)


def scripted_app(hospitals: dict[str, Scripted]):
    """A ClientApp whose node n + 2 is the n-th hospital."""
    ordered = list(hospitals.values())

    def app(message: Message, context) -> Message:
        hospital = ordered[context.node_id - 2]
        kind = KINDS[message.metadata.message_type]
        records = to_records(hospital.answer(kind, from_records(message.content)))
        if hospital.tamper is not None and kind in hospital.kinds:
            records = hospital.tamper(kind, records)
        return Message(records, reply_to=message)

    return app


class Deployed(InProcessGrid):
    """A Grid like that of a deployment: hospitals connect and go, answer late and in order, and Flower may not answer at all.

    away: names of hospitals that are not connected. delays: seconds until the answer to a kind of question is there, by
    hospital and kind. errors: Flower's error code in place of an answer, by hospital and kind. unreachable: how often the next
    calls raise. pushed: hospital, kind and ttl of every message so far.
    """

    def __init__(self, app, hospitals) -> None:
        super().__init__(app, hospitals)
        self.away: set[str] = set()
        self.delays: dict[tuple[str, str], float] = {}
        self.errors: dict[tuple[str, str], int] = {}
        self.unreachable: dict[str, int] = {"nodes": 0, "push": 0, "pull": 0}
        self.pushed: list[tuple[str, str, float]] = []
        self._ready: dict[str, float] = {}

    def _reach(self, what: str) -> None:
        if self.unreachable[what]:
            self.unreachable[what] -= 1
            raise ConnectionError("SECRET of the network")

    def name(self, node: int) -> str:
        return self._names[node]

    def get_nodes(self):
        self._reach("nodes")
        return [node for node in super().get_nodes() if node.name not in self.away]

    def push_messages(self, messages):
        self._reach("push")
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for at, message in enumerate(messages):
            if message.metadata.dst_node_id not in self._names:
                ids[at] = ""
                continue
            name, kind = self.name(message.metadata.dst_node_id), KINDS[message.metadata.message_type]
            self.pushed.append((name, kind, message.metadata.ttl))
            self._ready[ids[at]] = time.monotonic() + self.delays.get((name, kind), 0.0)
        return ids

    def pull_messages(self, message_ids):
        self._reach("pull")
        now, found = time.monotonic(), []
        first = {message.metadata.dst_node_id: message_id for message_id, message in reversed(self._waiting.items())}
        for message_id in message_ids:
            message = self._waiting.get(message_id)
            if message is None:
                continue
            name, kind = self.name(message.metadata.dst_node_id), KINDS[message.metadata.message_type]
            code = 5 if name in self.away else self.errors.get((name, kind))
            if code is not None:
                del self._waiting[message_id]
                error = Message(Error(code=code, reason="SECRET"), reply_to=message)
                error.metadata.__dict__["_src_node_id"] = 1 if code in (3, 4, 5) else message.metadata.dst_node_id
                found.append(error)
            elif now >= self._ready[message_id] and first[message.metadata.dst_node_id] == message_id:
                found += super().pull_messages([message_id])
        return found

    def restart(self, name: str) -> None:
        """The hospital's SuperNode is started again, before Flower misses it: what it was sent is lost."""
        self._waiting = {key: one for key, one in self._waiting.items() if self.name(one.metadata.dst_node_id) != name}


@pytest.fixture
def deployed(grid_of):
    """An Exchange and a Grid as in a deployment, with scripted hospitals by name; those `away` are not connected yet."""

    def make(hospitals: dict[str, Scripted], away=(), retry_s: float | None = 0.05) -> tuple[Exchange, Deployed]:
        grid = grid_of(hospitals, Deployed)
        grid.away |= set(away)
        return Exchange(grid, poll_s=0.01, retry_s=retry_s), grid

    return make


@pytest.fixture
def grid_of():
    """An in-process Grid with scripted hospitals, by name."""

    def make(hospitals: dict[str, Scripted], grid_class=InProcessGrid) -> InProcessGrid:
        return grid_class(scripted_app(hospitals), {name: {} for name in hospitals})

    return make


@pytest.fixture
def scripted():
    """The class of scripted hospitals."""
    return Scripted


@pytest.fixture
def exchange_with(grid_of):
    """An Exchange with scripted hospitals, by name."""

    def make(hospitals: dict[str, Scripted], grid_class=InProcessGrid) -> Exchange:
        return Exchange(grid_of(hospitals, grid_class), poll_s=0.01)

    return make


@pytest.fixture
def server_job(job):
    """A job whose quorum is one hospital."""

    def make(**changes):
        return job(
            **{"quorum": {"min_hospitals": 1, "deadline_s": 5}, "method": {"name": "fedavg", "rounds": 1}, **changes}
        )

    return make


SMALL = {
    "backbone": {"name": "mobilenet_v2", "weights": "random"},
    "features": {"stages": ["features.3"], "pool": ["mean"], "mirror": False},
}
"""D = 24."""


@pytest.fixture
def small_job(server_job):
    """A job of 24 features, by default with the closed-form head."""
    return lambda **changes: server_job(**{**SMALL, "method": "analytic", **changes})


def drawn(seed: int, images, features: int = 24) -> Examples:
    """Examples of Gaussian classes; images: a row of the number of each class for train, validation and test."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(len(images[0]), features))
    found = {}
    for part, row in zip(PARTS, images, strict=True):
        labels = np.repeat(np.arange(len(row)), row)
        found[part] = (rng.normal(2 + 0.6 * means[labels], 1.5).astype(np.float32), labels)
    return found


@pytest.fixture
def examples():
    """Make examples of Gaussian classes: `examples(seed, images)`."""
    return drawn
