"""Hospitals that answer as a script says, over the real in-process Grid: no images, no torch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from common.backbones import backbone_row
from common.flower_records import MESSAGE_TYPES, from_records, to_records
from common.head import Head
from common.job import job_from_json
from common.metrics import count
from common.wire import Description, Packed, pack_counts, pack_head, unpack_head
from server.exchange import Exchange
from simulation.grid import InProcessGrid

KINDS = {word: kind for kind, word in MESSAGE_TYPES.items()}
IMAGES = np.array([[30, 20], [6, 4], [9, 7]])
Tamper = Callable[[str, RecordDict], RecordDict]


@dataclass
class Scripted:
    """Moves the head by `step` everywhere; `tamper` may change, replace or refuse its replies to fit."""

    step: float = 0.1
    images: np.ndarray = field(default_factory=lambda: IMAGES)
    fingerprint: str = "a" * 64
    tamper: Tamper | None = None
    kinds: tuple[str, ...] = ("fit",)

    @property
    def examples(self) -> int:
        return int(self.images[0].sum())

    def answer(self, kind: str, request: Packed) -> Packed:
        job = job_from_json(str(request.fields["job"]))
        identity = {"job-id": job.job_id, "fingerprint": self.fingerprint}
        width = backbone_row(job.backbone.name).features
        if kind == "describe":
            return Description(
                **{"job_id": job.job_id, "fingerprint": self.fingerprint, "backbone_digest": "b" * 64},
                images=self.images.astype(np.int64),
                patients=self.images.sum(axis=1).astype(np.int64),
                sums=np.zeros(width),
                squares=np.full(width, float(self.examples)),
                examples=self.examples,
                **{"other_labels": 0, "unreadable": 0, "decoded": 0, "cached": self.examples},
            ).pack()
        part = 1 if kind == "fit" else ["train", "validation", "test"].index(str(request.fields["part"]))
        labels = np.repeat(np.arange(self.images.shape[1]), self.images[part])
        probabilities = np.random.default_rng(0).dirichlet(np.ones(self.images.shape[1]), len(labels))
        counts = pack_counts([count(probabilities, labels)])
        if kind == "evaluate":
            return Packed(counts, {**identity, "part": str(request.fields["part"])})
        start = unpack_head(request.arrays)
        moved = Head(start.weight + np.float32(self.step), start.bias + np.float32(self.step))
        fields = {**identity, "round": int(request.fields["round"]), "examples": self.examples, "loss-sum": 1.0}
        return Packed({**pack_head(moved), **counts}, fields)


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


@pytest.fixture
def scripted():
    """The class of scripted hospitals."""
    return Scripted


@pytest.fixture
def exchange_with():
    """An Exchange with scripted hospitals, by name."""

    def make(hospitals: dict[str, Scripted], grid_class=InProcessGrid) -> Exchange:
        return Exchange(grid_class(scripted_app(hospitals), {name: {} for name in hospitals}), poll_s=0.01)

    return make


@pytest.fixture
def server_job(job):
    """A job whose quorum is one hospital."""

    def make(**changes):
        return job(
            **{"quorum": {"min_hospitals": 1, "deadline_s": 5}, "method": {"name": "fedavg", "rounds": 1}, **changes}
        )

    return make
