"""Names that stand for a patient or an object, and do not tell who it is without the hospital's own salt.

The salt is made on first use, in a file that only its owner may read. Whoever has it can find out whether a known patient id
is behind a pseudonym, so it stays at the hospital and is never beside the copies. Without it later copies get other pseudonyms.

Source: HMAC, RFC 2104. UIDs under 2.25 are UUIDs in decimal: DICOM PS3.5 annex B.2.
"""

import hashlib
import hmac
import os
import stat
import uuid
from pathlib import Path

from client.own_secrets import make_once
from common.errors import ConfigError, StorageError

SALT_BYTES = 32


def pseudonym(salt: bytes, patient_id: str) -> str:
    """32 hexadecimal digits for a patient id; white space around the id does not count, as in DICOM."""
    return _digest(salt, "patient", patient_id.strip())[:16].hex()


def uid_pseudonym(salt: bytes, uid: str) -> str:
    """A valid UID for a UID, the same for the same: 2.25 and at most 39 digits."""
    return f"2.25.{uuid.UUID(bytes=_digest(salt, 'uid', uid.strip())[:16], version=4).int}"


def salt_fingerprint(salt: bytes) -> str:
    """16 hexadecimal digits by which two salts are told apart; they say nothing of the salt."""
    return _digest(salt, "fingerprint", "")[:8].hex()


def default_salt_path() -> Path:
    """Where the salt of this user is kept if no other place is named."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "consilium" / "pseudonyms.salt"


def load_salt(path: Path) -> bytes:
    """The salt in a file, which is made if it is not there.

    Raises:
        ConfigError: it is too short, or others than its owner may read it.
        StorageError: it can be neither read nor made.
    """
    try:
        if not path.exists():
            make_once(path, SALT_BYTES)
        mode = stat.S_IMODE(path.stat().st_mode)
        salt = path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"{path}, the salt of the pseudonyms, can be neither read nor made: {error.strerror}; name another file with --salt"
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"{path}, the salt of the pseudonyms, has mode {mode:04o}: others may read it. Expected 0600; chmod 600 it, and "
            "if others had access to it, count its pseudonyms as opened"
        )
    if len(salt) != SALT_BYTES:
        raise ConfigError(
            f"{path}, the salt of the pseudonyms, has {len(salt)} bytes, expected {SALT_BYTES}; name a file that this command "
            "made, or one that is not there yet"
        )
    return salt


def _digest(salt: bytes, kind: str, text: str) -> bytes:
    """The kind keeps a patient id and a UID of the same letters apart."""
    return hmac.new(salt, f"{kind}\0{text}".encode(), hashlib.sha256).digest()
