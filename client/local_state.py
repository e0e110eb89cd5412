"""What a hospital keeps of a job and never sends: control variates, its own batch normalisation, its personalised head.

One safetensors file per job, part and round in the hospital's cache folder. The last two rounds are kept, because a
coordinator that was cut off may ask for the last round again; of batch normalisation every round is, because the model that
is kept in the end may be of any.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from common.artifact import write_atomically
from common.errors import DataError
from common.head import Float32
from common.job import Job

_KEPT_ROUNDS = 2


def load_arrays(path: Path) -> dict[str, Float32]:
    """The arrays in a file of a hospital's own state.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return {name: array.astype(np.float32) for name, array in safetensors.numpy.load_file(path).items()}
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(
            f"{path}, a hospital's own state of a job, cannot be read ({error}); correct the path, or remove the folder it is "
            "in and run the job again from its first round"
        ) from error


class LocalState:
    """The state of one hospital in one job; `what` names the part (control, batch-norm, personal)."""

    def __init__(self, cache: Path, hospital: str, job: Job) -> None:
        self.folder = cache / f"state-{hospital}-{job.job_id[:16]}"

    def path(self, what: str, number: int) -> Path:
        """The file of a part after a round."""
        return self.folder / f"{what}-{number:05d}.safetensors"

    def load(self, what: str, number: int) -> dict[str, Float32]:
        """The arrays kept after round `number`; none if there was no such round.

        Raises:
            DataError: the file is damaged.
        """
        path = self.path(what, number)
        return load_arrays(path) if path.exists() else {}

    def load_latest(self, what: str, number: int) -> dict[str, Float32]:
        """The arrays of round `number`, or of the last one before it that this hospital took part in; none if there is none.

        Raises:
            DataError: the file is damaged.
        """
        kept = [one for one in self._rounds(what) if one <= number]
        return self.load(what, max(kept)) if kept else {}

    def save(self, what: str, number: int, arrays: Mapping[str, Float32], keep_all: bool = False) -> None:
        """Keep the arrays of a round. Later rounds, of a run that was cut off, are forgotten; earlier ones unless `keep_all`."""
        data = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            self.folder.chmod(0o700)
        write_atomically(self.path(what, number), data)
        for old in self._rounds(what):
            if old > number or (old <= number - _KEPT_ROUNDS and not keep_all):
                self.path(what, old).unlink(missing_ok=True)

    def _rounds(self, what: str) -> list[int]:
        return sorted(int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{what}-*.safetensors"))
