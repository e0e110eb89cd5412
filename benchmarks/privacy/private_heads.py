"""The chest task's examples by hospital, and heads trained on them with differential privacy: what the scripts here share.

Everything a hospital and the coordinator would do is done by the functions of common/dp, hospital by hospital.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from client.hospital_file import Data, HospitalFile, Policy
from client.local_dp_sgd import LocalDpSgd, noise_needed, train_head_privately
from client.preparation import prepare
from common.config_file import load_yaml
from common.dp.accounting import CENTRE_SHARE, Spending, noise_multiplier
from common.dp.gradient_descent import Descent, DescentState, clipped_gradient_sum, products_of, result, step
from common.dp.noise import Entropy, from_units, noised, share_scale, sigma_with_rounding
from common.dp.noisy_sums import PROJECTED, RIDGE, SPREAD, bounded_sums, numbers_of, sensitivity_of, solve, unprojected
from common.dp.per_patient import Patients
from common.dp.private_features import COUNT_PART, SENSITIVITY, centre_of, centre_sums, stage_normalised
from common.head import Head, Standardisation
from common.job import parse_job
from common.metrics import count, derive
from common.projection import projection_of

PROJECT = Path(__file__).resolve().parents[2]
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")
CLASSES = 2
DELTA = 1e-5


@dataclass(frozen=True)
class Part:
    """features (N, D) float32, normalised by stage, the mean of each image's views; labels (N,); ids (N,) of the patients."""

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def of(self, rows: np.ndarray) -> "Part":
        return Part(self.features[rows], self.labels[rows], self.ids[rows])


def chest_job(seed: int):
    return parse_job({**load_yaml(PROJECT / "configs" / "chest_xray.yaml"), "seed": seed})


def hospitals_of(shared: Path, cache: Path | None, seed: int) -> list[dict[str, Part]]:
    """The parts of each hospital, split as in a run with this seed."""
    job, found = chest_job(seed), []
    for name in NAMES:
        data = Data(folder=shared / "data" / "chest_xray" / name)
        file = HospitalFile(
            name=name, data=data, cache=cache, weights_dir=shared / "weights", policy=Policy(approve="auto")
        )
        prepared, parts = prepare(job, file), {}
        for part, examples in prepared.parts.items():
            records = prepared.records.of(part)
            views = len(examples) // max(1, len(records))
            features = examples.features.reshape(len(records), max(1, views), job.num_features).mean(axis=1)
            ids = np.array([f"{name} {record.patient_id}" for record in records], dtype=object)
            labels = np.array([record.label for record in records], np.int64)
            parts[part] = Part(stage_normalised(features, job.feature_blocks), labels, ids)
        found.append(parts)
    return found


def summed(values: Sequence[np.ndarray], sensitivity: float, mu: float, steps: int, honest: int, entropy: Entropy):
    """What the coordinator sees of the hospitals' values, one of `steps` releases of mu together; and the noise in it.

    honest hospitals make the noise that mu needs; all add a share. mu infinite: no noise.
    """
    if np.isinf(mu):
        return sum(values), 0.0
    sigma = sigma_with_rounding(sensitivity, noise_multiplier(mu, steps), values[0].size, honest)
    scale = share_scale(sigma, honest)
    units = np.sum([noised(value, scale, entropy) for value in values], axis=0)
    return from_units(units, scale), scale * np.sqrt(len(values))


def spending_of(epsilon: float, share: float = CENTRE_SHARE) -> Spending:
    return Spending(np.inf, np.inf) if np.isinf(epsilon) else Spending.of(epsilon, DELTA, share)


def centred(trains: list[Part], patients: list[Patients], mu: float, spread: float, honest: int, entropy: Entropy):
    """The standardisation, the noised number of patients, and the standardised features of each hospital."""
    sums = [centre_sums(one.features, index) for one, index in zip(trains, patients, strict=True)]
    standardisation, number = centre_of(summed(sums, SENSITIVITY, mu, 1, honest, entropy)[0], spread)
    return standardisation, number, [standardisation.apply(one.features) for one in trains]


def closed_form(
    trains: list[Part],
    spending: Spending,
    entropy: Entropy,
    seed: int,
    honest: int | None = None,
    projected: int = PROJECTED,
    ridge: float = RIDGE,
) -> Head:
    """(a): one release of noised sums of projected features."""
    honest = honest or len(trains)
    patients = [Patients.of(one.ids) for one in trains]
    standardisation, _, features = centred(trains, patients, spending.centre_mu, SPREAD, honest, entropy)
    job = chest_job(seed)
    projection = projection_of(
        job.model_copy(update={"method": job.method.model_copy(update={"projection": projected})})
    )
    values = [
        bounded_sums(x @ projection, one.labels, CLASSES, index)
        for x, one, index in zip(features, trains, patients, strict=True)
    ]
    assert len(values[0]) == numbers_of(projection.shape[1], CLASSES)
    total, sigma = summed(values, sensitivity_of(CLASSES), spending.sums_mu, 1, honest, entropy)
    return standardisation.fold(unprojected(solve(total, CLASSES, sigma, ridge), projection))


def descended(
    trains: list[Part],
    spending: Spending,
    entropy: Entropy,
    descent: Descent | None = None,
    honest: int | None = None,
    watch: Callable[[Standardisation, Head, np.ndarray], None] = lambda *_: None,
) -> tuple[Head, float]:
    """(b): descent on noised sums of clipped gradients; and the noised number of patients.

    watch: called with what the coordinator sees of each step: the standardisation, the head, the noised sum (C, D + 1).
    """
    descent = descent or Descent()
    honest = honest or len(trains)
    patients = [Patients.of(one.ids) for one in trains]
    standardisation, number, features = centred(trains, patients, spending.centre_mu, descent.spread, honest, entropy)
    products = [products_of(x, index) for x, index in zip(features, patients, strict=True)]
    state = DescentState.start(CLASSES, features[0].shape[1])
    for _ in range(descent.steps):
        gradients = [
            clipped_gradient_sum(state.head, x, one.labels, product, descent.clip)
            for x, one, product in zip(features, trains, products, strict=True)
        ]
        total, _ = summed(gradients, descent.sensitivity, spending.sums_mu, descent.steps, honest, entropy)
        watch(standardisation, state.head, total)
        state = step(state, total, number, descent)
    return standardisation.fold(result(state, descent)), number


def averaged(trains: list[Part], spending: Spending, entropy: Entropy) -> Head:
    """Local: each hospital descends alone, with all the noise of its own, and the heads are averaged by numbers of patients."""
    heads = [descended([one], spending, entropy) for one in trains]
    return _mean([head for head, _ in heads], [number for _, number in heads])


@dataclass(frozen=True)
class Local:
    """Rounds of fedavg with local DP-SGD. least: hospitals of fewer patients, by their noised number, are left out."""

    rounds: int = 20
    steps: int = 4
    sampling_rate: float = 1.0
    lr: float = 2.0
    momentum: float = 0.0
    clip: float = 0.7
    spread: float = 0.14
    least: float = 0.0

    def multiplier(self, epsilon: float) -> float:
        """The noise multiplier of every hospital's steps, beside the release of the centre."""
        if np.isinf(epsilon):
            return 0.0
        return _noise_needed(epsilon, self.rounds * self.steps, self.sampling_rate, spending_of(epsilon).centre_mu)


@cache
def _noise_needed(epsilon: float, steps: int, rate: float, centre_mu: float) -> float:
    return noise_needed(epsilon, DELTA, steps, rate, centre_mu)


def locally_private(trains: list[Part], centre_mu: float, multiplier: float, entropy: Entropy, local: Local) -> Head:
    """Each hospital adds all the noise of its own to everything it sends, and the heads are averaged round by round.

    What it sends first are its sums for the centre, from which its number of patients is known, with noise, as well.
    """
    patients = [Patients.of(one.ids) for one in trains]
    sums = [
        summed([centre_sums(one.features, index)], SENSITIVITY, centre_mu, 1, 1, entropy)[0]
        for one, index in zip(trains, patients, strict=True)
    ]
    numbers = [max(1.0, float(one[-1]) / COUNT_PART) for one in sums]
    taken = [k for k, number in enumerate(numbers) if number >= local.least]
    standardisation, _ = centre_of(sum(sums[k] for k in taken), local.spread)
    features = {k: standardisation.apply(trains[k].features) for k in taken}
    private = LocalDpSgd(multiplier, local.clip, local.lr, local.steps, local.sampling_rate, local.momentum)
    head = Head.zeros(CLASSES, trains[0].features.shape[1])
    for _ in range(local.rounds):
        heads = [
            train_head_privately(head, features[k], trains[k].labels, patients[k], private, numbers[k], entropy)
            for k in taken
        ]
        head = _mean(heads, [numbers[k] for k in taken])
    return standardisation.fold(head)


def _mean(heads: list[Head], numbers: list[float]) -> Head:
    """By numbers of patients."""
    shares = np.array(numbers) / sum(numbers)
    weight = sum(share * head.weight for share, head in zip(shares, heads, strict=True))
    bias = sum(share * head.bias for share, head in zip(shares, heads, strict=True))
    return Head(np.asarray(weight, np.float32), np.asarray(bias, np.float32))


def judged(head: Head, parts: list[Part]) -> tuple[float, float]:
    """AUROC and calibration error on images."""
    features = np.concatenate([one.features for one in parts])
    labels = np.concatenate([one.labels for one in parts])
    metrics = derive(count(head.probabilities(features), labels))
    return float(metrics.auroc or 0.0), float(metrics.ece or 0.0)
