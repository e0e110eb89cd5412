"""Features of images on the hospital's own disk, so that an image passes the backbone once, ever.

One SQLite file per feature space, keyed by the sha256 of the image file and the view: a changed image, other weights or another
preprocessing can only miss. SQLite keeps it whole through a killed process and two processes at once; a damaged file is
moved aside, a full disk ends the writing, not the work. Features are patient data: they stay in this folder.
"""

import logging
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from common.errors import DataError
from common.head import Float32

log = logging.getLogger(__name__)

Key = tuple[bytes, int]
"""sha256 of the image file (32 bytes), and the view (0 is the image as it is)."""

_BUSY_S = 60.0
_KEYS_AT_ONCE = 500


def default_cache_dir() -> Path:
    """CONSILIUM_CACHE_DIR, or consilium/ in the user's cache folder."""
    given = os.environ.get("CONSILIUM_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "consilium"


class FeatureCache:
    """The cache of one feature space of width D. Use it as a context manager.

    Raises:
        DataError: the folder cannot be made or written at all.
    """

    def __init__(self, folder: Path, fingerprint: str, features: int) -> None:
        self.path = folder / f"features-{fingerprint[:32]}.sqlite"
        self._features = features
        self._writable = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise DataError(
                f"the cache folder {folder} cannot be used: {error.strerror}; give another one (cache: in the hospital "
                "file, or CONSILIUM_CACHE_DIR)"
            ) from error
        try:
            self._database = self._open()
        except sqlite3.OperationalError as error:
            raise DataError(f"the feature cache {self.path} cannot be opened: {error}") from error
        except sqlite3.DatabaseError:
            self._set_aside()
            self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS features "
                "(image BLOB, view INTEGER, vector BLOB NOT NULL, PRIMARY KEY (image, view)) WITHOUT ROWID"
            )
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _set_aside(self) -> None:
        aside = self.path.with_suffix(".damaged")
        log.warning("the feature cache is damaged; it is set aside as a .damaged file and built anew")
        self.path.replace(aside)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def get(self, keys: Iterable[Key]) -> dict[Key, Float32]:
        """The vectors (D,) float32 of those keys that are there."""
        wanted = list(dict.fromkeys(keys))
        try:
            return self._get(wanted)
        except sqlite3.OperationalError as error:
            raise DataError(f"the feature cache {self.path} cannot be read: {error}") from error
        except sqlite3.DatabaseError:
            self._database.close()
            self._set_aside()
            self._database = self._open()
            return {}

    def _get(self, wanted: list[Key]) -> dict[Key, Float32]:
        found: dict[Key, Float32] = {}
        views_of: dict[bytes, set[int]] = {}
        for image, view in wanted:
            views_of.setdefault(image, set()).add(view)
        images = list(views_of)
        for start in range(0, len(images), _KEYS_AT_ONCE):
            some = images[start : start + _KEYS_AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT image, view, vector FROM features WHERE image IN ({marks})"  # noqa: S608  question marks only
            for image, view, vector in self._database.execute(query, some):
                if view in views_of[image] and len(vector) == 4 * self._features:
                    found[image, view] = np.frombuffer(vector, np.float32)
        return found

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
