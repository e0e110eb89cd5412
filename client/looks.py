"""What each image file looked like, kept on the hospital's own disk, so that a second check reads only what is new.

One SQLite file in the cache folder, keyed by a hash of the file's path, its size and its time; it is written as the check goes,
so one that is interrupted goes on where it was. No path and no name is in it, but it is patient data like the features beside it.
"""

import hashlib
import json
import logging
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from client.dicom_facts import DicomFacts, facts_from, facts_of
from client.duplicates import perceptual_hash, thumbnail
from client.file_digest import digest_of
from client.image_faults import GreyValues, grey_of
from client.images import depth_of, load_image, opened, pictures_of
from client.likeness import code_of
from client.slices import AS_IT_IS, Slices
from common.errors import DataError
from common.head import Float32

log = logging.getLogger(__name__)

LOOKS_VERSION = 2
"""Raise it when a file would be seen otherwise than before: what is remembered then is not used any more."""

_AT_ONCE = 256
_BUSY_S = 60.0


@dataclass(frozen=True)
class Look:
    """One image as found: `problem` says why it cannot be read; then it has nothing else.

    digest: sha256, of a series over its files. hash: perceptual. facts: of DICOM only. code: of `client.likeness`, None for a
    blank image. thumbnail: (1024,), empty where it was left on the disk (`Looks.thumbnail` has it).
    """

    digest: str = ""
    hash: int = 0
    size_px: tuple[int, int] = (0, 0)
    bits: int = 0
    problem: str | None = None
    facts: DicomFacts | None = None
    grey: GreyValues = field(default_factory=GreyValues)
    code: int | None = None
    thumbnail: Float32 = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)


def look(path: Path) -> Look:
    """Open and decode an image once: of what has slices the middle one."""
    try:
        with opened(path) as found:
            # Before the pixels are decoded: the depth is in the header.
            bits = depth_of(path, found)
            picture = next(pictures_of(path, found, AS_IT_IS))
            facts = facts_of(found.headers) if isinstance(found, Slices) and found.headers else None
        digest = digest_of(path).hex()
    except (DataError, OSError) as error:
        return Look(problem=str(error))
    small = thumbnail(picture)
    hashed = perceptual_hash(picture)
    return Look(digest, hashed, picture.size, bits, None, facts, grey_of(picture), code_of(small), small)


class Looks:
    """What is remembered, in `folder`, or with None for as long as this object lives. Use it as a context manager.

    Raises:
        DataError: the folder cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "looks.sqlite" if folder else None
        try:
            if folder is not None and not folder.is_dir():
                folder.mkdir(parents=True)
                folder.chmod(0o700)
            try:
                self._database = self._open()
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                log.warning("what was remembered of earlier checks is damaged; all files are looked at anew")
                if self._path is None:
                    raise
                self._path.replace(self._path.with_suffix(".damaged"))
                self._database = self._open()
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{folder}: what is seen of the images cannot be remembered there: {error}; make room, or give another folder "
                "with --cache-dir"
            ) from error

    def _open(self) -> sqlite3.Connection:
        if self._path is not None:
            self._path.touch(0o600)
        # The empty name is a file of SQLite's own that goes when it is closed.
        database = sqlite3.connect(self._path or "", timeout=_BUSY_S, isolation_level=None)
        try:
            database.execute("CREATE TABLE IF NOT EXISTS looks (key BLOB PRIMARY KEY, look TEXT, thumbnail BLOB)")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def of(self, paths: Sequence[Path], pool: Executor) -> Generator[Look, None, None]:
        """A look at each file, in order, without thumbnails. Files that were seen before are not opened.

        What cannot be read is looked at again each time. Close the iterator if it is not used up: what was seen is kept then.
        """
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            keys = [_key(path) for path in some]
            found = self._remembered(keys)
            new = {key: path for key, path in zip(keys, some, strict=True) if key not in found}
            fresh: dict[bytes, Look] = {}
            looks = pool.map(look, new.values())
            waiting = iter(new)
            try:
                for key in keys:
                    while key not in found and key not in fresh:
                        fresh[next(waiting)] = next(looks)
                    yield replace(fresh[key], thumbnail=np.zeros(0, np.float32)) if key in fresh else found[key]
            finally:
                self._remember(fresh)

    def thumbnail(self, path: Path) -> Float32:
        """The thumbnail (1024,) of a readable image; it is looked at again if it is not remembered."""
        row = self._database.execute("SELECT thumbnail FROM looks WHERE key = ?", [_key(path)]).fetchone()
        return np.frombuffer(row[0], np.float32) if row else thumbnail(load_image(path))

    def _remembered(self, keys: Iterable[bytes]) -> dict[bytes, Look]:
        wanted = list(keys)
        query = f"SELECT key, look FROM looks WHERE key IN ({','.join('?' * len(wanted))})"  # noqa: S608  question marks
        return {key: _from_json(text) for key, text in self._database.execute(query, wanted)}

    def _remember(self, looks: dict[bytes, Look]) -> None:
        rows = [
            (key, _to_json(one), np.ascontiguousarray(one.thumbnail, np.float32).tobytes())
            for key, one in looks.items()
            if one.problem is None
        ]
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            log.warning("what was seen cannot be remembered (%s): the next check looks at these files again", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()


def _key(path: Path) -> bytes:
    """Path, size and time of a file; of a series those of all its files."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    digest = hashlib.sha256(f"{LOOKS_VERSION}\n{path.absolute()}".encode("utf-8", "surrogateescape"))
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        digest.update(f"\n{file.name}\t{stat.st_size}\t{stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.digest()


def _to_json(one: Look) -> str:
    facts = asdict(one.facts) if one.facts else None
    return json.dumps(
        {
            "digest": one.digest,
            "hash": str(one.hash),
            "size": one.size_px,
            "bits": one.bits,
            "facts": facts,
            "grey": one.grey,
            "code": None if one.code is None else str(one.code),
        }
    )


def _from_json(text: str) -> Look:
    content = json.loads(text)
    width, height = content["size"]
    facts = facts_from(content["facts"]) if content["facts"] else None
    code = None if content["code"] is None else int(content["code"])
    hashed, grey = int(content["hash"]), GreyValues(*content["grey"])
    return Look(content["digest"], hashed, (width, height), content["bits"], None, facts, grey, code)
