"""requirements.py FOLDER: what pyproject.toml asks for, one requirements file per image.

An image's layer of dependencies is then built again only when they change, and not with every change of the code.
"""

import sys
import tomllib
from pathlib import Path

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for image, names in {
    "courier": project["dependencies"],
    "coordinator": project["optional-dependencies"]["coordinator"],
    "agent": project["optional-dependencies"]["hospital"],
}.items():
    (folder / f"{image}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
