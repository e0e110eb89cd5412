"""consilium export: what it asks for, and what it says where something is missing."""

import importlib.util
from pathlib import Path

import pytest

from cli.export import export
from common.errors import ArtifactError, ConfigError


def test_nothing_asked_for_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"give --onnx FILE, --card or --tensorboard DIR"):
        export(tmp_path)


@pytest.mark.parametrize("lacking", ["onnxscript", "onnxruntime", "torch"])
def test_a_missing_library_is_named_with_the_command(lacking, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else found(name))
    with pytest.raises(ConfigError, match=rf"--onnx needs {lacking}, .*pip install 'consilium\[hospital,export\]'"):
        export(tmp_path, onnx=tmp_path / "model.onnx")


def test_a_card_needs_a_run(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"--card needs the run directory"):
        export(tmp_path / "model.safetensors", card=True)
    with pytest.raises(ConfigError, match=r"--tensorboard needs the run directory"):
        export(tmp_path, tensorboard=Path("events"))


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_text("no model")
    with pytest.raises(ArtifactError, match="cannot read"):
        export(tmp_path, onnx=tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
