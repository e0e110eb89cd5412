"""How the constants of common/dp were chosen: on patients whom no test part of the seeds 3 to 7 has.

    python benchmarks/privacy/constants.py SHARED --draws 16

A third of the patients are left, so mu is made greater by as much as they are fewer: the noise on a mean stays that of the whole
federation. A quarter of them, another one in each draw, judges. Only the table of epsilon_curve.py looks at the other patients.
The choice itself looked at these patients without noise, which no epsilon covers: see common/dp/accounting.py.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from private_heads import Local, Part, closed_form, descended, hospitals_of, judged, locally_private, spending_of

from common.dp.accounting import Spending
from common.dp.gradient_descent import Descent

SEEDS = range(3, 8)
EPSILONS = (0.5, 1.0, 3.0)
DESCENTS = [
    Descent(spread=spread, lr=lr, clip=clip, steps=steps)
    for spread, lr, clip, steps in itertools.product((0.4, 0.2, 0.14, 0.1), (0.5, 1.0), (0.5, 0.7), (40, 80))
]
CLOSED = list(itertools.product((128, 256, 512), (0.1, 0.25, 1.0)))
LOCALS = [
    Local(
        rounds=rounds, steps=steps, sampling_rate=rate, lr=lr, momentum=momentum, clip=clip, spread=spread, least=least
    )
    for rounds, steps, rate, lr, momentum, clip, spread, least in (
        (20, 4, 1.0, 1.0, 0.0, 0.7, 0.14, 0),
        (20, 4, 1.0, 2.0, 0.0, 0.7, 0.14, 0),
        (20, 4, 1.0, 4.0, 0.0, 0.7, 0.14, 0),
        (20, 4, 1.0, 2.0, 0.0, 0.7, 0.14, 50),
        (20, 4, 1.0, 0.5, 0.9, 0.7, 0.14, 0),
        (80, 1, 1.0, 2.0, 0.0, 0.7, 0.14, 0),
        (40, 1, 1.0, 2.0, 0.0, 0.7, 0.14, 0),
        (20, 1, 1.0, 4.0, 0.0, 0.7, 0.14, 0),
        (10, 4, 1.0, 2.0, 0.0, 0.7, 0.14, 0),
        (20, 4, 0.25, 2.0, 0.0, 0.7, 0.14, 0),
        (20, 4, 1.0, 2.0, 0.0, 0.7, 0.2, 0),
        (20, 4, 1.0, 2.0, 0.0, 0.5, 0.14, 0),
        (10, 8, 1.0, 2.0, 0.0, 0.7, 0.14, 0),
        (5, 16, 1.0, 2.0, 0.0, 0.7, 0.14, 0),
        (20, 8, 1.0, 1.0, 0.0, 0.7, 0.14, 0),
        (20, 4, 1.0, 3.0, 0.0, 0.7, 0.14, 0),
        (20, 4, 1.0, 3.0, 0.0, 0.7, 0.14, 50),
    )
]
SHARES = (0.05, 0.15, 0.3)


def main() -> None:
    """Try all choices and print them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--draws", type=int, default=16)
    arguments.add_argument("--only", default="", help="choices whose name has this in it")
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    left, patients = _never_tested(given.shared, given.cache_dir)
    print(f"| choice | {' | '.join(f'AUROC at {epsilon:g}' for epsilon in EPSILONS)} |")
    print("|---" * (1 + len(EPSILONS)) + "|")

    def tried(title, train, share=0.15):
        if given.only not in title:
            return
        cells = []
        for epsilon in EPSILONS:
            scores = []
            for draw in range(given.draws):
                trains, judges = _halves(left, draw)
                more = patients / sum(len(set(one.ids)) for one in trains)
                plain = spending_of(epsilon, share)
                spending = Spending(plain.centre_mu * more, plain.sums_mu * more)
                head = train(trains, spending, np.random.default_rng([draw, 1]).bytes, draw, epsilon, more)
                scores.append(judged(head, judges)[0])
            cells.append(f"{np.mean(scores):.4f}")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)

    for share in SHARES:
        tried(f"(b) centre share {share}", lambda t, s, e, *_: descended(t, s, e)[0], share)
    for projected, ridge in CLOSED:
        tried(
            f"(a) projected {projected}, ridge {ridge}",
            lambda t, s, e, seed, *_, p=projected, r=ridge: closed_form(t, s, e, seed, None, p, r),
        )
    for descent in DESCENTS:
        tried(
            f"(b) spread {descent.spread}, lr {descent.lr}, clip {descent.clip}, steps {descent.steps}",
            lambda t, s, e, *_, d=descent: descended(t, s, e, d)[0],
        )
    for local in LOCALS:
        tried(
            f"local DP-SGD: {local}",
            lambda t, s, e, _, epsilon, more, c=local: locally_private(
                t, s.centre_mu, c.multiplier(epsilon) / more, e, c
            ),
        )


def _never_tested(shared: Path, cache: Path | None) -> tuple[list[Part], float]:
    """The examples of patients in no test part, by hospital, and the mean number of training patients of a run."""
    tested, whole, trained = set(), [], []
    for seed in SEEDS:
        hospitals = hospitals_of(shared, cache, seed)
        tested |= {name for one in hospitals for name in one["test"].ids}
        trained.append(sum(len(set(one["train"].ids)) for one in hospitals))
        whole = whole or [_together(one) for one in hospitals]
    return [one.of(np.array([name not in tested for name in one.ids])) for one in whole], float(np.mean(trained))


def _together(parts: dict[str, Part]) -> Part:
    some = list(parts.values())
    return Part(*(np.concatenate([getattr(one, name) for one in some]) for name in ("features", "labels", "ids")))


def _halves(left: list[Part], draw: int) -> tuple[list[Part], list[Part]]:
    rng = np.random.default_rng(draw)
    names = np.unique(np.concatenate([one.ids for one in left]).astype(str))
    chosen = set(rng.permutation(names)[: len(names) // 4])
    judges = [np.array([name in chosen for name in one.ids], bool) for one in left]
    trains = [one.of(~rows) for one, rows in zip(left, judges, strict=True)]
    return [one for one in trains if len(one.ids)], [one.of(rows) for one, rows in zip(left, judges, strict=True)]


if __name__ == "__main__":
    main()
