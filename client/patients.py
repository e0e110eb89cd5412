"""Whose an image is, and of what kind, by its DICOM header. A patient's id never leaves these functions but as a keyed hash.

The key is the hospital's own, so the same patient has the same id in all studies of the hospital, and nobody else can tell
whose it is by trying ids.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from client.images import READERS, open_dicom, suffix_of
from common.errors import DataError

KEY_FILE = "patients.key"
_KEY_BYTES = 32


def patient_key(folder: Path) -> bytes:
    """The hospital's key for patients' ids, in a file of `folder`; made when it is first asked for, for its owner only.

    Raises:
        DataError: the file is not one of ours, or cannot be made.
    """
    path = folder / KEY_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_once(path)
        key = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the key by which patients' ids are hashed cannot be had: {error.strerror}") from error
    if len(key) != _KEY_BYTES:
        raise DataError(
            f"{path}: expected a key of {_KEY_BYTES} bytes, got {len(key)}; restore it from a copy, or remove it and a new one "
            "is made, with which patients fall into other parts than before"
        )
    return key


def _make_once(path: Path) -> None:
    """A new key, unless there is one. Of two processes that make one at once, the first one's stays."""
    if path.exists():
        return
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return
    finally:
        unfinished.unlink(missing_ok=True)


def hashed(patient_id: str, key: bytes) -> str:
    """HMAC-SHA256 of a patient's id as 32 hex digits; spaces around the id are padding (PS3.5 section 6.2)."""
    return hmac.new(key, patient_id.strip(" \0").encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:32]


def patient_of(path: Path, key_folder: Path) -> str | None:
    """The hashed Patient ID (0010,0020) of a DICOM file or series; None where there is none.

    Raises:
        DataError: the file is DICOM and cannot be read, or as `patient_key`.
    """
    file = _dicom_file(path)
    if file is None:
        return None
    from client.dicom_header import read_header, refusing

    header = read_header(file, "PatientID")
    with refusing(file):
        found = str(header.get("PatientID") or "").strip(" \0")
    return hashed(found, patient_key(key_folder)) if found else None


def modality_of(path: Path) -> str | None:
    """Modality (0008,0060) of a DICOM file or series as written there; None where there is none, or for another format.

    Raises:
        DataError: the file is DICOM and cannot be read.
    """
    file = _dicom_file(path)
    if file is None:
        return None
    from client.dicom_header import read_header, refusing

    header = read_header(file, "Modality")
    with refusing(file):
        return str(header.get("Modality") or "") or None


def _dicom_file(path: Path) -> Path | None:
    """The file itself, or the first of a series; None where it is no DICOM file."""
    suffix = suffix_of(path)
    if READERS.get(suffix, open_dicom) is not open_dicom:
        return None
    from client.dicom_header import has_magic
    from client.dicom_series import series_files

    if path.is_dir():
        return next(iter(series_files(path)), None)
    return path if has_magic(path) else None
