"""3. Which image is it? Features of single images from the update of a hospital that has few.

The gradient of softmax(W x + b) at one example is (p - y) x^T, so each row of it is that example's features but for
the scale (Geiping et al. 2020, arXiv 2003.14053, proposition 3.1). Of several examples it is a weighted sum. Then:
  - cosine: of a row with the nearest of the hospital's own feature vectors;
  - nearest image: whether the image, of all images there are, whose features are nearest is one of the hospital's;
  - all images: which part of the hospital's images a sparse search finds, who knows how many there are (orthogonal matching
    pursuit: Tropp and Gilbert 2007, doi 10.1109/TIT.2007.909108).

Letters: N images of the gallery, k images of the hospital, D features, C classes.
"""

from pathlib import Path

import numpy as np

from benchmarks.attacks.federation import CLASSES, LOCAL, Sent, residuals_of, sent, standardised, summed, with_constant
from benchmarks.attacks.table import Table, Value
from benchmarks.privacy.private_heads import Part, chest_job, descended, spending_of
from client.policy import Policy, require_enough
from client.records import Record, Records
from common.dp.gradient_descent import Descent
from common.errors import Refusal
from common.head import Head
from common.methods import LocalTraining

SOURCE = (
    "Geiping et al. 2020, arXiv 2003.14053, proposition 3.1; Tropp and Gilbert 2007, IEEE Trans. Inf. Theory 53(12)"
)
FEW = (1, 2, 4, 10, 30)
LEAST = 50
EPSILON = 3.0


def gradient(start: Head, after: Head, local: LocalTraining, steps: int) -> np.ndarray:
    """The mean gradient (C, D + 1) on the way from start to after: with one step of SGD it is exact, the decay taken out."""
    ahead = Sent(after, 1, steps)
    decay = np.concatenate([start.weight, start.bias[:, None]], axis=1) * local.weight_decay
    return np.asarray(-ahead.change(start) / ahead.weight_of_one(local) - decay)


def features_in(change: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The direction (D,) of the longest row of a gradient or change (C, D + 1), with the sign that looks more like an image.

    Of one example the bias would tell the sign (and the scale); of examples of several classes it does not.
    """
    row = change[np.linalg.norm(change, axis=1).argmax(), :-1]
    return max((row, -row), key=lambda one: cosine(one, gallery[nearest(one, gallery)]))


def nearest(vector: np.ndarray, gallery: np.ndarray) -> int:
    """The row of a gallery (N, D) of greatest cosine."""
    return int((gallery @ vector / np.maximum(np.linalg.norm(gallery, axis=1), 1e-12)).argmax())


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """In [-1, 1]."""
    return float(one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-12))


def pursuit(change: np.ndarray, residuals: np.ndarray, features: np.ndarray, number: int) -> set[int]:
    """Which candidates a sum (C, D + 1) of so many r f^T is made of. residuals: (N, C), features: (N, D + 1) of candidates."""
    sizes = np.linalg.norm(residuals, axis=1) * np.linalg.norm(features, axis=1)
    chosen: list[int] = []
    left = change
    for _ in range(number):
        match = (residuals * (features @ left.T)).sum(axis=1) / sizes
        match[chosen] = -np.inf
        chosen.append(int(match.argmax()))
        columns = np.stack([np.outer(residuals[row], features[row]).ravel() for row in chosen], axis=1)
        left = change - (columns @ np.linalg.lstsq(columns, change.ravel(), rcond=None)[0]).reshape(change.shape)
    return set(chosen)


def found_in(change: np.ndarray, start: Head, gallery: Part, own: np.ndarray) -> tuple[float, float, float]:
    """The three measures of a change (C, D + 1), positive for what was trained on. own: the hospital's rows of the gallery."""
    vector = features_in(change, gallery.features)
    best = max(cosine(vector, gallery.features[row]) for row in own)
    pair = pursuit(change, -residuals_of(start, gallery), with_constant(gallery.features), len(own))
    return best, float(nearest(vector, gallery.features) in own), len(pair & set(own.tolist())) / len(own)


def attack(trains: list[Part], everyone: Part, draws: int, noised_draws: int, donor: int = 0) -> Table:
    """A fifth hospital has k images of the first one's patients, who are not counted there; the others are as they are."""
    start = Head.zeros(CLASSES, everyone.features.shape[1])
    *hospitals, gallery = standardised(trains, [*trains, everyone])
    place = {row.tobytes(): number for number, row in enumerate(everyone.features)}
    rng = np.random.default_rng(2)
    single: dict[int, list] = {number: [] for number in FEW}
    total: list = []
    noised: list = []
    blind: list = []
    for draw in range(draws):
        for number in FEW:
            chosen = rng.permutation(len(trains[donor].ids))[:number]
            own = np.array([place[trains[donor].features[row].tobytes()] for row in chosen])
            reply = sent(start, hospitals[donor].of(chosen), "small")
            # Plain SGD from zeros: the change is a gradient with its sign turned.
            single[number].append(found_in(-gradient(start, reply.head, LOCAL, reply.steps), start, gallery, own))
            if number > 1:
                continue
            guess = np.outer((1.0, -1.0), np.append(gallery.features[rng.integers(len(gallery.ids))], 1.0))
            blind.append(found_in(guess, start, gallery, own))
            rest = np.setdiff1d(np.arange(len(trains[donor].ids)), chosen)
            parts = [part.of(rest) if one == donor else part for one, part in enumerate(hospitals)]
            replies = [reply, *(sent(start, part, f"hospital-{one}") for one, part in enumerate(parts))]
            total.append(found_in(summed(start, replies), start, gallery, own))
            if draw < noised_draws:
                raw = [part.of(rest) if one == donor else part for one, part in enumerate(trains)]
                noised.append(_noised([trains[donor].of(chosen), *raw], everyone, own, draw))
    columns = (
        "the attacker sees",
        "cosine with an image's features",
        "nearest image is the hospital's",
        "images found",
    )
    rows: list[tuple[Value, ...]] = [("nothing, the hospital has 1 image", *_means(blind))]
    rows += [(f"plain update, images: {k}", *_means(found)) for k, found in single.items()]
    rows += [
        (f"update of 1 image, policy min_examples and min_patients: {LEAST}", *(refused(1, LEAST),) * 3),
        ("secure sum over the five, the hospital has 1 image", *_means(total)),
        (f"first secure sum of (b) descent, epsilon {EPSILON:g}, 1 image", *_means(noised)),
    ]
    return Table("3. Features of single images", SOURCE, columns, tuple(rows))


def refused(images: int, least: int) -> str:
    """What the policy of a hospital with so many training images says."""
    records = tuple(Record(path=Path(), label=0, patient_id=str(one), part="train") for one in range(images))
    try:
        require_enough(Policy(min_examples=least, min_patients=least), chest_job(3), Records(records, {}, 0))
    except Refusal as error:
        return f"refused: {error.code}"
    return "answered"


def _noised(trains: list[Part], everyone: Part, own: np.ndarray, draw: int) -> tuple[float, float, float]:
    watched: list = []
    entropy = np.random.default_rng([draw, 6]).bytes
    descended(trains, spending_of(EPSILON), entropy, Descent(), watch=lambda *seen: watched.append(seen))
    standardisation, head, total = watched[0]
    gallery = Part(standardisation.apply(everyone.features), everyone.labels, everyone.ids)
    return found_in(-total, head, gallery, own)


def _means(found: list[tuple[float, float, float]]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.mean(found, axis=0))
