"""What a patient's privacy costs: AUROC on the chest task against epsilon, delta 1e-5, for three ways to a private head.

    python benchmarks/privacy/epsilon_curve.py SHARED --seeds 5

SHARED holds data/chest_xray and weights/. configs/chest_xray.yaml's four hospitals and its split, seeds 3, 4, ...; test patients.
All constants are the defaults of common/dp, chosen by constants.py on patients who are in the test part of none of the seeds 3
to 7, and the same for every epsilon. The noise comes from the code of a run, by a seeded generator so that the table comes again.
"""

import argparse
from pathlib import Path

import numpy as np
from private_heads import averaged, closed_form, descended, hospitals_of, judged, spending_of

EPSILONS = (0.5, 1.0, 3.0, 8.0, np.inf)
WAYS = {
    "(b) descent, noise in shares": lambda trains, spending, entropy, _: descended(trains, spending, entropy)[0],
    "(a) closed form, noise in shares": closed_form,
    "(b) descent, all the noise from each hospital": lambda trains, spending, entropy, _: descended(
        trains, spending, entropy, honest=1
    )[0],
    "(a) closed form, all the noise from each hospital": lambda trains, spending, entropy, seed: closed_form(
        trains, spending, entropy, seed, honest=1
    ),
    "local descent, heads averaged once": lambda trains, spending, entropy, _: averaged(trains, spending, entropy),
    "(b) descent, two of the four make the noise": lambda trains, spending, entropy, _: descended(
        trains, spending, entropy, honest=2
    )[0],
    "(a) closed form, two of the four make the noise": lambda trains, spending, entropy, seed: closed_form(
        trains, spending, entropy, seed, honest=2
    ),
}


def main() -> None:
    """Train and judge, and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--draws", type=int, default=2, help="of the noise, for each seed")
    arguments.add_argument("--only", default="", help="ways whose name has this in it")
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for seed in range(3, 3 + given.seeds):
        hospitals = hospitals_of(given.shared, given.cache_dir, seed)
        trains, tests = ([one[part] for one in hospitals] for part in ("train", "test"))
        for index, (way, train) in enumerate(WAYS.items()):
            if given.only not in way:
                continue
            for epsilon in EPSILONS:
                for draw in range(1 if np.isinf(epsilon) else given.draws):
                    entropy = np.random.default_rng([seed, index, draw, int(10 * min(epsilon, 100))]).bytes
                    found.setdefault((way, epsilon), []).append(
                        judged(train(trains, spending_of(epsilon), entropy, seed), tests)
                    )
            print(f"seeds to {seed}, {way}:", [f"{np.mean(found[way, e], 0)[0]:.4f}" for e in EPSILONS], flush=True)
    for title, column in (("AUROC", 0), ("calibration error", 1)):
        print(f"\n| {title} at epsilon | {' | '.join('infinity' if np.isinf(e) else f'{e:g}' for e in EPSILONS)} |")
        print("|---" * (1 + len(EPSILONS)) + "|")
        for way in [way for way in WAYS if given.only in way]:
            cells = [np.array(found[way, epsilon])[:, column] for epsilon in EPSILONS]
            print(f"| {way} | {' | '.join(f'{cell.mean():.3f} ± {cell.std():.3f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
