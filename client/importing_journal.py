"""What has been imported into a folder: one line for each copy, written and synced after the copy is in its place.

A process that is killed leaves whole copies, at most one of them without its line, and at most half a line at the end. Nothing
in here names a patient: pseudonyms, labels, and sex and age band if they were asked for.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from common.errors import ConfigError, DataError, StorageError

JOURNAL = "import-state.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One copy. path: relative to the folder. label, sex, age_band: empty if not known or not asked for."""

    sop_uid: str
    path: str
    patient_id: str
    label: str = ""
    sex: str = ""
    age_band: str = ""


class Journal:
    """The open journal of a folder; `entries` by pseudonym of the SOP instance UID, the last line of each.

    Raises:
        ConfigError: another process imports into the folder, it was made with another salt, or it is no such folder.
        DataError: the journal is damaged.
        StorageError: it cannot be written.
    """

    def __init__(self, folder: Path, salt_fingerprint: str) -> None:
        self.folder = folder
        self._path = folder / JOURNAL
        self.entries: dict[str, Entry] = {}
        try:
            self._file = self._open()
        except OSError as error:
            raise StorageError(
                f"cannot write {self._path}: {error.strerror}; make room, or choose another --out"
            ) from error
        try:
            self._load(salt_fingerprint)
        except BaseException:
            self.close()
            raise

    def add(self, entry: Entry) -> None:
        """Note a copy for good.

        Raises:
            StorageError: the disk is full, or cannot be written.
        """
        self._append(asdict(entry))
        self.entries[entry.sop_uid] = entry

    def close(self) -> None:
        """Let another process have the folder."""
        self._file.close()

    def _open(self) -> IO[bytes]:
        if self.folder.is_dir():
            if not self._path.exists() and any(self.folder.iterdir()):
                raise ConfigError(
                    f"--out {self.folder} is not empty and nothing was imported into it before; name a new folder, or one of "
                    f"an earlier import (it has {JOURNAL})"
                )
        else:
            self.folder.mkdir(parents=True, mode=0o700)
        file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ConfigError(
                f"another process imports into {self.folder}; wait until it ends, or choose another --out"
            ) from error
        return file

    def _load(self, salt_fingerprint: str) -> None:
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        # A line that a killed process did not finish; its copy is made again.
        self._file.truncate(whole)
        self._file.seek(whole)
        lines = content[:whole].splitlines()
        if not lines:
            self._append({"format": FORMAT, "salt": salt_fingerprint})
            return
        try:
            first = json.loads(lines[0])
            same_format, same_salt = first["format"] == FORMAT, first["salt"] == salt_fingerprint
            for line in lines[1:]:
                entry = Entry(**json.loads(line))
                self.entries[entry.sop_uid] = entry
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{self._path} is damaged ({type(error).__name__}); import anew into an empty folder, and keep the labels of "
                "this one's manifest.csv: paths are the same with the same salt"
            ) from error
        if not same_format:
            raise DataError(f"{self._path} is of another version of Consilium; import anew into an empty folder")
        if not same_salt:
            raise ConfigError(
                f"{self.folder} was made with another salt: the same patient would get a second pseudonym. Name its salt with "
                "--salt, or import into an empty folder"
            )

    def _append(self, content: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot write {self._path}: {error.strerror}; what is imported stays. Make room and run the same command again"
            ) from error
