#!/usr/bin/env python3
"""demo_images.py FOLDER SEED: synthetic X-rays for the hospitals whose folders are in FOLDER, as each one's own data."""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from client.phantom import make_phantoms


def main(folder: Path, seed: int) -> None:
    """Make what is missing."""
    hospitals = sorted(folder.iterdir())
    if all((hospital / "manifest.csv").exists() for hospital in hospitals):
        return
    with TemporaryDirectory() as made_in:
        made = make_phantoms(Path(made_in), hospitals=len(hospitals), seed=seed)
        for hospital in hospitals:
            shutil.copytree(made[hospital.name], hospital, dirs_exist_ok=True, copy_function=shutil.copyfile)
    print(f"synthetic X-rays for {', '.join(hospital.name for hospital in hospitals)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
