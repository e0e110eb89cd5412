"""What a hospital has told with noise of its own: once for each part of a job, and the same again to whoever asks the same again.

Fresh noise for a question that was answered already would be one more release, which nobody has paid for: the mean of many
answers has little noise. So the answer is on the disk before it leaves, in the hospital's state folder, and a coordinator that
goes on after a crash gets the same bytes. Another question for the same round is refused.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from common.artifact import write_atomically
from common.errors import DataError, Refusal, RefusalCode
from common.packed import AnyArray

FOLDER = "noised-answers"
"""In the state folder: mode 0700, a file of mode 0600 for each answer."""

Arrays = Mapping[str, AnyArray]


class Releases:
    """The noised answers of one hospital to one job."""

    def __init__(self, state: Path, job_id: str) -> None:
        self._folder, self._job_id = state / FOLDER, job_id

    def answer(self, what: str, question: str, make: Callable[[], Arrays]) -> Arrays:
        """The noised arrays of one part of the job, made now or before. question: names what was asked, exactly.

        Raises:
            Refusal: `budget-spent`: that part was told in answer to another question.
            DataError: the file is damaged.
        """
        path = self._folder / f"{self._job_id}-{what}.safetensors"
        if path.exists():
            kept, asked = _read(path)
            if asked != question:
                raise Refusal(
                    RefusalCode.BUDGET_SPENT,
                    f"'{what}' of this job was answered already, to another model; a second answer would spend epsilon that the "
                    "job has not",
                )
            return kept
        arrays = make()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_atomically(path, safetensors.numpy.save(content, metadata={"question": question}), mode=0o600)
        return arrays


def _read(path: Path) -> tuple[dict[str, AnyArray], str]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            return arrays, (file.metadata() or {})["question"]
    except (OSError, safetensors.SafetensorError, KeyError) as error:
        raise DataError(
            f"{path}, a noised answer that may have left, cannot be read ({error}); bring it back from a copy: a new one would "
            "spend epsilon again"
        ) from error
