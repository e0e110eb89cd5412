"""What several tests of the hospital's side need: a small frozen network, hospitals of chosen images, requests, tuning."""

import csv
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from grpc_health.v1 import health, health_pb2

from client.agent import Agent, _listening
from client.agent_socket import SERVICE
from client.agent_status import AgentStatus, StatusFile
from client.deep import DeepTraining, Source
from client.extractor import Extractor
from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile
from client.images import load_image, to_input
from client.policy import Policy
from client.records import read_rows
from client.tuned import pretrained
from client.weights import load_backbone
from common.groups import ATTRIBUTES
from common.head import Head, Standardisation
from common.job import Job, Weights
from common.messages import pack_heads, pack_standardisation
from common.model import Model
from common.unlike import Spread, pack_spread
from common.wire import Packed, dimensions

PLAIN_STEPS = {"momentum": 0.0, "weight_decay": 0.0, "lr": 0.01, "batch_size": 8}


class Serving:
    """An agent in this process, on a real Unix socket."""

    def __init__(self, hospital, path: Path, state: Path) -> None:
        self.status = StatusFile(state, AgentStatus(os.getpid(), "st-marys", str(path), "ready", 0.0))
        self.agent = Agent(hospital, self.status)
        self.healths = health.HealthServicer()
        self.server = _listening(self.agent, self.healths, path)
        self.server.start()
        self.healths.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        self.server.stop(0).wait(5)


@pytest.fixture(scope="session")
def serve():
    """Starts to serve a hospital: with its socket and a folder for its status."""
    return Serving


@pytest.fixture(scope="session")
def squeezenet():
    """The backbone of the fixture `job`."""
    return load_backbone("squeezenet1_1", Weights(name="random", seed=1))


@pytest.fixture
def extractor(squeezenet):
    return Extractor(squeezenet, torch.device("cpu"), 64)


@pytest.fixture(scope="session")
def hospital_with(cache_dir):
    """A hospital with a folder or manifest; further arguments go to its policy."""

    def make(
        source: Path, name: str = "st-marys", cache: Path | None = None, skip_unreadable=False, **policy
    ) -> Hospital:
        where = {"manifest": source} if source.is_file() else {"folder": source}
        return Hospital(
            HospitalFile(
                name=name,
                data=Data(**where, skip_unreadable=skip_unreadable),
                cache=cache or cache_dir,
                device="cpu",
                policy=Policy(**{"approve": "auto", "allow_groups": ATTRIBUTES, **policy}),
            )
        )

    return make


@pytest.fixture(scope="session")
def manifest_of():
    """A manifest written to `path` that lists the chosen rows of a hospital's folder."""

    def write(path: Path, folder: Path, wanted=slice(None)) -> Path:
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = [(row.path.resolve(), row.label, row.patient_id) for row in read_rows(folder)[wanted]]
            csv.writer(file).writerows([("path", "label", "patient_id"), *rows])
        return path

    return write


class Requests:
    """Well-formed requests for a job."""

    def __init__(self, job: Job, fingerprint: str) -> None:
        self.job, self.fingerprint = job, fingerprint
        features = job.num_features
        self.standardisation = Standardisation(np.full(features, 0.5, np.float16), np.full(features, 2, np.float16))

    def head(self, seed: int = 0) -> Head:
        rng = np.random.default_rng(seed)
        weight = rng.normal(0, 0.05, (self.job.num_classes, self.job.num_features)).astype(np.float32)
        return Head(weight, rng.normal(0, 0.05, self.job.num_classes).astype(np.float32))

    def describe(self) -> Packed:
        return Packed({}, {"job": self.job.canonical_json()})

    def fit(self, number: int = 1) -> Packed:
        arrays = {**Model(self.head()).arrays(), **pack_standardisation(self.standardisation)}
        return Packed(arrays, {**self.describe().fields, "fingerprint": self.fingerprint, "round": number})

    def personalise(self, part: str = "test", number: int = 1) -> Packed:
        return Packed(self.fit().arrays, {**self.about().fields, "part": part, "round": number})

    def about(self) -> Packed:
        return Packed({}, {**self.describe().fields, "fingerprint": self.fingerprint})

    def statistics(self) -> Packed:
        return Packed(pack_standardisation(self.standardisation), self.about().fields)

    def distances(self) -> Packed:
        features, sizes = self.job.num_features, dimensions(self.job)
        axes = np.eye(sizes["R"], features, dtype=np.float32)
        ones = np.ones(features, np.float32)
        return Packed(pack_spread(Spread(ones, ones, axes, np.ones(sizes["V"], np.float32))), self.about().fields)

    def evaluate(self, part: str = "test", heads: int = 2, number: int = 1) -> Packed:
        chosen = pack_heads([self.head(seed) for seed in range(heads)])
        arrays = {**chosen, **pack_standardisation(self.standardisation)}
        fields = {**self.describe().fields, "fingerprint": self.fingerprint, "part": part, "round": number}
        return Packed(arrays, fields)


@pytest.fixture(scope="session")
def requests_of():
    """The requests of a job to a hospital, in the feature space that it describes."""

    def make(job: Job, hospital: Hospital) -> Requests:
        described = hospital.answer("describe", Packed({}, {"job": job.canonical_json()}))
        return Requests(job, str(described.fields["fingerprint"]))

    return make


@pytest.fixture
def one_thread():
    """Where others want the processors too, layers as small as these wait ten times longer on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sources(phantoms):
    """Twenty images, one of either class after the other."""
    classes = ("normal", "opacity")
    rows = [row for folder in phantoms.values() for row in read_rows(folder)]
    by_class = [[row for row in rows if row.label == name][:10] for name in classes]
    return [
        Source(row.path, hashlib.sha256(row.path.read_bytes()).digest(), classes.index(row.label))
        for pair in zip(*by_class, strict=True)
        for row in pair
    ]


class Tuning:
    """A job that tunes, its backbone, and a model to start from."""

    def __init__(self, job, network, sources, cache_dir, part, size=64, budget_bytes=10**9, images=20, **tune):
        self.backbone = load_backbone(network, Weights(name="random", seed=1))
        method = {"name": "fedavg", "rounds": 4, **PLAIN_STEPS, **tune.pop("method", {})}
        features = tune.pop("features", {"stages": "all"})
        self.job = job(
            backbone={"name": network, "weights": {"name": "random", "seed": 1}},
            image={"size": size},
            modality="chest-xray",
            method=method,
            features=features,
            tune={"part": part, "views": 1, "lr": 1e-4, **tune},
        )
        self.sources = sources[:images]
        self.extractor = Extractor(self.backbone, torch.device("cpu"), size)
        parts = {"train": self.sources, "test": self.sources[:5], "validation": []}
        self.training = DeepTraining(self.job, self.extractor, parts, cache_dir, budget_bytes)
        self.tuned = pretrained(self.job, self.backbone)
        rng = np.random.default_rng(0)
        weight = rng.normal(0, 0.01, (2, self.job.num_features)).astype(np.float32)
        self.start = Model(Head(weight, np.array([0.1, -0.1], np.float32)), self.tuned)
        self._standardisation = None

    @property
    def standardisation(self):
        if self._standardisation is None:
            x = self.training.features(self.tuned, "train", {}).astype(float)
            self._standardisation = Standardisation.from_sums(len(x), x.sum(0), (x**2).sum(0))
        return self._standardisation

    def fit(self, start=None, seed=5, server_round=1, batch_norm=None, correction=None):
        return self.training.fit(
            start or self.start, self.standardisation, seed, server_round, batch_norm or {}, correction
        )

    def pixels(self, view=0):
        images = np.stack([to_input(load_image(source.path), self.job.size_px, "pad") for source in self.sources])
        return images if view == 0 else np.ascontiguousarray(images[..., ::-1])

    def labels(self):
        return np.array([source.label for source in self.sources], np.int64)


@pytest.fixture
def case(job, sources, tmp_path, one_thread):
    """A `Tuning` with the chosen network and part; further arguments go to it and to the section `tune` of its job."""

    def make(network="squeezenet1_1", part="last-blocks", cache_dir=tmp_path, **changes):
        return Tuning(job, network, sources, cache_dir, part, **changes)

    return make
