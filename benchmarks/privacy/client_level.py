"""How many hospitals client-level privacy needs: AUROC against epsilon and the number of hospitals, on made-up features.

    python benchmarks/privacy/client_level.py [--tune]

server/central_dp.py protects that a whole hospital took part. Each hospital has 100 patients of two classes, one example of 64
features each, and a shift of its own; plain fedavg, five full-batch steps a round; judged on hospitals that took no part. The
noise is that of a run, by a seeded generator so that the table comes again. --tune: other federations (seeds from 100 on), from
which the constants below were chosen, for all numbers of hospitals and every epsilon the same.
"""

import argparse
import itertools
from functools import cache

import numpy as np

from common.head import Head
from common.metrics import count, derive
from common.model import Model
from server.central_dp import CentralDp
from server.strategies import Update

HOSPITALS = (4, 30, 100, 300, 1000)
EPSILONS = (0.5, 1.0, 3.0, 8.0, np.inf)
DELTA = 1e-5
PATIENTS, FEATURES, CLASSES, STEPS, LR = 100, 64, 2, 5, 0.5
ROUNDS, CLIP = 10, 0.25


def federation(hospitals: int, rng: np.random.Generator, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """features (K, N, D) and labels (K, N) of some hospitals; `direction` (D,) is what separates the classes everywhere."""
    labels = rng.integers(0, CLASSES, (hospitals, PATIENTS))
    shifts = 0.3 * rng.normal(size=(hospitals, 1, FEATURES))
    noise = rng.normal(size=(hospitals, PATIENTS, FEATURES))
    return noise + shifts + 2.2 * (labels - 0.5)[:, :, None] * direction, labels


def trained(head: Head, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Every hospital's weights (K, C, D + 1) after its steps from the same head."""
    extended = np.concatenate([features, np.ones((*labels.shape, 1))], axis=2)
    weights = np.repeat(np.concatenate([head.weight, head.bias[:, None]], axis=1)[None], len(labels), axis=0)
    truth = np.eye(CLASSES)[labels]
    for _ in range(STEPS):
        logits = extended @ weights.transpose(0, 2, 1)
        exponentials = np.exp(logits - logits.max(axis=2, keepdims=True))
        residuals = exponentials / exponentials.sum(axis=2, keepdims=True) - truth
        weights = weights - LR * residuals.transpose(0, 2, 1) @ extended / PATIENTS
    return weights


@cache
def multiplier(epsilon: float, rounds: int) -> float:
    """The least noise multiplier, to a part in a thousand, by CentralDp's own accountant; the same for any hospitals."""
    if np.isinf(epsilon):
        return 0.0
    low, high = 0.1, 1e4
    while high / low > 1.001:
        middle = np.sqrt(low * high)
        low, high = (low, middle) if CentralDp(middle, 1.0, 1).spent(rounds, DELTA) <= epsilon else (middle, high)
    return float(high)


def auroc(hospitals: int, epsilon: float, seed: int, rounds: int, clip: float) -> float:
    """Of one federated run."""
    rng = np.random.default_rng([seed, hospitals])
    direction = rng.normal(size=FEATURES)
    direction /= np.linalg.norm(direction)
    features, labels = federation(hospitals, rng, direction)
    private = CentralDp(multiplier(epsilon, rounds), clip if np.isfinite(epsilon) else np.inf, hospitals)
    model = Model(Head.zeros(CLASSES, FEATURES))
    for _ in range(rounds):
        weights = trained(model.head, features, labels).astype(np.float32)
        updates = [Update(f"{k}", Model(Head(one[:, :-1], one[:, -1])), PATIENTS) for k, one in enumerate(weights)]
        model = private.combine(model, updates, rng.bytes)
    features, labels = federation(50, rng, direction)
    probabilities = model.head.probabilities(features.reshape(-1, FEATURES).astype(np.float32))
    return float(derive(count(probabilities, labels.ravel())).auroc or 0.0)


def main() -> None:
    """Run and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--tune", action="store_true", help="try the constants on other federations")
    given = arguments.parse_args()
    choices = list(itertools.product((5, 10, 20), (0.25, 0.5, 1.0))) if given.tune else [(ROUNDS, CLIP)]
    first = 100 if given.tune else 0
    print(f"| AUROC at epsilon | {' | '.join('infinity' if np.isinf(e) else f'{e:g}' for e in EPSILONS)} |")
    print("|---" * (1 + len(EPSILONS)) + "|")
    for (rounds, clip), hospitals in itertools.product(choices, HOSPITALS):
        cells = []
        for epsilon in EPSILONS:
            scores = [auroc(hospitals, epsilon, first + seed, rounds, clip) for seed in range(given.seeds)]
            cells.append(f"{np.mean(scores):.3f} ± {np.std(scores):.3f}")
        title = f"{hospitals} hospitals" + (f", {rounds} rounds, clip {clip:g}" if given.tune else "")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
