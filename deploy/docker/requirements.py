"""requirements.py FOLDER: what pyproject.toml asks for, one requirements file per image.

An image's layer of dependencies is then built again only when they change, and not with every change of the code.
"""

import re
import sys
import tomllib
from pathlib import Path

EXTRAS = {"courier": [], "coordinator": ["coordinator"], "agent": ["hospital", "dp"]}

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(extra: str) -> list[str]:
    """What an extra asks for, with what the extras that it names ask for in their place."""
    names: list[str] = []
    for name in project["optional-dependencies"][extra]:
        inner = re.fullmatch(r"consilium\[(\w+)\]", name)
        names += requirements(inner[1]) if inner else [name]
    return names


for image, extras in EXTRAS.items():
    names = [name for extra in extras for name in requirements(extra)] if extras else project["dependencies"]
    (folder / f"{image}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
