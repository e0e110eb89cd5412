"""What a whole job costs beyond the extraction of features, from a cold cache.

    python -m benchmarks.whole_job SHARED

The job of configs/chest_xray.yaml over its four hospitals, in one process: the closed-form head, and twenty rounds of fedavg.
Beside each the extraction of the same views of the same images, alone, into a cache of its own. They take turns; figures are
medians of the runs. A run of the whole job includes everything: manifests, sums, candidates, rounds, test, report, model card.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.chest_sample import hospitals, job_with
from benchmarks.outcome import Headline, Outcome, Table, publish, spread
from client.device import choose_device
from client.extractor import Extractor
from client.feature_cache import FeatureCache
from client.feature_space import all_blocks, extraction_space, views_of
from client.features import extract
from client.preparation import shared_backbone
from client.records import assign, read_rows
from common.job import Job
from simulation.run import simulate

FEDAVG = {"name": "fedavg", "rounds": 20, "local_epochs": 1, "lr": 0.01, "batch_size": 64}


def main() -> None:
    """Measure, print, and write whole_job.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--images", type=int, help="in all; default: all 3,278")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    jobs = {"analytic": job_with(), "fedavg, 20 rounds": job_with(method=FEDAVG)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = hospitals(given.shared, folder / "hospitals", given.images)
        weights = given.shared / "weights"
        # Weights and code are loaded once, before anything is measured.
        simulate(
            jobs["analytic"], _small(given.shared, folder), folder / "warm-up", weights_dir=weights, cache_dir=folder
        )
        seconds: dict[str, list[float]] = {}
        for run in range(given.runs):
            for name, job in jobs.items():
                place = folder / f"{run}-{name[:6]}"
                alone = seconds_of(lambda job=job, place=place: extract_alone(job, found, weights, place / "alone"))
                whole = seconds_of(
                    lambda job=job, place=place: simulate(
                        job, found, place / "run", weights_dir=weights, cache_dir=place / "cache"
                    )
                )
                seconds.setdefault(f"{name}: extraction alone", []).append(alone)
                seconds.setdefault(name, []).append(whole)
    publish(outcome_of(seconds, list(jobs), given.images), given.out)


def _small(shared: Path, folder: Path) -> Mapping[str, Path]:
    return hospitals(shared, folder / "small", 180)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def extract_alone(job: Job, found: Mapping[str, Path], weights: Path, cache_dir: Path) -> None:
    """The features that a job needs of all hospitals, into a cache, and nothing else."""
    for folder in found.values():
        backbone = shared_backbone(job.backbone, weights)
        extractor = Extractor(backbone, choose_device("auto"), job.size_px)
        images = [(one.path, views_of(job, one.part)) for one in assign(read_rows(folder), job).records]
        space = f"{extraction_space(job, backbone.digest)}-{extractor.precision}"
        with FeatureCache(cache_dir, space, all_blocks(backbone.name)[-1].stop) as cache:
            extract(images, extractor, cache, job)


def outcome_of(seconds: dict[str, list[float]], names: list[str], images: int | None) -> Outcome:
    """Seconds, and the ratio of the whole job to its extraction, run by run."""
    ratios = {
        name: [whole / alone for whole, alone in zip(seconds[name], seconds[f"{name}: extraction alone"], strict=True)]
        for name in names
    }
    rows = tuple(
        (
            name,
            statistics.median(runs),
            spread(runs),
            statistics.median(ratios[name]) if name in ratios else None,
            spread(ratios[name]) if name in ratios else "–",
        )
        for name, runs in seconds.items()
    )
    table = Table(
        f"A whole job from a cold cache, four hospitals, {images or 'all'} images",
        ("what", "s: median", "least to greatest", "of its extraction alone: median", "least to greatest"),
        rows,
    )
    headlines = tuple(
        Headline(
            f"a whole job from a cold cache, {name}, four hospitals",
            f"{statistics.median(ratios[name]):.2f} times the extraction of its features alone",
        )
        for name in names
    )
    return Outcome(
        "whole_job",
        "python -m benchmarks.whole_job SHARED",
        (table,),
        headlines,
        {"seconds": seconds, "images": images},
    )


if __name__ == "__main__":
    main()
