"""The vocabulary knows no image library, no network and no Flower; one module translates it for Flower."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import common

NEVER = {"torch", "torchvision", "PIL", "pydicom", "ray", "server", "client", "simulation", "cli"}
NETWORK = {"flwr", "grpc"}
TRANSLATOR = "common.flower_records"
PROGRAM = """
import importlib, json, sys
def loaded(names):
    for name in names:
        importlib.import_module(name)
    return sorted({name.split(".")[0] for name in sys.modules})
*vocabulary, translator = sys.argv[1:]
print(json.dumps([loaded(vocabulary), loaded([translator])]))
"""


def test_importing_common_pulls_in_nothing_heavy() -> None:
    vocabulary = {f"common.{module.name}" for module in pkgutil.iter_modules(common.__path__)} - {TRANSLATOR}
    assert {"common.job", "common.wire", "common.artifact"} <= vocabulary
    command = [sys.executable, "-c", PROGRAM, *sorted(vocabulary), TRANSLATOR]
    root = Path(common.__path__[0]).parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    of_vocabulary, of_all = map(set, json.loads(done.stdout))
    assert {"common", "numpy", "pydantic", "safetensors", "yaml"} <= of_vocabulary
    assert not of_vocabulary & (NEVER | NETWORK)
    assert not of_all & NEVER
