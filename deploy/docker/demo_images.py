#!/usr/bin/env python3
"""demo_images.py FOLDER SEED: synthetic X-rays for the hospitals whose folders are in FOLDER, as each one's own data."""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from client.phantom import make_phantoms

if __name__ == "__main__":
    folders = {path.name: path for path in Path(sys.argv[1]).iterdir()}
    with TemporaryDirectory() as made_in:
        made = make_phantoms(Path(made_in), hospitals=len(folders), seed=int(sys.argv[2]))
        for name, folder in folders.items():
            shutil.copytree(made[name], folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    print(f"synthetic X-rays for {', '.join(sorted(folders))}")
