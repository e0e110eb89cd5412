"""The sums that a run has opened and not yet built a checkpoint on: a file each, written at once.

Hospitals open a sum once. So a coordinator that is killed between a sum and the checkpoint after it must find the sum here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from common.artifact import write_atomically
from common.errors import ArtifactError
from common.summed import Question
from server.storage import writing

FOLDER = "opened"
_KEPT = ("holdings", "centre")
"""The sums on which a run rests from its beginning to its end."""


@dataclass(frozen=True)
class Opened:
    """A sum: counts int64 and reals float64 by name, whose numbers are in it, and who is missing and why.

    threshold: of how many hospitals it would have been at least.
    """

    arrays: Mapping[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]]
    hospitals: tuple[str, ...]
    threshold: int
    dropped: Mapping[str, str]


class OpenedSums:
    """The folder `opened` of a run directory."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER

    def load(self, question: Question) -> Opened | None:
        """The sum that answers exactly this question, if it was opened.

        Raises:
            ArtifactError: the file is damaged.
        """
        path = self._path(question)
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["opened"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            return Opened(arrays, tuple(about["hospitals"]), int(about["threshold"]), about["dropped"])
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path}, a sum that was opened, cannot be read ({error}); hospitals do not open it again, so copy the run "
                "directory again, or run a job under another name"
            ) from error

    def save(self, question: Question, opened: Opened) -> None:
        """Write a sum down.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._path(question)
        about = {name: one for name, one in asdict(opened).items() if name != "arrays"}
        arrays = {name: np.asarray(array, order="C") for name, array in opened.arrays.items()}
        with writing(path, None):
            write_atomically(path, safetensors.numpy.save(arrays, metadata={"opened": json.dumps(about)}))

    def forget(self) -> None:
        """A checkpoint was built on what is here: only what the whole run rests on is still wanted."""
        for path in self._folder.glob("*.safetensors"):
            if path.stem.partition("-of-")[0] not in _KEPT:
                path.unlink(missing_ok=True)

    def _path(self, question: Question) -> Path:
        return self._folder / f"{question.kind}-of-{question.number}-{question.digest[:32]}.safetensors"
