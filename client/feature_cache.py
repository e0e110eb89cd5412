"""Features of images on the hospital's own disk, so that an image passes the backbone once, ever.

One SQLite file per network and preprocessing, keyed by the sha256 of the image file and the view: a changed image, other
weights or another preprocessing can only miss. SQLite keeps it whole through a killed process and two processes at once; a
damaged file is moved aside, a full disk ends the writing, not the work. Features are patient data: they stay in this folder.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.head import Float32

log = logging.getLogger(__name__)

Value = TypeVar("Value")
Key = tuple[bytes, int]
"""sha256 of the image file (32 bytes), and the view (see `client/augmentation.py`; 0 is the image as it is)."""

_BUSY_S, _PAUSE_S = 60.0, 0.05
_KEYS_AT_ONCE = 500


def default_cache_dir() -> Path:
    """CONSILIUM_CACHE_DIR, or consilium/ in the user's cache folder."""
    given = os.environ.get("CONSILIUM_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "consilium"


def _write_ahead(database: sqlite3.Connection) -> None:
    """Turn on the write-ahead log. SQLite's own waiting does not cover this: of two processes that begin at once, one fails."""
    end = time.monotonic() + _BUSY_S
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= end:
                raise
        time.sleep(_PAUSE_S)


class FeatureCache:
    """The cache of one extraction space, with vectors of width D. Use it as a context manager.

    kind: of what the vectors are; the file has its name.

    Raises:
        DataError: the folder cannot be made or written at all.
    """

    def __init__(self, folder: Path, space: str, features: int, kind: str = "features") -> None:
        self.path = folder / f"{kind}-{space}.sqlite"
        self._features = features
        self._writable = True
        try:
            self._make_private(folder)
            try:
                self._database = self._open()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._database = self._open_anew()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _make_private(self, folder: Path) -> None:
        """A folder made here and the files in it can be read by their owner only; a folder that was there stays as it is."""
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        # SQLite gives its other files the permissions of this one.
        self.path.touch(0o600)

    def _unusable(self, error: OSError | sqlite3.Error) -> DataError:
        reason = error.strerror if isinstance(error, OSError) else error
        return DataError(
            f"the feature cache {self.path} cannot be used: {reason}; make room and see to it that the folder can be written, "
            "or give another one (cache: in the hospital file, or CONSILIUM_CACHE_DIR)"
        )

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            _write_ahead(database)
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS features "
                "(image BLOB, view INTEGER, vector BLOB NOT NULL, PRIMARY KEY (image, view)) WITHOUT ROWID"
            )
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _open_anew(self) -> sqlite3.Connection:
        log.warning("the feature cache is damaged; it is set aside as a .damaged file and built anew")
        self.path.replace(self.path.with_suffix(".damaged"))
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self.path.touch(0o600)
        return self._open()

    def get(self, keys: Iterable[Key], columns: npt.NDArray[np.intp] | None = None) -> dict[Key, Float32]:
        """The vectors (D,) float32 of those keys that are there, or the `columns` of them.

        Raises:
            DataError: the file can no longer be read.
        """

        def vector(stored: bytes) -> Float32:
            whole = np.frombuffer(stored, np.float32)
            return whole if columns is None else whole[columns]

        return self._select("vector", vector, keys)

    def known(self, keys: Iterable[Key]) -> set[Key]:
        """Those keys that are there; their vectors are not read.

        Raises:
            DataError: the file can no longer be read.
        """
        return set(self._select("NULL", lambda _: None, keys))

    @property
    def nbytes(self) -> int:
        """Bytes that the file and SQLite's log beside it take on the disk."""
        files = [self.path, Path(f"{self.path}-wal")]
        return sum(file.stat().st_size for file in files if file.exists())

    def _select(self, column: str, value: Callable[[bytes], Value], keys: Iterable[Key]) -> dict[Key, Value]:
        """For those keys that are there, the value made of one column; nothing of a file that is damaged."""
        wanted = list(dict.fromkeys(keys))
        found: dict[Key, Value] = {}
        try:
            try:
                for start in range(0, len(wanted), _KEYS_AT_ONCE):
                    for image, view, stored in self._rows(column, wanted[start : start + _KEYS_AT_ONCE]):
                        found[image, view] = value(stored)
                return found
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._database.close()
                self._database = self._open_anew()
                return {}
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def _rows(self, column: str, keys: list[Key]) -> sqlite3.Cursor:
        marks = ",".join(["(?,?)"] * len(keys))
        query = (
            f"SELECT image, view, {column} FROM features "  # noqa: S608  a name from here, and question marks
            f"WHERE (image, view) IN (VALUES {marks}) AND length(vector) = ?"
        )
        return self._database.execute(query, [*(value for key in keys for value in key), 4 * self._features])

    def put(self, vectors: dict[Key, Float32]) -> None:
        """Store vectors (D,) float32, all or none. On a full disk it warns once and stores no more."""
        if not self._writable or not vectors:
            return
        rows = [
            (image, view, np.ascontiguousarray(vector, np.float32).tobytes())
            for (image, view), vector in vectors.items()
        ]
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._writable = False
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            log.warning(
                "features can no longer be cached (%s): the work goes on, but these images will be read again next time; "
                "make room on the disk of the cache folder",
                error,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
