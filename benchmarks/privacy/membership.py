"""Can it be told who was trained on? Membership inference against heads with and without differential privacy.

    python benchmarks/privacy/membership.py SHARED --models 64

SHARED holds data/chest_xray and weights/. Each model is trained on half of the patients of configs/chest_xray.yaml's hospitals,
another half each time; the attacker has the head and a patient's images and labels, and must say whether the patient was in it.
Two attacks, each judged by the AUROC over all patients (0.5: knows nothing):
  - loss: the lower the mean loss of the patient's images, the more likely in (Yeom et al. 2018, arXiv 1709.01604);
  - likelihood ratio: the patient's mean confidence, as log-odds, against its normal distributions in the other models with
    and without this patient (Carlini et al. 2022, arXiv 2112.03570, section IV, with one variance for all patients). The other
    models are shadow models: this attacker could train them, having everyone's images.
"""

import argparse
from pathlib import Path

import numpy as np
from private_heads import Part, closed_form, descended, hospitals_of, judged, spending_of

from common.head import Head
from common.metrics import count, derive
from common.ridge import Ridge
from common.sums import Sums

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)


def plain(trains: list[Part]) -> Head:
    """The closed-form head as without privacy: all sums exact, the strength chosen by them."""
    features = np.concatenate([one.features for one in trains])
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    labels = np.concatenate([one.labels for one in trains])
    ridge = Ridge(Sums.of((features - mean) / scale, labels, 2))
    head = ridge.logits(min(STRENGTHS, key=ridge.error_left_out))
    weight = (head.weight / scale).astype(np.float32)
    return Head(weight, (head.bias - weight @ mean).astype(np.float32))


MODELS = {
    "closed form, no privacy": lambda trains, _, __: plain(trains),
    "(b) descent, no noise, patients clipped": lambda trains, entropy, _: descended(
        trains, spending_of(np.inf), entropy
    )[0],
    "(b) descent, epsilon 8": lambda trains, entropy, _: descended(trains, spending_of(8.0), entropy)[0],
    "(b) descent, epsilon 3": lambda trains, entropy, _: descended(trains, spending_of(3.0), entropy)[0],
    "(a) closed form, epsilon 3": lambda trains, entropy, seed: closed_form(trains, spending_of(3.0), entropy, seed),
}


def main() -> None:
    """Train, attack, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--models", type=int, default=64)
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    whole = []
    for parts in hospitals_of(given.shared, given.cache_dir, 3):
        some = list(parts.values())
        whole.append(
            Part(*(np.concatenate([getattr(one, name) for one in some]) for name in ("features", "labels", "ids")))
        )
    ids = np.concatenate([one.ids for one in whole]).astype(str)
    names, codes = np.unique(ids, return_inverse=True)
    labels = np.concatenate([one.labels for one in whole])
    features = np.concatenate([one.features for one in whole])
    print("| head | AUROC of the task on patients left out | attack by loss | attack by likelihood ratio |")
    print("|---|---|---|---|")
    for title, train in MODELS.items():
        inside, losses, confidences, tasks = [], [], [], []
        for model in range(given.models):
            chosen = np.random.default_rng(model).permutation(len(names)) < len(names) // 2
            rows = np.split(chosen[codes], np.cumsum([len(one.ids) for one in whole])[:-1])
            trains = [one.of(some) for one, some in zip(whole, rows, strict=True)]
            head = train(trains, np.random.default_rng([model, 7]).bytes, model)
            own = head.probabilities(features)[np.arange(len(labels)), labels]
            own = np.clip(own, 1e-12, 1 - 1e-12)
            inside.append(chosen)
            losses.append(_mean(-np.log(own), codes))
            confidences.append(_mean(np.log(own) - np.log1p(-own), codes))
            tasks.append(judged(head, [one.of(~some) for one, some in zip(whole, rows, strict=True)])[0])
        inside, losses, confidences = (np.array(one) for one in (inside, losses, confidences))
        by_loss = [_auroc(-loss, known) for loss, known in zip(losses, inside, strict=True)]
        by_ratio = [_auroc(_ratio(confidences, inside, model), inside[model]) for model in range(given.models)]
        cells = [f"{np.mean(some):.3f} ± {np.std(some):.3f}" for some in (tasks, by_loss, by_ratio)]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


def _mean(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Of each patient's images."""
    return np.bincount(codes, values) / np.bincount(codes)


def _ratio(confidences: np.ndarray, inside: np.ndarray, target: int) -> np.ndarray:
    """Log likelihood ratio of in against out for each patient (P,), from all models (M, P) but the target."""
    others = np.arange(len(confidences)) != target
    logarithms = []
    for known in (inside[others], ~inside[others]):
        mean = (confidences[others] * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        variance = (((confidences[others] - mean) ** 2) * known).sum() / known.sum()
        logarithms.append(-((confidences[target] - mean) ** 2) / 2 / variance - 0.5 * np.log(variance))
    return logarithms[0] - logarithms[1]


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """By ranks: scores as probabilities keep their order, and the counts of common.metrics do the rest."""
    ranks = (np.argsort(np.argsort(scores)) + 1.0) / (len(scores) + 1.0)
    metrics = derive(count(np.stack([1 - ranks, ranks], axis=1), positive.astype(np.int64)))
    return float(metrics.auroc or 0.0)


if __name__ == "__main__":
    main()
