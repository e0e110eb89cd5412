"""All images of several hospitals in one place, and a model judged at every hospital: possible in simulations only."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile
from client.policy import OF_SIMULATIONS
from client.records import MANIFEST, Records, assign, read_rows
from common.errors import DataError, FederationError
from common.head import Standardisation
from common.job import Job
from common.messages import pack_heads, pack_standardisation, unpack_counts
from common.metrics import ClassificationCounts
from common.model import TUNED, Model
from common.wire import REFUSAL, Packed


@dataclass(frozen=True)
class Machine:
    """Where simulated hospitals find weights files and keep their features, and what computes (as in a hospital's file)."""

    weights_dir: Path | None = None
    cache_dir: Path | None = None
    device: str = "auto"

    def hospital_file(self, name: str, folder: Path) -> HospitalFile:
        """The file of a hospital that allows everything."""
        return HospitalFile(
            name=name,
            data=Data(folder=folder.resolve()),
            cache=self.cache_dir,
            weights_dir=self.weights_dir,
            device=self.device,
            policy=OF_SIMULATIONS,
        )


def records_of(hospitals: Mapping[str, Path], job: Job, cache_dir: Path | None = None) -> dict[str, Records]:
    """The records of each hospital (name -> folder) for a job. cache_dir: where the hospitals' key for patients' ids is.

    Raises:
        DataError: naming every hospital whose manifest or labels are wrong.
    """
    found: dict[str, Records] = {}
    problems = []
    for name, folder in hospitals.items():
        try:
            found[name] = assign(read_rows(folder, cache_dir), job)
        except DataError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise DataError("\n".join(problems))
    return found


def pool(hospitals: Mapping[str, Path], job: Job, folder: Path, cache_dir: Path | None = None) -> Path:
    """Write folder/manifest.csv, one hospital with the images of all, and return the folder.

    Each patient is in the part it is in at its own hospital, so pooled training never sees a test patient of a hospital; the
    split depends on the job's seed, so the manifest is that of one job.

    Raises:
        DataError: a hospital's manifest or labels are wrong.
    """
    records = records_of(hospitals, job, cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient_id", "split"])
        for name, found in records.items():
            for one in found.records:
                writer.writerow([one.path.resolve(), job.classes[one.label], f"{name}/{one.patient_id}", one.part])
    return folder


def judge(
    model: Model, job: Job, hospitals: Mapping[str, Path], number: int, machine: Machine
) -> dict[str, ClassificationCounts]:
    """Counts of a model on the test patients of each hospital (name -> folder).

    `job` and round `number` made the model; its head (C, D) reads raw features.

    Raises:
        FederationError: a hospital declined.
    """
    if job.tune.local_batch_norm:
        raise FederationError("with tune.batch_norm: local a model is judged only by hospitals that trained it")
    tuned = {f"{TUNED}{name}": array for name, array in model.tuned.items()}
    identity = pack_standardisation(Standardisation.identity(model.head.weight.shape[1]))
    arrays = {**pack_heads([model.head]), **tuned, **identity}
    found = {}
    for name, folder in hospitals.items():
        hospital = Hospital(machine.hospital_file(name, folder))
        request = {"job": job.canonical_json()}
        reply = hospital.answer("describe", Packed({}, request))
        if REFUSAL not in reply.fields:
            about = {**request, "fingerprint": reply.fields["fingerprint"], "part": "test", "round": number}
            reply = hospital.answer("evaluate", Packed(arrays, about))
        if REFUSAL in reply.fields:
            raise FederationError(f"{name} could not judge the model: {reply.fields[REFUSAL]}; see consilium --debug")
        found[name] = unpack_counts(reply.arrays)[0]
    return found
