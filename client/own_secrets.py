"""Secrets that a hospital makes for itself on first use: random bytes in a file that only its owner may read."""

import os
import secrets
from pathlib import Path


def make_once(path: Path, size: int) -> None:
    """A file of `size` random bytes, mode 0600, in a folder of mode 0700, on the disk when this returns.

    If another process makes one at the same time, the first one stays.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(size))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link fails where the name is taken, a rename would replace another process's secret.
            os.link(partial, path)
        except FileExistsError:
            return
    finally:
        partial.unlink(missing_ok=True)
