"""1. Can it be told who was trained on? Membership inference against final heads, single updates, secure sums and noised sums.

Each model is trained on half of the patients of the chest task's hospitals, another half each time; the attacker has what the
setting says and all patients' images and labels, and must say of each patient whether it was in. Three attacks, each judged by
the AUROC over patients (0.5: knows nothing):
  - loss: the lower the mean loss of the patient's images, the more likely in (Yeom et al. 2018, arXiv 1709.01604);
  - likelihood ratio: the patient's mean confidence, as log-odds, against its normal distributions in the other models with
    and without this patient (Carlini et al. 2022, arXiv 2112.03570, section IV, with one variance for all patients). The other
    models are shadow models: this attacker could train them, having everyone's images;
  - least squares: what was seen is a sum of r x^T over the members, and the attacker knows every candidate's r x^T, so it solves
    for who is in (Homer et al. 2008, doi 10.1371/journal.pgen.1000167, with known covariance). For updates and sums only.

Letters: M models, P patients, N images, D features, C classes.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from benchmarks.attacks.federation import (
    LOCAL,
    Sent,
    auroc,
    joined,
    mean_head,
    residuals_of,
    sent,
    standardised,
    summed,
    with_constant,
)
from benchmarks.attacks.table import Table
from benchmarks.privacy.private_heads import CLASSES, Part, closed_form, descended, judged, spending_of
from common.dp.accounting import noise_multiplier
from common.dp.gradient_descent import Descent, products_of
from common.dp.noise import Entropy
from common.dp.per_patient import Patients, gradient_factors
from common.head import Head
from common.ridge import Ridge
from common.sums import Sums

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
EPSILON = 3.0
SOURCE = (
    "Yeom et al. 2018, arXiv 1709.01604; Carlini et al. 2022, arXiv 2112.03570; Homer et al. 2008, PLoS Genetics 4(8)"
)


def plain(trains: Sequence[Part]) -> Head:
    """The closed-form head as without privacy: all sums exact, the strength chosen by them."""
    features = np.concatenate([one.features for one in trains])
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    labels = np.concatenate([one.labels for one in trains])
    ridge = Ridge(Sums.of((features - mean) / scale, labels, CLASSES))
    head = ridge.logits(min(STRENGTHS, key=ridge.error_left_out))
    weight = (head.weight / scale).astype(np.float32)
    return Head(weight, (head.bias - weight @ mean).astype(np.float32))


HEADS: dict[str, Callable[[list[Part], Entropy, int], Head]] = {
    "closed form, no privacy": lambda trains, *_: plain(trains),
    "(b) descent, no noise, patients clipped": lambda trains, entropy, _: descended(
        trains, spending_of(np.inf), entropy
    )[0],
    "(b) descent, epsilon 8": lambda trains, entropy, _: descended(trains, spending_of(8.0), entropy)[0],
    "(b) descent, epsilon 3": lambda trains, entropy, _: descended(trains, spending_of(EPSILON), entropy)[0],
    "(a) closed form, epsilon 3": lambda trains, entropy, seed: closed_form(
        trains, spending_of(EPSILON), entropy, seed
    ),
}


def inside_of(patients: int, models: int) -> np.ndarray:
    """Who is in which model (M, P): a half each."""
    return np.array([np.random.default_rng(model).permutation(patients) < patients // 2 for model in range(models)])


def signals(head: Head, part: Part, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each patient (P,): the mean loss, and the mean log-odds of the true class. codes: the patient of each image (N,)."""
    own = np.clip(head.probabilities(part.features)[np.arange(len(codes)), part.labels], 1e-12, 1 - 1e-12)
    number = np.bincount(codes)
    return np.bincount(codes, -np.log(own)) / number, np.bincount(codes, np.log(own) - np.log1p(-own)) / number


def likelihood_ratio(confidences: np.ndarray, inside: np.ndarray, target: int) -> np.ndarray:
    """Log likelihood ratio of in against out for each patient (P,), from all models (M, P) but the target."""
    others = np.arange(len(confidences)) != target
    logarithms = []
    for known in (inside[others], ~inside[others]):
        mean = (confidences[others] * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        variance = (((confidences[others] - mean) ** 2) * known).sum() / known.sum()
        logarithms.append(-((confidences[target] - mean) ** 2) / 2 / variance - 0.5 * np.log(variance))
    return np.asarray(logarithms[0] - logarithms[1])


def traced(
    seen: Iterable[tuple[np.ndarray, np.ndarray]], features: np.ndarray, codes: np.ndarray, variance: float
) -> np.ndarray:
    """How much each patient (P,) is in some sums, 0 to 1 but for noise: the best linear guess if half of all are in.

    seen: pairs of the candidates' residuals (N, C), with all weights they would have, and the sum seen (C, D + 1), which is that
    of r f^T over members. features: (N, D + 1). codes: the patient of each image. variance: of the noise on a number of a sum.
    """
    products, known, match = features @ features.T, np.zeros((len(codes),) * 2), np.zeros(len(codes))
    for residuals, total in seen:
        known += (residuals @ residuals.T) * products
        match += (residuals * (features @ total.T)).sum(axis=1)
    if len(codes) > codes.max() + 1:
        patients = np.eye(codes.max() + 1)[codes]
        known, match = patients.T @ known @ patients, patients.T @ match
    even = np.full(len(match), 0.5)
    return np.asarray(even + np.linalg.solve(known + 4 * variance * np.eye(len(even)), match - known @ even))


def attack_heads(whole: list[Part], models: int) -> Table:
    """On final heads: all patients."""
    (every, codes), rows = _coded(whole), []
    inside = inside_of(codes.max() + 1, models)
    for title, train in HEADS.items():
        found, tasks = [], []
        for model, chosen in enumerate(inside):
            trains, rest = _split(whole, chosen[codes])
            head = train(trains, np.random.default_rng([model, 7]).bytes, model)
            found.append(signals(head, every, codes))
            tasks.append(judged(head, rest)[0])
        rows.append((title, tasks, *_judged(found, inside)))
    columns = ("final head", "AUROC of the task on patients left out", "attack by loss", "attack by likelihood ratio")
    return Table("1a. Membership inference on the final head", SOURCE, columns, tuple(rows))


def attack_updates(whole: list[Part], models: int, noised_models: int, target: int = 0) -> Table:
    """On one round of fedavg from a head of zeros, and on all steps of (b): the patients of one hospital."""
    every, codes = _coded(whole)
    owners = np.repeat(np.arange(len(whole)), [len(one.ids) for one in whole])
    inside = inside_of(codes.max() + 1, models)
    theirs = np.unique(codes[owners == target])
    one, one_codes = whole[target], np.searchsorted(theirs, codes[owners == target])
    start = Head.zeros(CLASSES, every.features.shape[1])
    single, total, by_single, by_total = [], [], [], []
    for chosen in inside:
        trains, _ = _split(whole, chosen[codes])
        given = standardised(trains, [*trains, every, one])
        replies = [sent(start, part, f"hospital-{place}") for place, part in enumerate(given[:-2]) if len(part.ids)]
        single.append(signals(replies[_places(trains)[target]].head, given[-1], one_codes))
        total.append(signals(mean_head(start, replies), given[-1], one_codes))
        weights = np.array([reply.weight_of_one(LOCAL) for reply in replies])[_places(trains)[owners]][:, None]
        by_single.append(
            _images_traced(start, [replies[_places(trains)[target]]], given[-1], weights[owners == target], one_codes)
        )
        by_total.append(_images_traced(start, replies, given[-2], weights, codes)[theirs])
    known = inside[:, theirs]
    trace = [[auroc(e, k) for e, k in zip(found, known, strict=True)] for found in (by_single, by_total)]
    noised = [_noised(whole, every, codes, theirs, model, inside[model]) for model in range(noised_models)]
    columns = ("the attacker sees", "attack by loss", "by likelihood ratio", "by least squares")
    rows = (
        ("the hospital's update, plain", *_judged(single, known), trace[0]),
        ("the secure sum over four hospitals", *_judged(total, known), trace[1]),
        (f"the secure sums of (b) descent, epsilon {EPSILON:g}, all 80 steps", "see 1a", "see 1a", noised),
    )
    return Table("1b. Membership inference on a round", SOURCE, columns, rows)


def _images_traced(start: Head, replies: list[Sent], part: Part, weights: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """How much each patient is in the sum over some replies: the mean over the patient's images, whose weights differ.

    The order of the batches makes an image weigh more or less than `weights`, so images are solved for, not patients.
    """
    residuals = -residuals_of(start, part) * weights
    features = with_constant(part.features)
    little = 1e-6 * float(np.square(residuals).sum(axis=1).mean()) * features.shape[1]
    found = traced([(residuals, summed(start, replies))], features, np.arange(len(codes)), little)
    return np.bincount(codes, found) / np.bincount(codes)


def _places(trains: list[Part]) -> np.ndarray:
    """Which reply is a hospital's: one without any patient sends none."""
    return np.maximum(np.cumsum([len(one.ids) > 0 for one in trains]) - 1, 0)


def _noised(whole, every, codes, theirs, model: int, chosen: np.ndarray) -> float:
    """AUROC of least squares over all noised sums of one run of (b)."""
    trains, _ = _split(whole, chosen[codes])
    descent, spending, patients = Descent(), spending_of(EPSILON), Patients.of(every.ids)
    watched: list = []
    descended(trains, spending, np.random.default_rng([model, 7]).bytes, watch=lambda *seen: watched.append(seen))
    features = watched[0][0].apply(every.features)
    given, products = Part(features, every.labels, every.ids), products_of(features, patients)

    def steps():
        for _, head, total in watched:
            residuals = residuals_of(head, given) * patients.shares[:, None]
            yield residuals * gradient_factors(residuals, products, descent.clip)[:, None], total

    sigma = descent.sensitivity * noise_multiplier(spending.sums_mu, descent.steps)
    return auroc(traced(steps(), with_constant(features), codes, sigma**2)[theirs], chosen[theirs])


def _coded(whole: list[Part]) -> tuple[Part, np.ndarray]:
    every = joined(whole)
    return every, np.unique(every.ids.astype(str), return_inverse=True)[1]


def _split(whole: list[Part], chosen: np.ndarray) -> tuple[list[Part], list[Part]]:
    """The hospitals' examples that are chosen, and the others."""
    rows = np.split(chosen, np.cumsum([len(one.ids) for one in whole])[:-1])
    pairs = list(zip(whole, rows, strict=True))
    return [one.of(some) for one, some in pairs], [one.of(~some) for one, some in pairs]


def _judged(found: list[tuple[np.ndarray, np.ndarray]], inside: np.ndarray) -> tuple[list[float], list[float]]:
    losses, confidences = (np.array(one) for one in zip(*found, strict=True))
    return (
        [auroc(-loss, known) for loss, known in zip(losses, inside, strict=True)],
        [auroc(likelihood_ratio(confidences, inside, model), inside[model]) for model in range(len(inside))],
    )
