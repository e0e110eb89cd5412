"""Which folders are the hospitals of a simulation."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from client.records import MANIFEST, is_series
from common.config_file import unknown
from common.errors import ConfigError, DataError


def find_hospitals(folders: Iterable[Path], include: Sequence[str] = ()) -> dict[str, Path]:
    """Hospitals by name, sorted.

    Each folder is one hospital (it has a manifest.csv, or one sub-folder of images per class) or holds one sub-folder per
    hospital. `include` takes only these names.

    Raises:
        DataError: a folder is missing or holds no hospital.
        ConfigError: two hospitals have one name, or a name in `include` is not there.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}; give a hospital's folder, or one that holds a folder per hospital"
            )
        inside = [folder] if _is_hospital(folder) else sorted(path for path in _folders(folder) if _is_hospital(path))
        if not inside:
            raise DataError(
                f"{folder} holds no hospital: expected {MANIFEST}, sub-folders of images per class, or one sub-folder per "
                "hospital with either"
            )
        for path in inside:
            name = _name(path)
            if name in found:
                raise ConfigError(
                    f"two hospitals are named '{name}': {found[name]} and {path}; rename one of the folders"
                )
            found[name] = path
    for name in include:
        if name not in found:
            raise ConfigError(unknown("hospital", name, sorted(found)))
    return {name: found[name] for name in sorted(found) if not include or name in include}


def first_hospitals(hospitals: dict[str, Path], number: int | None) -> dict[str, Path]:
    """The first `number` of them; all if it is None.

    Raises:
        ConfigError: there are fewer.
    """
    if number is None:
        return hospitals
    if number > len(hospitals):
        raise ConfigError(
            f"--num-hospitals {number}: only {len(hospitals)} hospitals are there; make more with --partition or --phantoms"
        )
    return dict(list(hospitals.items())[:number])


def _is_hospital(folder: Path) -> bool:
    """A manifest, or class folders: sub-folders that hold files and no further folders, unless each of these is a series."""
    if (folder / MANIFEST).is_file():
        return True
    inside = _folders(folder)
    return bool(inside) and all(
        not (path / MANIFEST).exists() and all(is_series(deeper) for deeper in _folders(path)) for path in inside
    )


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _name(folder: Path) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in folder.resolve().name.lower())
    return kept.strip("-_")[:63] or "hospital"
