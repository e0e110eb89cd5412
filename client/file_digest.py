"""The digest by which an image file or a series is known to the caches."""

import hashlib
from pathlib import Path


def digest_of(path: Path) -> bytes:
    """sha256 of a file; of a series over those of its files, whatever their names.

    Raises:
        OSError: it cannot be opened.
    """
    if path.is_dir():
        files = sorted(digest_of(file) for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        return hashlib.sha256(b"".join(files)).digest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
