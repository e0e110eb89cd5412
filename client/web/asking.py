"""What answers at the bedside, for the pages, and what is said of a model. No torch: a page without a model starts at once."""

from collections.abc import Mapping
from typing import Protocol

from client.images import IMAGE_SUFFIXES
from client.web.models import Answer, ModelSaid, Probability, Reference
from common.artifact import Manifest
from common.errors import DataError
from common.web.uploads import KINDS

_REFERENCE = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "ece": "calibration error",
}


class Asked(Protocol):
    """What answers: a model, with what is to be said of it."""

    def about(self) -> ModelSaid:
        """The model and its limits."""
        ...

    def answer(self, data: bytes) -> Answer:
        """What the model says of the content of an image file.

        Raises:
            UnknownKind: it is no kind of file that is read here.
            DataError: it cannot be read.
        """
        ...


class UnknownKind(DataError):  # noqa: N818  what a person brought
    """The content is no image of a kind that is read here."""


def accepted() -> list[str]:
    """The kinds of files that can be read here."""
    return [words for suffix, words in KINDS.items() if suffix in IMAGE_SUFFIXES]


def about(manifest: Manifest, refer_below: float, most_bytes: int) -> ModelSaid:
    """What its manifest says of a model, for who asks it."""
    job, pooled = manifest.job, manifest.metrics
    bounds = pooled.get("intervals") or {}
    reference = []
    for key, name in _REFERENCE.items():
        low, high = bounds.get(key) or (None, None)
        reference.append(Reference(name=name, value=pooled.get(key), low=low, high=high))
    limits = [
        "A research model, not a medical device: a physician decides.",
        f"It knows {', '.join(job.classes)} and nothing else: whatever it is shown, it answers with one of these or refers.",
        f"It was trained on {kind_in_words(job.modality)}, at {manifest.hospitals} hospitals; other kinds of images, other "
        "devices and other patients than theirs can mislead it without notice.",
        "A probability is that of the model for patients like those it was tested on. How frequent a finding is here changes it.",
    ]
    if (point := manifest.operating_point) is not None:
        limits.append(f"It says {point.name} from a probability of {point.threshold:.3f} on ({point.rule}).")
    if job.backbone.weights.random:
        limits.insert(0, "Its backbone has random weights: a demonstration, never a diagnosis.")
    return ModelSaid(
        job=job.name,
        job_id=manifest.job_id,
        fingerprint=manifest.fingerprint,
        modality=job.modality,
        classes=list(job.classes),
        method=job.method.name,
        backbone=job.backbone.name,
        hospitals=manifest.hospitals,
        test_images=int(pooled.get("n") or 0),
        reference=reference,
        limits=limits,
        refer_below=refer_below,
        accepts=accepted(),
        most_bytes=most_bytes,
    )


def kind_in_words(modality: str) -> str:
    """A job's modality as people say it."""
    return "images of a kind that its job does not name" if modality == "other" else f"images of the kind {modality}"


def ordered(probabilities: Mapping[str, float]) -> list[Probability]:
    """Probabilities, the greatest first."""
    found = sorted(probabilities.items(), key=lambda item: -item[1])
    return [Probability(name=name, probability=value) for name, value in found]
