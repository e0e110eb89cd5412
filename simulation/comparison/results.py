"""A finished comparison: figures of each row and seed, their mean and spread, and which row is best beyond the spread.

Letters: S seeds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.metrics import HIGHER_IS_BETTER, ClassificationCounts, derive, worst

WORST = "worst_auroc"
COLUMNS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "sensitivity": "recall",
    "f1": "F1",
    "auroc": "AUROC",
    "ece": "ECE",
    WORST: "worst hospital",
}
"""The metrics compared, and their headings; `worst_auroc` is the AUROC at the hospital where it is lowest."""

HIGHER: Mapping[str, bool] = {metric: HIGHER_IS_BETTER.get(metric, True) for metric in COLUMNS}


@dataclass(frozen=True)
class RunResult:
    """One training of one row: `metrics` by the keys of `COLUMNS`, None where undefined.

    images: test images it was judged on, of all hospitals. bytes_per_hospital: sent and received by one hospital in the whole
    run; None where nothing is sent. seconds: without the making of features.
    """

    seed: int
    metrics: Mapping[str, float | None]
    worst_hospital: str | None
    images: int
    rounds: int
    bytes_per_hospital: float | None
    seconds: float
    job_id: str
    folder: Path


@dataclass(frozen=True)
class RowResult:
    """One row of the table. reason: why it has no figures, None if it has. simulation_only: it needs all images in one place."""

    name: str
    summary: str
    runs: Sequence[RunResult]
    reason: str | None = None
    simulation_only: bool = False

    def values(self, metric: str) -> list[float] | None:
        """The metric of each seed (S,); None unless it is defined with all of them."""
        found = [value for run in self.runs if (value := run.metrics[metric]) is not None]
        return found if found and len(found) == len(self.runs) and self.reason is None else None

    def mean(self, metric: str) -> float | None:
        """Mean over the seeds."""
        values = self.values(metric)
        return None if values is None else float(np.mean(values))

    def spread(self, metric: str) -> float | None:
        """Standard deviation over the seeds (divisor S - 1); None with one seed."""
        values = self.values(metric)
        return None if values is None or len(values) < 2 else float(np.std(values, ddof=1))

    @property
    def worst_hospital(self) -> str | None:
        """The hospital that is worst with most of the seeds; the first by name of several."""
        names = Counter(sorted(run.worst_hospital for run in self.runs if run.worst_hospital))
        return names.most_common(1)[0][0] if names else None

    @property
    def cost(self) -> Mapping[str, float | None]:
        """Means over the seeds of rounds, bytes_per_hospital and seconds; None where there are none."""
        if self.reason is not None:
            return {"rounds": None, "bytes_per_hospital": None, "seconds": None}
        sent = [run.bytes_per_hospital for run in self.runs if run.bytes_per_hospital is not None]
        return {
            "rounds": float(np.mean([run.rounds for run in self.runs])),
            "bytes_per_hospital": float(np.mean(sent)) if sent else None,
            "seconds": float(np.mean([run.seconds for run in self.runs])),
        }


@dataclass(frozen=True)
class Comparison:
    """The whole table. notes: sentences for below it. decoded, extraction_s: images and seconds of making the features."""

    job: str
    classes: Sequence[str]
    hospitals: Sequence[str]
    seeds: Sequence[int]
    rows: Sequence[RowResult]
    notes: Sequence[str]
    decoded: int
    extraction_s: float

    @property
    def images(self) -> Sequence[int]:
        """Test images of all hospitals with each seed (S,); empty if no row has figures."""
        return next(([run.images for run in row.runs] for row in self.rows if row.reason is None), [])


def best(rows: Sequence[RowResult], metric: str) -> str | None:
    """The name of the row to be marked in a column, if there is one.

    Of the rows that have the metric with every seed, and that do not need all images in one place, take the two with the best
    means. With the same seed both are judged on the same patients, so their differences d (S,), one per seed, are paired. The
    best row is marked if mean(d) > std(d) (divisor S - 1). With one seed there is no spread, so nothing is marked.
    """
    sign = 1.0 if HIGHER[metric] else -1.0
    competing = [
        (np.array(values) * sign, row.name)
        for row in rows
        if not row.simulation_only and (values := row.values(metric)) is not None
    ]
    competing.sort(key=lambda one: -float(one[0].mean()))
    if len(competing) < 2 or len(competing[0][0]) < 2:
        return None
    lead = competing[0][0] - competing[1][0]
    return competing[0][1] if lead.mean() > lead.std(ddof=1) else None


def run_metrics(
    by_hospital: Mapping[str, ClassificationCounts], classes: int
) -> tuple[dict[str, float | None], str | None, int]:
    """Metrics of a model by its test counts at each hospital, the hospital of the lowest AUROC, and the number of images."""
    total = sum(by_hospital.values(), ClassificationCounts.zeros(classes))
    pooled = asdict(derive(total))
    where, lowest = worst({name: derive(one) for name, one in by_hospital.items()}).get("auroc", (None, None))
    return {**{metric: pooled[metric] for metric in COLUMNS if metric != WORST}, WORST: lowest}, where, total.n
