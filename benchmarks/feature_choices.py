"""Which features earn their place in the closed-form head: stages, poolings, mirrored views, projections, Fourier features.

    python benchmarks/feature_choices.py SHARED --seeds 5

SHARED holds data/chest_xray and weights/. The job is configs/chest_xray.yaml with other seeds, so other patients are held out
each time; the ridge strength is chosen on the validation patients, as in a run. The hospitals' examples are put together first:
the sums are the same. Prints a Markdown table; the bytes are those of the sums of one hospital.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from client.hospital_file import Data, HospitalFile
from client.policy import Policy
from client.preparation import prepare
from client.statistics import sums_of
from client.training import Examples
from common.config_file import load_yaml
from common.job import Job, parse_job
from common.metrics import count, derive
from common.ridge import Ridge
from common.sums import Sums

PROJECT = Path(__file__).resolve().parent.parent
NAMES = ("nih_clinical_center", "guangzhou_children", "actualmed_spain", "figure1")
CHOICES = {
    "last stage": {"features": {"stages": "last"}},
    "last stage, not mirrored": {"features": {"stages": "last", "mirror": False}},
    "all stages, mean": {"features": {"stages": "all", "pool": ["mean"]}},
    "all stages, mean and max": {"features": {"stages": "all"}},
    "all stages, mean and max, not mirrored": {"features": {"stages": "all", "mirror": False}},
    "all stages, mean and max, 2 augmented views": {"features": {"stages": "all", "views": 2}},
    "the same, projected to 2048": {"method": {"name": "analytic", "projection": 2048, "stage_subsets": False}},
    "the same, projected to 1024": {"method": {"name": "analytic", "projection": 1024, "stage_subsets": False}},
}
FOURIER = (2048, 4096)
FOURIER_WIDTH = 0.3
"""Of the Gaussian kernel exp(-w d^2 / 2 D), the best of 0.03, 0.1, 0.3, 1 and 3 on most seeds."""


def main() -> None:
    """Run all seeds and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--cache-dir", type=Path)
    given = arguments.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    widths: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            for title, width, auroc, accuracy in _of_seed(given.shared, given.cache_dir or Path(folder), seed):
                found.setdefault(title, []).append((auroc, accuracy))
                widths[title] = width
                print(f"seed {seed}  {title}  {auroc:.4f}  {accuracy:.4f}", flush=True)
    print(f"\n| features | width | MB | AUROC: mean (least to greatest of {given.seeds} seeds) | accuracy |")
    print("|---|---|---|---|---|")
    for title, scores in found.items():
        width = widths[title]
        megabytes = (width + 1) * (width + 2) / 2 * 4 / 1e6
        auroc, accuracy = (np.array(column) for column in zip(*scores, strict=True))
        spread = f"{auroc.mean():.4f} ({auroc.min():.4f} to {auroc.max():.4f})"
        print(f"| {title} | {width} | {megabytes:.1f} | {spread} | {accuracy.mean():.4f} |")


def _of_seed(shared: Path, cache: Path, seed: int) -> Iterator[tuple[str, int, float, float]]:
    content = {key: value for key, value in load_yaml(PROJECT / "configs" / "chest_xray.yaml").items()}
    content = {key: value for key, value in content.items() if key not in ("features", "method")}
    for title, changes in CHOICES.items():
        job = parse_job({**content, "seed": seed, **changes})
        parts = _pooled(job, shared, cache)
        yield title, job.method.projection or job.num_features, *_judged(job, parts)
    job = parse_job({**content, "seed": seed, **CHOICES["all stages, mean and max, not mirrored"]})
    parts = _pooled(job, shared, cache)
    for width in FOURIER:
        yield f"random Fourier features of all stages, {width}, not mirrored", width, *_fourier(job, parts, width)


def _pooled(job: Job, shared: Path, cache: Path) -> dict[str, Examples]:
    """The examples of all hospitals together, by part, standardised by the training part."""
    parts: dict[str, list[Examples]] = {}
    for name in NAMES:
        file = HospitalFile(
            name=name,
            data=Data(folder=shared / "data" / "chest_xray" / name),
            cache=cache,
            weights_dir=shared / "weights",
            policy=Policy(approve="auto"),
        )
        for part, examples in prepare(job, file).parts.items():
            parts.setdefault(part, []).append(examples)
    pooled = {
        part: Examples(np.concatenate([one.features for one in some]), np.concatenate([one.labels for one in some]))
        for part, some in parts.items()
    }
    mean, deviation = pooled["train"].features.mean(0), pooled["train"].features.std(0)
    deviation = np.where(deviation > 1e-6, deviation, 1.0)
    return {part: Examples((one.features - mean) / deviation, one.labels) for part, one in pooled.items()}


def _judged(job: Job, parts: dict[str, Examples]) -> tuple[float, float]:
    """Test AUROC and accuracy of the ridge head whose strength does best on the validation patients."""
    from common.candidates import candidates, improves

    plain = job.model_copy(
        update={"method": job.method.model_copy(update={"stage_subsets": False, "class_weights": "none"})}
    )
    best, best_metrics = None, None
    for candidate in candidates(plain, sums_of(parts["train"], plain)):
        one = parts["validation"]
        metrics = derive(count(candidate.head.probabilities(one.features), one.labels))
        if best is None or improves(metrics, best_metrics, "auroc"):
            best, best_metrics = candidate.head, metrics
    if best is None:
        raise ValueError("no candidates")
    test = derive(count(best.probabilities(parts["test"].features), parts["test"].labels))
    return float(test.auroc or 0), float(test.accuracy or 0)


def _fourier(job: Job, parts: dict[str, Examples], width: int) -> tuple[float, float]:
    """Source: Rahimi and Recht 2007, NeurIPS, algorithm 1."""
    rng = np.random.default_rng(job.seed)
    features = parts["train"].features.shape[1]
    directions = rng.normal(size=(features, width)).astype(np.float32) * np.float32(np.sqrt(FOURIER_WIDTH / features))
    phases = rng.uniform(0, 2 * np.pi, width).astype(np.float32)
    mapped = {part: Examples(np.cos(one.features @ directions + phases), one.labels) for part, one in parts.items()}
    ridge = Ridge(Sums.of(mapped["train"].features, mapped["train"].labels, job.num_classes))
    scored = []
    for strength in job.method.ridge or []:
        head = ridge.logits(strength)
        found = [
            derive(count(head.probabilities(mapped[part].features), mapped[part].labels))
            for part in ("validation", "test")
        ]
        scored.append((found[0].auroc or 0.0, float(found[1].auroc or 0), float(found[1].accuracy or 0)))
    return max(scored)[1:]


if __name__ == "__main__":
    main()
