"""The app that `flwr run` ships to every node.

Real hospitals get the courier and what it needs, and no more: they answer with the code they installed themselves. What a
simulated hospital runs is not among it. The same version of Consilium makes the same bytes, so a hospital that writes down the
bundle's hash sees when the coordinator ships something else.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
COURIER = ("__init__.py", "app.py", "courier.py", "proto")
"""Of client/, what a courier needs."""
_PAGES = "web"
"""Of no package: pages are for the people who installed them."""

Config = Mapping[str, str | bool]
_HEAD = """[project]
name = "consilium"
version = "{version}"
description = "Consilium: coordinator and courier"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "consilium"
fab-include = ["**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
"""


def write_app(folder: Path, config: Config, courier_only: bool) -> None:
    """Write the app into the new folder `folder`; `config` are the defaults of its run config."""
    for package in ("common", "server"):
        _copy(PROJECT / package, folder / package)
    if courier_only:
        for name in COURIER:
            _copy(PROJECT / "client" / name, folder / "client" / name)
    else:
        _copy(PROJECT / "client", folder / "client")
    text = _HEAD.format(version=importlib.metadata.version("consilium")) + toml(config)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def toml(config: Config) -> str:
    """Keys and values as lines of TOML; JSON's strings and booleans are TOML's."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
        return
    for path in sorted(source.rglob("*.py")):
        if not {"__pycache__", _PAGES} & {*path.relative_to(source).parts}:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
