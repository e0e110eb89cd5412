"""The DICOM files below folders, found by what is in them and not by their names."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from client.deidentify import Reason, Refused
from client.importing_facts import FACTS_TAGS, Facts, read_facts
from client.quiet_pydicom import quiet_pydicom
from common.errors import ConfigError, DataError

# A file without preamble begins with group 0002 or 0008, little or big endian.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


@dataclass(frozen=True)
class Found:
    """One thing that may be imported.

    name: a path or an address, for the person at the keyboard. look: its facts, without the pixels. read: all of it. Both
    return a `Refused` where it is not DICOM, and raise OSError or DataError. path: where it is, if it is a file.
    """

    name: str
    look: Callable[[], Facts | Refused]
    read: Callable[[], Dataset | Refused]
    path: Path | None = None


def find_files(sources: Sequence[Path], out: Path) -> list[Found]:
    """All files of the sources, in the order of their names; hidden ones too, links to folders are not followed.

    Raises:
        ConfigError: a source is not there, or lies in the folder of the copies.
        DataError: a folder cannot be read.
    """
    target = out.resolve()
    for source in sources:
        if not source.exists():
            raise ConfigError(f"SOURCE {source} is not there; give files or folders with DICOM images")
        if source.resolve().is_relative_to(target):
            raise ConfigError(
                f"SOURCE {source} lies in --out {out}; originals and copies have to be in different folders"
            )
    paths = dict.fromkeys(path for source in sources for path in _walk(source, target))
    return [_found(path) for path in paths]


def _walk(source: Path, target: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for folder, folders, files in os.walk(source, onerror=_not_readable):
        here = Path(folder)
        # Copies may be kept below the originals; they are no originals.
        folders[:] = sorted(name for name in folders if (here / name).resolve() != target)
        yield from (here / name for name in sorted(files) if (here / name).is_file())


def _not_readable(error: OSError) -> None:
    """A folder that is left out would be missed by nobody."""
    raise DataError(
        f"cannot look into {error.filename}: {error.strerror}; make it readable, or name other sources"
    ) from error


def _found(path: Path) -> Found:
    def look() -> Facts | Refused:
        dataset = _read(path, header_only=True)
        return dataset if isinstance(dataset, Refused) else read_facts(dataset)

    return Found(str(path), look, lambda: _read(path, header_only=False), path)


def _read(path: Path, header_only: bool) -> Dataset | Refused:
    """A file as DICOM, `NOT_DICOM` if its first bytes say that it is none."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] != b"DICM" and start[:2] not in _FIRST_GROUPS:
        return Refused(Reason.NOT_DICOM)
    with quiet_pydicom():
        tags = list(FACTS_TAGS) if header_only else None
        try:
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=header_only, specific_tags=tags)
        except OSError:
            raise
        except Exception as error:  # a damaged file may raise anything here
            return Refused(Reason.UNREADABLE, type(error).__name__)
    if start[128:] != b"DICM" and "SOPInstanceUID" not in dataset:
        return Refused(Reason.NOT_DICOM)
    return dataset
