"""Whose an image is, and of what kind, by its DICOM header. A patient's id never leaves these functions but as a keyed hash.

The key is the hospital's own, so the same patient has the same id in all studies of the hospital, and nobody else can tell
whose it is by trying ids.
"""

from pathlib import Path

from client.images import READERS, open_dicom, suffix_of
from client.pseudonyms import load_salt, pseudonym

SALT_FILE = "patients.key"
"""In a folder of the hospital's own. Another salt gives other ids, with which patients fall into other parts than before."""


def patient_of(path: Path, key_folder: Path) -> str | None:
    """The hashed Patient ID (0010,0020) of a DICOM file or series; None where there is none.

    Raises:
        DataError: the file is DICOM and cannot be read.
        ConfigError, StorageError: as `client.pseudonyms.load_salt`.
    """
    file = _dicom_file(path)
    if file is None:
        return None
    from client.dicom_header import read_header, refusing

    header = read_header(file, "PatientID")
    with refusing(file):
        found = str(header.get("PatientID") or "").strip(" \0")
    return pseudonym(load_salt(key_folder / SALT_FILE), found) if found else None


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
