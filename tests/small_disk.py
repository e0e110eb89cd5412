"""A disk that fills up, for tests."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
UNSHARE = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]


def on_a_small_disk(folder: Path, size_kb: int, code: str) -> subprocess.CompletedProcess:
    """Run Python with a disk of its own of so many kB at `folder`, in a mount namespace that ends with it."""
    folder.mkdir()
    mount = [*UNSHARE, "sh", "-c", f'mount -t tmpfs -o size={size_kb}k tmpfs "{folder}" && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a disk cannot be mounted here: needs root or user namespaces")
    code = f"folder = {str(folder)!r}\n{textwrap.dedent(code)}"
    return subprocess.run(
        [*mount, sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT
    )
