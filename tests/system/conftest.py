"""The federation that the system tests share."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.system.deployed import HOSPITALS, Deployment


@pytest.fixture(scope="session")
def system_phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from client.phantom import make_phantoms

    return make_phantoms(tmp_path_factory.mktemp("phantoms"), hospitals=len(HOSPITALS), images=60, size_px=64)


@pytest.fixture(scope="session")
def deployment(system_phantoms: dict[str, Path]) -> Any:
    """Three hospitals joined with a coordinator. Its folder has a short name: sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="fed-"))
    made = Deployment(folder, system_phantoms)
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)
