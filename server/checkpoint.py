"""The state of a run after a round, as one file: a run that is cut off goes on from it to the same bits."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from common.artifact import write_atomically
from common.errors import ArtifactError
from common.head import Float64, Head, Standardisation
from common.metrics import Metrics

FORMAT = "consilium-checkpoint-1"


@dataclass(frozen=True)
class Round:
    """What happened in a round.

    lost: no quorum, so the head is the one before. train_loss: mean cross-entropy of the training examples, as met in the last
    local epoch. update_norms: how far each hospital moved the head. dropped: neutral reason by hospital. validation: of the
    head the round made, pooled over the hospitals that judged it; None until they have, or if none did.
    """

    number: int
    lost: bool
    train_loss: float | None
    update_norms: Mapping[str, float]
    dropped: Mapping[str, str]
    bytes_down: int
    bytes_up: int
    seconds: float
    validation: Metrics | None = None


@dataclass(frozen=True)
class Checkpoint:
    """After the round `last`, not yet judged: the global head, the best head so far, and what the method remembers."""

    job_id: str
    fingerprint: str
    last: Round
    head: Head
    best_round: int
    best_validation: Metrics | None
    best_head: Head
    standardisation: Standardisation
    strategy: Mapping[str, Float64]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, all or nothing."""
    arrays = {
        "head.weight": checkpoint.head.weight,
        "head.bias": checkpoint.head.bias,
        "best.weight": checkpoint.best_head.weight,
        "best.bias": checkpoint.best_head.bias,
        "standardisation.mean": checkpoint.standardisation.mean,
        "standardisation.scale": checkpoint.standardisation.scale,
        **{f"strategy.{name}": array for name, array in checkpoint.strategy.items()},
    }
    meta = {
        "format": FORMAT,
        "job_id": checkpoint.job_id,
        "fingerprint": checkpoint.fingerprint,
        "last": asdict(checkpoint.last),
        "best_round": checkpoint.best_round,
        "best_validation": asdict(checkpoint.best_validation) if checkpoint.best_validation else None,
    }
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata={"consilium": json.dumps(meta)}
    )
    write_atomically(path, data)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ArtifactError: the file is missing, damaged, or no checkpoint of ours.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {}).get("consilium", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        if meta.get("format") != FORMAT:
            raise ArtifactError(f"{path} is no checkpoint of this version (expected format {FORMAT})")
        return Checkpoint(
            job_id=meta["job_id"],
            fingerprint=meta["fingerprint"],
            last=Round(**meta["last"]),
            head=Head(arrays["head.weight"], arrays["head.bias"]),
            best_round=int(meta["best_round"]),
            best_validation=Metrics(**meta["best_validation"]) if meta["best_validation"] else None,
            best_head=Head(arrays["best.weight"], arrays["best.bias"]),
            standardisation=Standardisation(arrays["standardisation.mean"], arrays["standardisation.scale"]),
            strategy={
                name.removeprefix("strategy."): array for name, array in arrays.items() if name.startswith("strategy.")
            },
        )
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"cannot read the checkpoint {path}: {error}") from error
