"""The words of the model card: what the model is and is for, what protected patients, and what speaks against relying on it."""

from collections.abc import Mapping
from typing import Any

from common.modalities import OTHER
from server.failures import in_words
from server.model_card_page import Item, Listed, Table, Warned
from server.numbers import number
from server.run_directory import FinishedRun

NOT_CLINICAL = (
    "Not for clinical use without approval: a research model, not a medical device. It has no regulatory approval; a physician "
    "decides."
)
_FEW = 100
"""Test images of a hospital below which its figures are called uncertain."""

_TUNED = {
    "head": "the last layer; the backbone is as it was pretrained",
    "last-blocks": "the last layer and the last blocks of the backbone",
    "full": "the whole network",
}


def details(run: FinishedRun, model_digest: str | None) -> list[Item]:
    """What the model is, and from what it can be made again."""
    summary, job = run.summary, run.job
    weights = ", ".join(f"{key} {value}" for key, value in job["backbone"]["weights"].items() if value is not None)
    rows = {
        "job": job["name"],
        "job id": summary["job_id"],
        "kind": f"image classifier: {job['backbone']['name']} and softmax(W x + b)",
        "backbone weights": weights,
        "backbone digest": summary["backbone_digest"],
        "feature space": summary["fingerprint"],
        "trained": f"{_TUNED[job['tune']['part']]}, by {summary['method']}",
        "rounds": f"{summary['rounds']}, of which round {summary['best_round']} was kept",
        "hospitals": f"{len(summary['taking_part'])}: {', '.join(summary['taking_part'])}",
        "model file (sha256)": model_digest or "no data: there is no model file in the run directory",
        "software": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        "engine": summary["engine"],
    }
    said: list[Item] = [Table(["", ""], [[name, str(value)] for name, value in rows.items()])]
    return [Warned(_random()), *said] if summary["random_weights"] else said


def intended_use(run: FinishedRun) -> list[Item]:
    """For whom, for what, and for what not."""
    job = run.job
    modality = "" if job["modality"] == OTHER else f" on {job['modality'].replace('-', ' ')} images"
    return [
        Warned(NOT_CLINICAL),
        Listed(
            [
                f"task: one of {len(job['classes'])} classes for one image{modality}: {', '.join(job['classes'])}",
                "primary use: research on diagnosis across hospitals, at hospitals like those it was trained at",
                "primary users: researchers and physicians of the hospitals that take part",
                "out of scope: any decision about a patient without a physician; images of another kind or from other devices "
                "than the hospitals'; findings that are none of the classes, which the model calls one of them all the same",
            ]
        ),
    ]


def factors(run: FinishedRun) -> list[Item]:
    """What the figures are given by, and what was left open."""
    by = ["hospital"] if run.summary["metrics"]["hospitals"] else []
    by += [name.replace("_", " ") for name in run.summary.get("groups") or {}]
    mirrored = "read" if run.job["features"]["mirror"] else "not read"
    return [
        Listed(
            [
                f"figures are given by: {', '.join(by) or 'nothing; only for all hospitals together'}",
                f"instrumentation: images of {run.summary['job']['image']['size'] or 'the size of the backbone'} px (fit "
                f"{run.job['image']['fit']}); mirror images are {mirrored}",
                "no data: device, projection, ethnicity, severity and other illnesses are not known to the coordinator",
            ]
        )
    ]


def measures(run: FinishedRun) -> list[Item]:
    """Which metrics, and how their uncertainty was found."""
    classes = run.job["classes"]
    of = f"those of {classes[1]}" if len(classes) == 2 else "means over the classes, each against the rest"
    return [
        f"Sensitivity, specificity, precision, F1 and AUROC are {of}. The label is the most probable class; no other threshold "
        "was chosen. ECE is the expected calibration error of the most probable class, Brier the mean squared error of the "
        "probabilities.",
        "Intervals are 95 %: Wilson for shares, DeLong on binned scores for the AUROC. They hold for images as if each were of "
        "another patient, so with several images of a patient they are too narrow.",
        f"The model was chosen by {run.job['evaluation']['select_by']} on validation patients; test patients were counted once, "
        "at the end. A patient is in one part only.",
    ]


def privacy(run: FinishedRun) -> list[Item]:
    """What protected the patients, what was spent of it, and what that covers."""
    asked = run.job["privacy"]
    budget = asked["differential_privacy"]
    rows = [
        [
            "secure aggregation",
            "yes: the coordinator saw sums over hospitals only" if asked["secure_aggregation"] else "no",
        ],
        ["differential privacy", "none" if budget is None else "for each patient in training"],
    ]
    if budget is not None:
        noise = "each hospital adds all of it" if budget["noise"] == "own" else "the hospitals share it"
        rows += [
            ["epsilon spent", f"{budget['epsilon']:g}"],
            ["delta", f"{budget['delta']:g}"],
            ["noise", noise],
            ["covers", "all that is trained: the centre of the features and every noised sum, so the model"],
            ["does not cover", "the counts of test patients, which have no noise"],
        ]
    said: list[Item] = [Table(["", ""], rows)]
    if budget is None:
        said.append(
            "No privacy budget: sums, weights and counts left the hospitals without noise, and the model may say something of "
            "single training patients."
        )
    return [
        *said,
        "No image, no feature of a single image, no file name and no patient id was asked for. In full: docs/privacy.md.",
    ]


def limits(run: FinishedRun) -> list[Item]:
    """What speaks against relying on the figures."""
    summary = run.summary
    hospitals = summary["metrics"]["hospitals"]
    points = [_random()] if summary["random_weights"] else []
    points += [
        "test patients are of the same hospitals as the training patients: how the model does elsewhere is not known",
        "labels are those of the hospitals; nobody compared them",
        "an image in another form than the preprocessing makes it gives another answer",
    ]
    points += [
        f"{name} has only {number(found['n'])} test images: its figures are uncertain"
        for name, found in hospitals.items()
        if found["n"] < _FEW
    ]
    points += [f"{name} has no image of: {', '.join(lacking)}" for name, lacking in summary["missing_classes"].items()]
    points += [f"{one['hospital']} {in_words(one)}" for one in summary["failures"]]
    points += _without_groups(summary)
    return [
        Listed(points),
        "Before any use: test it on patients of the hospital where it is to be used, set a threshold under which a physician is "
        "asked first, and watch its figures over time.",
        Warned(NOT_CLINICAL),
    ]


def _without_groups(summary: Mapping[str, Any]) -> list[str]:
    return [] if summary.get("groups") else ["nothing is known of differences by sex or age"]


def _random() -> str:
    return "Random backbone weights: a demonstration of the system; the figures say nothing about diagnosis."
