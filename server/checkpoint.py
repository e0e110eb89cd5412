"""The state of a run after a round, as one file: a run that is cut off goes on from it to the same bits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from common.artifact import write_atomically
from common.errors import ArtifactError
from common.head import Float64, Standardisation
from common.metrics import Metrics
from common.model import Model
from common.unlike import Spread
from server.failures import Failure
from server.meter import Spent

FORMAT = "consilium-checkpoint-3"


@dataclass(frozen=True)
class Round:
    """What happened in a round. Number 0 is the closed-form start of a method that goes on from it.

    lost: no quorum, so the model is the one before. answered: hospitals whose answer was used. train_loss: mean cross-entropy
    of the training examples, as met in the last local epoch; None where there are no epochs. update_norms: how far each
    hospital moved the model; empty where sums were sent. dropped: neutral reason by hospital. outside: hospitals that are
    connected and do not take part, with the reason. validation: of the head the round made, pooled over the hospitals that
    judged it; None until they have, or if none did. epsilon: what a private job has spent with and up to this round.
    """

    number: int
    lost: bool
    answered: Sequence[str]
    train_loss: float | None
    update_norms: Mapping[str, float]
    dropped: Mapping[str, str]
    outside: Mapping[str, str]
    bytes_down: int
    bytes_up: int
    seconds: float
    validation: Metrics | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """After the round `last`: the global model, the best model so far, and what the method remembers.

    best_round is None before any round was judged. choice: how the closed-form head came about, spread: of the
    training images' features, where there is one. spent and failures: of all processes that worked at the run so far.
    A lost round makes no checkpoint: a run that goes on asks for it again, so there is no count of lost rounds to
    keep.
    """

    job_id: str
    fingerprint: str
    last: Round
    model: Model
    best_round: int | None
    best_validation: Metrics | None
    best_model: Model
    standardisation: Standardisation
    strategy: Mapping[str, Float64]
    choice: Mapping[str, object] | None = None
    spread: Spread | None = None
    spent: Spent = field(default_factory=Spent)
    failures: Sequence[Failure] = ()

    @property
    def lines(self) -> int:
        """Rounds below this number are in rounds.jsonl for good; the others will be judged, and written, again."""
        return self.last.number + 1 if self.judged else self.last.number

    @property
    def judged(self) -> bool:
        """Whether the last round has been judged: that of the closed-form head is at once, the others by the next round."""
        return self.last.validation is not None or self.best_round == self.last.number


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, all or nothing."""
    arrays = {
        **{f"model.{name}": array for name, array in checkpoint.model.arrays().items()},
        **{f"best.{name}": array for name, array in checkpoint.best_model.arrays().items()},
        "standardisation.mean": checkpoint.standardisation.mean,
        "standardisation.scale": checkpoint.standardisation.scale,
        **{f"strategy.{name}": array for name, array in checkpoint.strategy.items()},
        **{
            f"spread.{name}": array for name, array in (checkpoint.spread.arrays() if checkpoint.spread else {}).items()
        },
    }
    meta = {
        "format": FORMAT,
        "job_id": checkpoint.job_id,
        "fingerprint": checkpoint.fingerprint,
        "last": asdict(checkpoint.last),
        "best_round": checkpoint.best_round,
        "best_validation": asdict(checkpoint.best_validation) if checkpoint.best_validation else None,
        "choice": checkpoint.choice,
        "spent": asdict(checkpoint.spent),
        "failures": [asdict(one) for one in checkpoint.failures],
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
            last=_round(meta["last"]),
            model=Model.from_arrays(_below("model.", arrays)),
            best_round=meta["best_round"],
            best_validation=Metrics(**meta["best_validation"]) if meta["best_validation"] else None,
            best_model=Model.from_arrays(_below("best.", arrays)),
            standardisation=Standardisation(arrays["standardisation.mean"], arrays["standardisation.scale"]),
            strategy=_below("strategy.", arrays),
            choice=meta["choice"],
            spread=Spread.from_arrays(spread) if (spread := _below("spread.", arrays)) else None,
            spent=Spent(**meta["spent"]),
            failures=tuple(Failure(**one) for one in meta["failures"]),
        )
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"cannot read the checkpoint {path}: {error}") from error


def _below(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _round(meta: Mapping[str, Any]) -> Round:
    validation = meta["validation"]
    return Round(**{**meta, "validation": Metrics(**validation) if validation else None})
