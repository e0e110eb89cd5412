"""The tables of the model card: data as counts, metrics with intervals, differences, groups, calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

from common.metrics import HIGHER_IS_BETTER, reliability
from server.model_card_page import Item, Listed, Table
from server.numbers import number
from server.run_directory import FinishedRun
from server.summary_table import interval

SHOWN: Mapping[str, str] = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "ece": "ECE",
    "brier": "Brier",
}
COMPARED = ("auroc", "accuracy", "sensitivity", "specificity", "ece")
"""The metrics in which hospitals are held against each other."""

BY_GROUP = ("accuracy", "sensitivity", "specificity", "precision", "f1")
"""What a confusion matrix gives: scores are not told by group."""

NO_HOSPITALS = "No data by hospital: the coordinator saw sums over hospitals only (secure aggregation)."


def data(run: FinishedRun, part: str) -> list[Item]:
    """Images by class and patients of one part, for each hospital."""
    rows = [
        [name, number(one["patients"][part]), *map(number, one["images"][part])]
        for name, one in run.summary["hospitals"].items()
    ]
    if not rows:
        about = f"about {run.summary['patients']:,} patients in training, by a noised count" if part == "train" else ""
        return [
            f"No data: in a job with differential privacy no exact number of images is told{'; ' if about else ''}{about}."
        ]
    columns = ["hospital", "patients", *(f"images: {name}" for name in run.job["classes"])]
    if len(rows) > 1:
        named = list(run.summary["hospitals"].values())
        totals = [sum(one["images"][part][index] for one in named) for index in range(len(run.job["classes"]))]
        rows.append(["together", number(sum(one["patients"][part] for one in named)), *map(number, totals)])
    left_out = {
        "could not be read": sum(one["unreadable"] for one in run.summary["hospitals"].values()),
        "have a label that is no class of the job": sum(
            one["other_labels"] for one in run.summary["hospitals"].values()
        ),
    }
    said: list[Item] = [Table(columns, rows)]
    if part == "train":
        said.append(Listed([f"{number(count)} images {why} and were left out" for why, count in left_out.items()]))
    return said


def performance(run: FinishedRun) -> list[Item]:
    """All metrics: pooled, of each hospital, and the worst."""
    metrics = run.summary["metrics"]
    if not metrics["pooled"]["n"]:
        return ["No data: there are no test counts."]
    columns = ["", "images", *SHOWN.values()]
    named = [("all hospitals", metrics["pooled"]), *metrics["hospitals"].items()]
    rows = [[name, number(found["n"]), *(_measured(found, metric) for metric in SHOWN)] for name, found in named]
    said: list[Item] = [Table(columns, rows)]
    if not metrics["hospitals"]:
        return [*said, NO_HOSPITALS]
    where = metrics["worst_hospital"]
    worst = [
        "–" if metrics["worst"].get(one) is None else f"{number(metrics['worst'][one])} ({where[one]})" for one in SHOWN
    ]
    rows.append(["worst hospital", number(metrics["worst"]["n"]), *worst])
    return [*said, "In brackets: 95 % interval; in the last row, where it is."]


def differences(run: FinishedRun) -> list[Item]:
    """Best and worst hospital in each metric."""
    hospitals = run.summary["metrics"]["hospitals"]
    if not hospitals:
        return [NO_HOSPITALS]
    return _compared(hospitals, "hospital", COMPARED)


def groups(run: FinishedRun) -> list[Item]:
    """Metrics by sex and age band, of the hospitals that tell them."""
    found = run.summary.get("groups") or {}
    if not found:
        return [
            "No data: the job does not ask for it (evaluation.groups), so no hospital told counts by sex or age band. Whether "
            "the model does equally well for women and men, and for young and old, is not known."
        ]
    said: list[Item] = []
    for attribute, by_group in found.items():
        told = {name: one for name, one in by_group.items() if one["n"]}
        name = attribute.replace("_", " ")
        if not told:
            said.append(
                f"{name}: no data. No hospital has groups that are large enough to be told, or it has no such column."
            )
            continue
        columns = [name, "images", "hospitals", *(SHOWN[metric] for metric in BY_GROUP)]
        rows = [
            [group, number(one["n"]), number(one["hospitals"]), *(_measured(one, metric) for metric in BY_GROUP)]
            if one["n"]
            else [group, "withheld", *["–"] * (1 + len(BY_GROUP))]
            for group, one in by_group.items()
        ]
        said += [Table(columns, rows), *(_compared(told, "group", BY_GROUP) if len(told) > 1 else [])]
    said.append(
        "A hospital tells a group only where it and the patients outside all told groups are many enough of every class, so "
        "a group's figures may leave hospitals out, and a withheld group may be small, absent, or withheld so that another stays "
        "hidden."
    )
    return said


def calibration(run: FinishedRun) -> list[Item]:
    """The calibration error before and after the temperature, and the reliability table on test patients."""
    pooled, chosen = run.summary["metrics"]["pooled"], run.summary["closed_form"] or {}
    before, after = chosen.get("ece_before"), chosen.get("ece_after")
    rows = []
    if before is not None:
        rows = [
            ["validation patients, before the temperature", number(before)],
            [f"validation patients, with temperature {chosen['temperature']:.2f}", number(after)],
        ]
    rows.append(["test patients, the model as it is", number(pooled["ece"])])
    said: list[Item] = [Table(["expected calibration error (15 bins of top-class confidence)", "ECE"], rows)]
    if before is None:
        said.append(
            "No data from before calibration: the probabilities were not calibrated by a temperature on validation patients."
        )
    confidence, accuracy, images = reliability(run.pooled)
    if not len(images):
        return [*said, "No reliability table: there are no test counts."]
    table = [
        [number(float(sure)), number(float(right)), number(int(count))]
        for sure, right, count in zip(confidence, accuracy, images, strict=True)
    ]
    return [*said, Table(["mean confidence", "share that is right", "images"], table)]


def _compared(named: Mapping[str, Mapping[str, Any]], what: str, metrics: Sequence[str]) -> list[Item]:
    rows: list[Sequence[str]] = []
    for metric in metrics:
        known = {name: one[metric] for name, one in named.items() if one[metric] is not None}
        if len(known) < 2:
            rows.append([SHOWN[metric], "–", "–", "–", f"defined for {len(known)} of {len(named)}"])
            continue
        ordered = sorted(known, key=lambda name: (known[name], name), reverse=HIGHER_IS_BETTER[metric])
        best, worst = ordered[0], ordered[-1]
        gap = abs(known[best] - known[worst])
        apart = _apart(named[best]["intervals"].get(metric), named[worst]["intervals"].get(metric))
        cells = [f"{number(known[one])} ({one})" for one in (best, worst)]
        rows.append([SHOWN[metric], *cells, number(gap), apart])
    return [Table(["metric", f"best {what}", f"worst {what}", "difference", "95 % intervals"], rows)]


def _apart(one: Sequence[float] | None, other: Sequence[float] | None) -> str:
    if not one or not other:
        return "none"
    return "overlap" if one[0] <= other[1] and other[0] <= one[1] else "do not overlap"


def _measured(found: Mapping[str, Any], metric: str) -> str:
    bounds = interval(found["intervals"].get(metric))
    return number(found[metric]) + (f" ({bounds})" if bounds and found[metric] is not None else "")
