"""A finished run as plain JSON: `summary.json`, and the test counts of `counts.json`."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from common.backbones import backbone_row
from common.candidates import improves
from common.groups import group_names
from common.job import Job
from common.metrics import ClassificationCounts, derive, intervals, worst
from common.private_release import budget_of, releases, spent_after, step_multiplier
from common.wire import PARTS, PERSONALISED
from server.afterwards import Personal
from server.aggregation import Grouped
from server.duplicate_check import as_rows
from server.failures import Failures
from server.members import missing_classes
from server.noised_rounds import USEFUL_SIGNAL, signal
from server.rounds import Outcome

_OF_SCORES = ("auroc", "average_precision", "ece", "brier", "log_loss")


def versions() -> dict[str, str]:
    """Versions of the libraries that made the model, as far as they are installed."""
    found = {}
    for name in ("consilium", "flwr", "numpy", "torch", "torchvision"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summarise(job: Job, outcome: Outcome, engine: str) -> dict[str, Any]:
    """Everything worth knowing of a run as plain JSON. Undefined metrics are null.

    Bytes and seconds are those of all processes of a resumed run, without what was lost between a checkpoint and the end of
    its process.
    """
    members = outcome.members
    pooled = outcome.pooled
    by_hospital = {name: derive(counts) for name, counts in outcome.test.items()}
    lowest = worst(by_hospital)
    described = outcome.described
    return {
        "job": job.model_dump(mode="json"),
        "job_id": job.job_id,
        "engine": engine,
        "method": job.method.name,
        "rounds": outcome.rounds,
        "best_round": outcome.best_round,
        "classes": list(job.classes),
        "fingerprint": members.fingerprint,
        "backbone_digest": members.backbone_digest,
        "taking_part": [member.name for member in members.members],
        "random_weights": job.backbone.weights.random,
        "versions": versions(),
        "metrics": {
            "pooled": {**asdict(derive(pooled)), "intervals": _intervals(pooled)},
            "hospitals": {
                name: {**asdict(metrics), "intervals": _intervals(outcome.test[name])}
                for name, metrics in by_hospital.items()
            },
            "worst": {
                **{metric: value for metric, (_, value) in lowest.items()},
                "n": min((metrics.n for metrics in by_hospital.values() if metrics.n), default=0),
            },
            "worst_hospital": {metric: name for metric, (name, _) in lowest.items()},
        },
        "hospitals": {
            name: {
                "images": {part: row.tolist() for part, row in zip(PARTS, one.images, strict=True)},
                "patients": dict(zip(PARTS, one.patients.tolist(), strict=True)),
                "examples": one.examples,
                "other_labels": one.other_labels,
                "unreadable": one.unreadable,
                "decoded": one.decoded,
                "cached": one.cached,
            }
            for name, one in described.items()
        },
        "patients": outcome.patients,
        "privacy": accounting(job, outcome.rounds),
        "closed_form": outcome.choice,
        "diagnosis": _bedside(outcome),
        "cross_site": {
            trained: {where: asdict(derive(counts)) for where, counts in row.items()}
            for trained, row in outcome.after.cross_site.items()
        },
        "personalisation": personalisation(outcome.after.personal, job.evaluation.select_by),
        "duplicates": as_rows(outcome.duplicates) if outcome.duplicates is not None else None,
        "groups": by_group(job, outcome.groups),
        "missing_classes": missing_classes(described, job.classes),
        "failures": Failures(outcome.failures).grouped(),
        "images": {
            "decoded": sum(one.decoded for one in described.values()),
            "cached": sum(one.cached for one in described.values()),
            "unreadable": sum(one.unreadable for one in described.values()),
            "other_labels": sum(one.other_labels for one in described.values()),
        },
        "communication": _communication(job, outcome),
        "seconds": {phase: round(seconds, 3) for phase, seconds in outcome.seconds.items()},
    }


def _bedside(outcome: Outcome) -> dict[str, Any]:
    """What the model file has for a diagnosis, and what it has not, with the reason."""
    bedside = outcome.bedside
    parts = {
        "calibration": bedside.calibration,
        "operating_point": bedside.operating_point,
        "unlike": bedside.unlike,
    }
    told = {name: one.model_dump(by_alias=True) if one is not None else None for name, one in parts.items()}
    return {**told, "missing": dict(bedside.missing)}


def accounting(job: Job, rounds: int) -> dict[str, Any] | None:
    """What a private job has spent, and of what its noise was; None of another job."""
    if not job.private:
        return None
    budget = budget_of(job)
    found: dict[str, Any] = {
        "unit": budget.unit,
        "noise": budget.noise,
        "epsilon": budget.epsilon,
        "delta": budget.delta,
        "spent": spent_after(job, rounds),
    }
    if job.method.iterative:
        known = {"clip": budget.clip, "sampling_rate": budget.sampling_rate, "releases": releases(job, rounds)}
        found |= {**known, "noise_multiplier": step_multiplier(job)}
    if job.hospitals_protected:
        found |= {"hospitals": budget.hospitals, "signal": signal(job), "useful_signal": USEFUL_SIGNAL}
    return found


def _communication(job: Job, outcome: Outcome) -> dict[str, Any]:
    hospitals = len(outcome.members.members)
    # The closed-form round counts as one: the whole model would have been sent at least once.
    numbers = backbone_row(job.backbone.name).parameters_with(job.num_classes)
    whole_model = 2 * hospitals * max(outcome.rounds, 1) * numbers * 4
    total = outcome.bytes_up + outcome.bytes_down
    return {
        "bytes_up": outcome.bytes_up,
        "bytes_down": outcome.bytes_down,
        "head_bytes": outcome.model.head.nbytes,
        "model_bytes": outcome.model.nbytes,
        "whole_model_bytes": whole_model,
        "times_less_than_whole_model": round(whole_model / total, 1) if total else None,
    }


def personalisation(personal: Personal, select_by: str) -> dict[str, Any]:
    """For each hospital the metrics of the global, the personalised and its own model on its own test patients.

    `best` is the model that its own validation patients favour, so the test patients have no say in it.
    """
    found = {}
    for name, parts in personal.items():
        best = None
        for model in PERSONALISED:
            metrics = derive(parts["validation"][model])
            if metrics.n and (best is None or improves(metrics, derive(parts["validation"][best]), select_by)):
                best = model
        found[name] = {
            "best": best,
            "validation": {model: asdict(derive(counts)) for model, counts in parts["validation"].items()},
            "test": {model: asdict(derive(counts)) for model, counts in parts["test"].items()},
        }
    return found


def by_group(job: Job, grouped: Grouped) -> dict[str, dict[str, Any]]:
    """Metrics by attribute and group, as far as a confusion matrix gives them; `n` is 0 of a group that no hospital tells."""
    found: dict[str, dict[str, Any]] = {attribute: {} for attribute in job.evaluation.groups}
    for place, (attribute, group) in enumerate(group_names(job.evaluation.groups)):
        zeros = ClassificationCounts.zeros(job.num_classes)
        counts = zeros if grouped.pooled is None else replace(zeros, confusion=grouped.pooled[place])
        # Scores are not told by group.
        metrics = {**asdict(derive(counts)), **dict.fromkeys(_OF_SCORES)}
        telling = sum(bool(one[place].any()) for one in grouped.hospitals.values())
        hospitals = None if job.privacy.secure_aggregation else telling
        found[attribute][group] = {**metrics, "intervals": _intervals(counts), "hospitals": hospitals}
    return found


def _intervals(counts: ClassificationCounts) -> Mapping[str, list[float] | None]:
    return {metric: [bound.low, bound.high] if bound else None for metric, bound in intervals(counts).items()}


def plain_counts(job: Job, outcome: Outcome) -> dict[str, Any]:
    """The test counts: pooled, by hospital, and those by group and the cross-site ones if there are any."""
    counts: dict[str, Any] = {
        "pooled": _plain(outcome.pooled),
        "hospitals": {name: _plain(one) for name, one in outcome.test.items()},
    }
    if outcome.groups.pooled is not None:
        named = {"pooled": outcome.groups.pooled, **outcome.groups.hospitals}
        counts["groups"] = {
            "names": group_names(job.evaluation.groups),
            "confusion": {name: one.tolist() for name, one in named.items()},
        }
    if outcome.after.cross_site:
        counts["cross_site"] = {
            trained: {where: _plain(one) for where, one in row.items()}
            for trained, row in outcome.after.cross_site.items()
        }
    return counts


def _plain(counts: ClassificationCounts) -> dict[str, Any]:
    return {name: np.asarray(array).tolist() for name, array in asdict(counts).items()}
