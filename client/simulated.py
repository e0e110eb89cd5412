"""Which hospital a node of Flower's simulation runtime is: node k of K plays the k-th hospital of the run config.

    hospitals = "/path/hospitals.json"      {"name": "folder", ...}, in order
    hospitals = ""                          every node makes itself a folder of phantom X-rays

Only simulations read the run config for this: in a deployment the coordinator must not choose what a hospital opens.
"""

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from client.feature_cache import default_cache_dir
from client.phantom import make_phantoms
from common.errors import ConfigError


def node_settings(node: Mapping[str, str], run: Mapping[str, str]) -> dict[str, str]:
    """The node config that this node would have in a deployment.

    Raises:
        ConfigError: there are more nodes than hospitals, or the file cannot be read.
    """
    number, count = int(node["partition-id"]), int(node["num-partitions"])
    given = run.get("hospitals", "")
    folders = _read(Path(given)) if given else _phantoms(count)
    if number >= len(folders):
        raise ConfigError(f"{count} nodes for {len(folders)} hospitals; set num-supernodes to {len(folders)}")
    name, folder = list(folders.items())[number]
    settings = {"hospital-dir": folder, "hospital-name": name, "announce": "yes"}
    for key in ("cache-dir", "weights-dir", "device"):
        if run.get(key):
            settings[key] = run[key]
    return settings


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the hospitals of this simulation from {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of hospital names to folders, got {type(content).__name__}")
    return {str(name): str(folder) for name, folder in content.items()}


def _phantoms(count: int) -> dict[str, str]:
    folder = default_cache_dir() / f"phantoms-{count}"
    if not folder.exists():
        # Several nodes come here at once: each makes its own, and the first to finish moves them into place whole.
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="phantoms-unfinished-") as unfinished:
            make_phantoms(Path(unfinished) / "made", hospitals=count)
            with contextlib.suppress(OSError):
                (Path(unfinished) / "made").replace(folder)
    return {name: str(path) for name, path in make_phantoms(folder, hospitals=count).items()}
