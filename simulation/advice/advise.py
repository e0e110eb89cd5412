"""Advice for a job and its hospitals, from the folders to the job file: what `consilium advise` does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from client.feature_cache import default_cache_dir
from common.config_file import load_yaml
from common.job import parse_job
from common.wire import PARTS
from simulation.advice.census import census
from simulation.advice.inventory import Inventory, load_inventory, machines, weights_at_hand
from simulation.advice.measure import jobs_to_try, measure
from simulation.advice.recommendation import Recommendation
from simulation.advice.recommended_job import RecommendedJob, recommended_job
from simulation.advice.rules import advise
from simulation.advice.situation import Situation


@dataclass(frozen=True)
class Advice:
    """What was found, what is recommended, and the job file that follows it."""

    situation: Situation
    recommendations: tuple[Recommendation, ...]
    recommended: RecommendedJob

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        data, situation = self.situation.data, self.situation
        return {
            "job": situation.job.name,
            "classes": list(situation.job.classes),
            "hospitals": {
                one.name: {
                    "images": dict(zip(PARTS, map(list, one.images), strict=True)),
                    "patients": dict(zip(PARTS, one.patients, strict=True)),
                    "label_skew": data.label_skew(one),
                    "machine": asdict(situation.machines[one.name]),
                }
                for one in data.hospitals
            },
            "mean_label_skew": data.mean_label_skew,
            "size_ratio": data.size_ratio,
            "weights": [asdict(one) for one in situation.weights],
            "measured": [asdict(one) for one in situation.measured],
            "recommendations": [asdict(one) for one in self.recommendations],
            "changed": list(self.recommended.changed),
            "removed": list(self.recommended.removed),
            "recommended_job": self.recommended.text,
        }


def advice_for(
    path: Path,
    hospitals: Mapping[str, Path],
    *,
    inventory: Path | None = None,
    measured: bool = False,
    weights_dir: Path | None = None,
    cache_dir: Path | None = None,
    device: str = "auto",
) -> Advice:
    """Advice for the job file at `path` with these hospitals (name -> folder).

    measured: the backbones at hand are tried with the closed-form head, which passes the images through each of them.

    Raises:
        ConfigError: the job, the inventory or the device is wrong.
        DataError: a hospital's manifest or labels are wrong, or nobody has a training image.
        WeightsError: with `measured`, weights cannot be had.
    """
    # Read at once, because measuring takes minutes in which a person may go on writing.
    content, text = load_yaml(path), path.read_text(encoding="utf-8")
    job = parse_job(content, str(path))
    given = load_inventory(inventory, hospitals) if inventory else Inventory()
    cache = cache_dir or default_cache_dir()
    weights = weights_at_hand(weights_dir)
    data = census(job, hospitals)
    found = machines(job, hospitals, given, device, cache)
    tried = tuple(measure(jobs_to_try(job, weights), hospitals, weights_dir, cache, device)) if measured else ()
    situation = Situation(job, data, found, weights, tried)
    recommendations = advise(situation)
    return Advice(situation, recommendations, recommended_job(text, content, job, recommendations))
