"""What a hospital keeps of a job and never sends: its own batch normalisation by round, and its personalised head.

Safetensors files in the hospital's cache folder, readable by their owner only, that say which job and round they belong to. All
rounds are kept, because the model that is kept in the end may be of any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from common.artifact import write_atomically
from common.errors import DataError
from common.head import Float32
from common.job import Job


@dataclass(frozen=True)
class Kept:
    """Arrays by name, the job and the round they belong to, and for a personalised head the digest of the global model."""

    arrays: Mapping[str, Float32]
    job_id: str
    number: int
    model: str


def load_kept(path: Path) -> Kept:
    """A file of a hospital's own state.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118  not a dict
        return Kept(arrays, about["job_id"], int(about["round"]), about.get("model", ""))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}, a hospital's own state of a job, cannot be read ({error}); correct the path, or remove the folder it is "
            "in and run the job again from its first round"
        ) from error


class LocalState:
    """The state of one hospital in one job; `what` names the part (batch-norm, personal)."""

    def __init__(self, cache: Path, hospital: str, job: Job) -> None:
        self._job_id = job.job_id
        self.folder = cache / f"state-{hospital}-{job.job_id[:16]}"

    def path(self, what: str, number: int) -> Path:
        """The file of a part after a round."""
        return self.folder / f"{what}-{number:05d}.safetensors"

    def load_latest(self, what: str, number: int) -> dict[str, Float32]:
        """The arrays of round `number`, or of the last one before it that this hospital took part in; none if there is none.

        Raises:
            DataError: the file is damaged.
        """
        kept = [one for one in self._rounds(what) if one <= number]
        return dict(load_kept(self.path(what, max(kept))).arrays) if kept else {}

    def save(self, what: str, number: int, arrays: Mapping[str, Float32], model: str = "") -> None:
        """Keep the arrays of a round; later rounds, of a run that was cut off or came before, are forgotten."""
        about = {"job_id": self._job_id, "round": str(number), "model": model}
        data = safetensors.numpy.save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=about
        )
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            self.folder.chmod(0o700)
        write_atomically(self.path(what, number), data, mode=0o600)
        for old in self._rounds(what):
            if old > number:
                self.path(what, old).unlink(missing_ok=True)

    def _rounds(self, what: str) -> list[int]:
        return sorted(int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{what}-*.safetensors"))
