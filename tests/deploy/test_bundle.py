import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy.bundle import toml, write_app

CONFIG: dict[str, str | bool] = {"job": "", "out": "", "engine": "deployment", "resume": False}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_hospitals_get_the_courier_and_nothing_that_opens_an_image(tmp_path: Path) -> None:
    write_app(tmp_path / "app", CONFIG, courier_only=True)
    files = contents(tmp_path / "app")
    client = {name for name in files if name.startswith("client/")}
    assert {"client/__init__.py", "client/app.py", "client/courier.py"} <= client
    assert {name.split("/")[1] for name in client} == {"__init__.py", "app.py", "courier.py", "proto"}
    assert {name.split("/")[0] for name in files} == {"client", "common", "server", "pyproject.toml"}
    assert all(name.endswith(".py") for name in files if name != "pyproject.toml")
    for name, content in files.items():
        assert b"import torch" not in content, name
        assert b"PRIVATE KEY-----" not in content, name
        assert "web" not in name.split("/"), name


def test_simulated_hospitals_get_everything(tmp_path: Path) -> None:
    write_app(tmp_path / "app", CONFIG, courier_only=False)
    assert {"client/hospital.py", "client/simulated.py"} <= set(contents(tmp_path / "app"))


def test_the_same_app_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_app(tmp_path / name, CONFIG, courier_only=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_its_config_is_what_may_be_overridden(tmp_path: Path) -> None:
    write_app(tmp_path / "app", CONFIG, courier_only=True)
    app = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["config"] == CONFIG
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}


def test_values_are_quoted() -> None:
    text = toml({"out": 'a "quoted" \\ path é', "resume": True})
    assert tomllib.loads(text) == {"out": 'a "quoted" \\ path é', "resume": True}


@pytest.mark.parametrize("module", ["client.app", "server.app"])
def test_the_bundle_is_complete(tmp_path: Path, module: str) -> None:
    write_app(tmp_path / "app", CONFIG, courier_only=True)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'app')!r}); import {module}; "
        "print(sorted(name for name in ('torch', 'torchvision', 'pydicom') if name in sys.modules)); "
        "print({m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('client', 'common', 'server')})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded, places = done.stdout.splitlines()
    assert loaded == "[]"
    assert places.count("'") // 2 == places.count(str(tmp_path / "app"))
