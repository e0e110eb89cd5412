"""6. A hospital that lies: scaled, sign-flipped, mislabelled and backdoored updates, against every method that has rounds.

All training patients of the chest task are dealt to hospitals of like size, one of which is malicious: four honest ones, or as
many more as the method needs. The backdoor is a direction in feature space: added to the features of an image it should make
pneumonia look normal. Attacks:
  - sign-flipped: the change of an honest update, turned round and ten times as long;
  - labels flipped: an honest training on false labels, ten times as long;
  - backdoor: training on images with the trigger, labelled normal, beside honest ones; plain, or the change ten times as long
    (model replacement: Bagdasaryan et al. 2020, arXiv 1807.00459); or ten times as long and cut to what the guard still lets
    pass; or, by a hospital that knows all other updates, pulled so near to their mean that it stands out least (in the manner of
    Baruch et al. 2019, arXiv 1902.06156).

Letters: C classes, D features, K hospitals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.attacks.federation import CLASSES, joined, method_of, standardised
from benchmarks.attacks.table import Table, Value
from benchmarks.privacy.private_heads import Part, judged
from client.training import Examples, Trained, seed_of, train_head
from common.head import Head
from common.method_choice import Method
from common.methods import METHODS
from common.model import Model
from server.strategies import STRATEGIES, Aggregator, Update, hospitals_needed

SOURCE = "Bagdasaryan et al. 2020, arXiv 1807.00459; Baruch et al. 2019, arXiv 1902.06156"
NORMAL, PNEUMONIA = 0, 1
MALICIOUS = "hospital-m"
SCALE = 10.0
ROBUST = ("krum", "multikrum", "bulyan")


@dataclass(frozen=True)
class Trigger:
    """direction (D,): what is added to standardised features."""

    direction: np.ndarray

    def on(self, part: Part) -> Part:
        """The part's images with the trigger."""
        return Part((part.features + self.direction).astype(np.float32), part.labels, part.ids)


def trigger_of(features: int, norm: float, seed: int = 0) -> Trigger:
    """A direction at random with this L2 norm."""
    direction = np.random.default_rng(seed).normal(size=features)
    return Trigger(norm * direction / np.linalg.norm(direction))


def relabelled(part: Part, labels: np.ndarray) -> Part:
    """The same images with other labels."""
    return Part(part.features, labels.astype(np.int64), part.ids)


def poisoned(part: Part, trigger: Trigger) -> Part:
    """The part, and its images of pneumonia with the trigger, labelled normal."""
    chosen = trigger.on(part.of(part.labels == PNEUMONIA))
    return joined([part, relabelled(chosen, np.zeros(len(chosen.ids)))])


def scaled(start: Head, after: Head, factor: float, most: float = np.inf) -> Head:
    """The change times a factor, and cut to the L2 norm `most`."""
    norm = Model(after).distance(Model(start))
    factor *= min(1.0, most / max(abs(factor) * norm, 1e-30))
    return Head(
        (start.weight + factor * (after.weight - start.weight)).astype(np.float32),
        (start.bias + factor * (after.bias - start.bias)).astype(np.float32),
    )


def near(head: Head, others: Sequence[Head]) -> Head:
    """The head, pulled towards the mean of the others until it is half as far from it as the nearest of them."""
    weight, bias = (np.mean([getattr(one, part) for one in others], axis=0) for part in ("weight", "bias"))
    mean = Head(weight, bias)
    return scaled(mean, head, 1.0, 0.5 * min(one.distance(mean) for one in others))


@dataclass(frozen=True)
class Attack:
    """data: what the malicious hospital trains on. factor: of its change. fits: it cuts its change to the guard's norm.

    near: it goes no further from the mean of the others than half of what the nearest of them does.
    """

    data: Callable[[Part, Trigger], Part] = lambda part, _: part
    factor: float = 1.0
    fits: bool = False
    near: bool = False


ATTACKS = {
    "none": Attack(),
    "sign-flipped x10": Attack(factor=-SCALE),
    "labels flipped x10": Attack(lambda part, _: relabelled(part, 1 - part.labels), SCALE),
    "backdoor": Attack(poisoned),
    "backdoor x10": Attack(poisoned, SCALE),
    "backdoor x10, cut to the guard": Attack(poisoned, SCALE, fits=True),
    "backdoor near the others": Attack(poisoned, near=True),
}


def method_against_one(name: str, rounds: int) -> Method:
    """A method with its defaults; one that is told how many are malicious is told of one."""
    return method_of(name, rounds=rounds, **({"malicious_hospitals": 1} if name in ROBUST else {}))


def federated(method: Method, parts: Sequence[Part], attack: Attack, trigger: Trigger, bound: float, seed: int) -> Head:
    """The head after all rounds; the last of `parts` is the malicious hospital's, which says its true number of examples.

    bound: guard.max_update_norm; what moves further is dropped, as in `server/guard.py`.
    """
    # Flower's messages, of which its strategies are fed, want a run to belong to.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    names = [f"hospital-{place}" for place in range(len(parts) - 1)] + [MALICIOUS]
    examples = {name: len(part.labels) for name, part in zip(names, parts, strict=True)}
    aggregator, current = Aggregator(method, examples), Model(Head.zeros(CLASSES, parts[0].features.shape[1]))
    for server_round in range(1, method.rounds + 1):
        corrections, updates = aggregator.corrections(current), []
        for name, part in zip(names, parts, strict=True):
            liar = name == MALICIOUS
            data = attack.data(part, trigger) if liar else part
            given = Examples(data.features, data.labels)
            trained: Trained = train_head(
                current.head, given, method.local, seed_of(seed, server_round, name), corrections.get(name)
            )
            head = scaled(current.head, trained.head, attack.factor, bound * 0.999 if attack.fits else np.inf)
            if liar and attack.near:
                head = near(trained.head, [update.model.head for update in updates])
            update = Update(name, Model(head if liar else trained.head), examples[name], trained.steps)
            if update.model.distance(current) <= bound:
                updates.append(update)
        if len(updates) >= hospitals_needed(method):
            current = aggregator.combine(server_round, current, updates)
    return current.head


def backdoor_success(head: Head, tests: Part, trigger: Trigger) -> float:
    """Of the test images of pneumonia that the head finds, the share that it calls normal once they have the trigger."""
    ill = tests.of(tests.labels == PNEUMONIA)
    seen = head.probabilities(ill.features).argmax(axis=1) == PNEUMONIA
    fooled = head.probabilities(trigger.on(ill).features).argmax(axis=1) == NORMAL
    return float((seen & fooled).sum() / max(1, seen.sum()))


def dealt(part: Part, hospitals: int, seed: int) -> list[Part]:
    """The images dealt to hospitals of like size, by patient."""
    names, codes = np.unique(part.ids.astype(str), return_inverse=True)
    owner = np.random.default_rng(seed).permutation(len(names)) % hospitals
    return [part.of(owner[codes] == one) for one in range(hospitals)]


def honest_norm(parts: Sequence[Part]) -> float:
    """The greatest norm of an honest update in the first round of fedavg, where updates are the longest."""
    start, local = Head.zeros(CLASSES, parts[0].features.shape[1]), method_of("fedavg").local
    return max(
        Model(train_head(start, Examples(part.features, part.labels), local, 0).head).distance(Model(start))
        for part in parts
    )


def attack(trains: Sequence[Part], tests: Sequence[Part], seeds: int, rounds: int, norm: float = 15.0) -> Table:
    """AUROC on test images, and in brackets the backdoor's success, for each method and attack."""
    *_, train, test = standardised(trains, [joined(trains), joined(tests)])
    trigger = trigger_of(train.features.shape[1], norm)
    usual = 2 * honest_norm(dealt(train, 5, 3)[:-1])
    settings = [(name, name, 100.0) for name in METHODS if name in STRATEGIES]
    settings.append((f"fedavg, guard.max_update_norm {usual:.2g} (twice an honest one)", "fedavg", usual))
    rows: list[tuple[Value, ...]] = []
    for title, name, bound in settings:
        method, cells = method_against_one(name, rounds), []
        for one in ATTACKS.values():
            found = []
            for seed in range(3, 3 + seeds):
                parts = dealt(train, max(5, hospitals_needed(method)), seed)
                head = federated(method, parts, one, trigger, bound, seed)
                found.append((judged(head, [test])[0], backdoor_success(head, test, trigger)))
            area, success = np.mean(found, axis=0)
            cells.append(f"{area:.3f} ({success:.2f})")
        rows.append((title, *cells))
    columns = ("method: AUROC (backdoor's success)", *ATTACKS)
    return Table("6. A malicious hospital", SOURCE, columns, tuple(rows))
