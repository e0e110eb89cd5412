"""What several tests of the hospital's side need: a small frozen network, hospitals of chosen images, requests."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from client.features import Extractor
from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile, Policy
from client.records import read_rows
from client.weights import load_backbone
from common.head import Head, Standardisation
from common.job import Job, Weights
from common.messages import pack_heads, pack_standardisation
from common.model import Model
from common.wire import Packed

FEATURES = 512


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
                policy=Policy(**{"approve": "auto", **policy}),
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
        self.standardisation = Standardisation(np.full(FEATURES, 0.5, np.float16), np.full(FEATURES, 2, np.float16))

    def head(self, seed: int = 0) -> Head:
        rng = np.random.default_rng(seed)
        weight = rng.normal(0, 0.05, (self.job.num_classes, FEATURES)).astype(np.float32)
        return Head(weight, rng.normal(0, 0.05, self.job.num_classes).astype(np.float32))

    def describe(self) -> Packed:
        return Packed({}, {"job": self.job.canonical_json()})

    def fit(self, number: int = 1) -> Packed:
        arrays = {**Model(self.head()).arrays(), **pack_standardisation(self.standardisation)}
        return Packed(arrays, {**self.describe().fields, "fingerprint": self.fingerprint, "round": number})

    def about(self) -> Packed:
        return Packed({}, {**self.describe().fields, "fingerprint": self.fingerprint})

    def statistics(self) -> Packed:
        return Packed(pack_standardisation(self.standardisation), self.about().fields)

    def evaluate(self, part: str = "test", heads: int = 2) -> Packed:
        chosen = pack_heads([self.head(seed) for seed in range(heads)])
        arrays = {**chosen, **pack_standardisation(self.standardisation)}
        fields = {**self.describe().fields, "fingerprint": self.fingerprint, "part": part, "round": 1}
        return Packed(arrays, fields)


@pytest.fixture(scope="session")
def requests_of():
    """The requests of a job to a hospital, in the feature space that it describes."""

    def make(job: Job, hospital: Hospital) -> Requests:
        described = hospital.answer("describe", Packed({}, {"job": job.canonical_json()}))
        return Requests(job, str(described.fields["fingerprint"]))

    return make
