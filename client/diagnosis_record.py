"""What is said of one image: a label or a referral, why, and what a person needs to judge it.

Letters: (h, w) places of a heat map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.frame import Frame
from client.image_quality import Finding
from common.head import Float32
from common.operating_point import OperatingPoint

REFER = "refer to a radiologist"
_WORDS = ((0.95, "very likely"), (0.8, "likely"), (0.6, "more likely than not"), (0.0, "undecided"))


@dataclass(frozen=True)
class Heatmap:
    """grid (h, w) float32 over the network's input, larger where an area speaks for the class `shown`; made by `kind`."""

    grid: Float32
    shown: str
    kind: str


@dataclass(frozen=True)
class Diagnosis:
    """What the model says of one image.

    probabilities: by class, in [0, 1]; empty if the image could not be read, and then `problem` says why. label: a
    class, or `REFER` with the `reasons` for it. leaning: what the label would be without them. confidence: in [0, 1],
    of the leaning, at the operating point if there is one; words: the same in words. above: whether the class of the
    operating point reaches its threshold. distance: from the training images (d² / D), limit: from which on that is
    too far; None where the model has none. turned: degrees (anticlockwise) by which the image would have to be turned
    to be like the training images; 0 if it is upright, None where nobody knows. frame: the image's size, and where
    the network's input lies in it.
    """

    image: Path
    probabilities: Mapping[str, float]
    label: str
    problem: str | None = None
    reasons: Sequence[str] = ()
    leaning: str | None = None
    confidence: float | None = None
    words: str | None = None
    above: bool | None = None
    distance: float | None = None
    limit: float | None = None
    turned: int | None = None
    findings: Sequence[Finding] = ()
    frame: Frame | None = None
    heatmap: Heatmap | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without the heat map."""
        return {
            "image": str(self.image),
            "diagnosis": self.label,
            "reasons": list(self.reasons),
            "leaning": self.leaning,
            "probabilities": dict(self.probabilities),
            "confidence": self.confidence,
            "in_words": self.words,
            "above_operating_point": self.above,
            "distance": self.distance,
            "distance_limit": self.limit,
            "turned_by_degrees": self.turned,
            "quality": [asdict(finding) for finding in self.findings],
            "frame": asdict(self.frame) if self.frame else None,
            "problem": self.problem,
        }


def leaning_of(probabilities: Mapping[str, float], point: OperatingPoint | None) -> tuple[str, float, bool | None]:
    """What the probabilities say, with what confidence in [0, 1], and whether the operating point is reached.

    Without an operating point: the most probable class and its probability. With one at threshold t of a class of
    probability p the odds are counted from t: confidence p (1 - t) / (p (1 - t) + (1 - p) t), which is 1/2 at the
    threshold and p at t = 1/2.
    """
    if point is None:
        best = max(probabilities, key=lambda name: probabilities[name])
        return best, probabilities[best], None
    p, t = probabilities[point.name], point.threshold
    odds_for, odds_against = p * (1.0 - t), (1.0 - p) * t
    there = odds_for / (odds_for + odds_against) if odds_for + odds_against > 0 else p
    if p >= t:
        return point.name, there, True
    others = {name: value for name, value in probabilities.items() if name != point.name}
    best = max(others, key=lambda name: others[name])
    return best, (1.0 - there) * others[best] / max(sum(others.values()), 1e-300), False


def in_words(confidence: float) -> str:
    """A confidence in [0, 1] in words."""
    return next(words for least, words in _WORDS if confidence >= least)
