"""What a hospital has opened already: at most one sum for each purpose of a job, also after a restart.

Two sums of the same numbers, over hospitals A, B, C and over A, B, would give those of C.
"""

import hashlib
import os
from pathlib import Path

from common.secure_sum.errors import SecureSumError
from common.secure_sum.terms import Terms


class Once:
    """A folder (mode 0700) with an empty file for each purpose of a job for which this hospital has given shares."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, terms: Terms) -> None:
        """Raise SecureSumError if this hospital has given shares for that purpose."""
        if self._file(terms).exists():
            raise _opened(terms)

    def claim(self, terms: Terms) -> None:
        """Write down that shares are about to be given; it is on the disk when this returns.

        Raises:
            SecureSumError: they were given before, or it cannot be written down.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.close(os.open(self._file(terms), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            if isinstance(error, FileExistsError) and self._folder.is_dir():
                raise _opened(terms) from error
            raise SecureSumError(f"cannot write down that a sum is opened, so it is not: {error.strerror}") from error

    def _file(self, terms: Terms) -> Path:
        return self._folder / hashlib.sha256(f"{terms.job_id}\n{terms.purpose}".encode()).hexdigest()


def _opened(terms: Terms) -> SecureSumError:
    return SecureSumError(
        f"this hospital has helped to open a sum for '{terms.purpose}' of this job; a second one, over other hospitals, would "
        "give what one hospital sent"
    )
