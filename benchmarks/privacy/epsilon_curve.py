"""What a patient's privacy costs: AUROC on the chest task against epsilon, delta 1e-5, for four ways to a private head.

    python benchmarks/privacy/epsilon_curve.py SHARED --seeds 5 --figure docs/epsilon.svg

SHARED holds data/chest_xray and weights/. configs/chest_xray.yaml's four hospitals and its split, seeds 3, 4, ...; test patients.
All constants are the defaults of common/dp and of private_heads.Local, chosen by constants.py on patients who are in the test
part of none of the seeds 3 to 7, and the same for every epsilon. The noise comes from the code of a run, by a seeded generator so
that the table comes again.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from private_heads import Local, averaged, closed_form, descended, hospitals_of, judged, locally_private, spending_of

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
    "local DP-SGD (Opacus), heads averaged": lambda trains, spending, entropy, _, epsilon: locally_private(
        trains, spending.centre_mu, Local().multiplier(epsilon), entropy, Local()
    ),
    "local DP-SGD (Opacus), of hospitals of 50 patients or more": lambda trains, spending, entropy, _, epsilon: (
        locally_private(trains, spending.centre_mu, Local().multiplier(epsilon), entropy, Local(least=50))
    ),
}
DRAWN = {
    "(b) descent, noise in shares": "(b) descent, noise in shares",
    "(a) closed form, noise in shares": "(a) closed form, noise in shares",
    "(b) descent, all the noise from each hospital": "(b) descent, all the noise from each hospital",
    "local DP-SGD (Opacus), heads averaged": "local DP-SGD, heads averaged in 20 rounds",
    "local descent, heads averaged once": "local descent, heads averaged once",
}
"""Ways in the figure, with their words there."""

Found = dict[tuple[str, float], list[tuple[float, float]]]


def main() -> None:
    """Train and judge, and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--draws", type=int, default=2, help="of the noise, for each seed")
    arguments.add_argument("--only", default="", help="ways whose name has this in it")
    arguments.add_argument("--cache-dir", type=Path)
    arguments.add_argument("--workers", type=int, default=1, help="processes, each with some of the seeds")
    arguments.add_argument("--figure", type=Path, help="an SVG of AUROC against epsilon to write")
    given = arguments.parse_args()
    ways = [way for way in WAYS if given.only in way]
    one = partial(_of_seed, given.shared, given.cache_dir, ways, given.draws)
    with ProcessPoolExecutor(given.workers) as pool:
        parts = list(pool.map(one, range(3, 3 + given.seeds)))
    found: Found = {key: [scores for part in parts for scores in part[key]] for key in parts[0]}
    for title, column in (("AUROC", 0), ("calibration error", 1)):
        print(f"\n| {title} at epsilon | {' | '.join('infinity' if np.isinf(e) else f'{e:g}' for e in EPSILONS)} |")
        print("|---" * (1 + len(EPSILONS)) + "|")
        for way in ways:
            cells = [np.array(found[way, epsilon])[:, column] for epsilon in EPSILONS]
            print(f"| {way} | {' | '.join(f'{cell.mean():.3f} ± {cell.std():.3f}' for cell in cells)} |")
    if given.figure:
        _draw(found, given.figure)


def _of_seed(shared: Path, cache: Path | None, ways: list[str], draws: int, seed: int) -> Found:
    """AUROC and calibration error of every way and epsilon on one split of the patients, for each draw of the noise."""
    hospitals, found = hospitals_of(shared, cache, seed), {}
    trains, tests = ([one[part] for one in hospitals] for part in ("train", "test"))
    for index, (way, train) in enumerate(WAYS.items()):
        if way not in ways:
            continue
        for epsilon in EPSILONS:
            more = {"epsilon": epsilon} if "Opacus" in way else {}
            for draw in range(1 if np.isinf(epsilon) else draws):
                entropy = np.random.default_rng([seed, index, draw, int(10 * min(epsilon, 100))]).bytes
                head = train(trains, spending_of(epsilon), entropy, seed, **more)
                found.setdefault((way, epsilon), []).append(judged(head, tests))
        print(f"seed {seed}, {way}:", [f"{np.mean(found[way, e], 0)[0]:.4f}" for e in EPSILONS], flush=True)
    return found


def _draw(found: Found, path: Path) -> None:
    """The mean AUROC of the ways in `DRAWN`, with a band of one standard deviation; infinity is drawn at 30."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "consilium", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    places = [min(epsilon, 30.0) for epsilon in EPSILONS]
    for way, words in DRAWN.items():
        if (way, EPSILONS[0]) not in found:
            continue
        scores = [np.array(found[way, epsilon])[:, 0] for epsilon in EPSILONS]
        means, spreads = np.array([one.mean() for one in scores]), np.array([one.std() for one in scores])
        (line,) = axes.plot(places, means, marker="o", markersize=4, label=words)
        axes.fill_between(places, means - spreads, means + spreads, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(places, ["0.5", "1", "3", "8", "no noise"])
    axes.minorticks_off()
    axes.set_xlabel("epsilon (delta 1e-5) of one patient; smaller is more private")
    axes.set_ylabel("AUROC on test patients")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
