"""Model files: round trip, damage, and all-or-nothing writing."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from common.artifact import FORMAT, Manifest, load_model, save_model, write_atomically
from common.errors import ArtifactError
from common.head import Head
from common.job import parse_job
from common.model import Model

JOB = parse_job(
    {
        "name": "demo",
        "classes": ["a", "b"],
        "backbone": {"name": "mobilenet_v2", "weights": "random"},
        "features": {"stages": ["features.3"], "pool": ["mean"]},
        "method": "fedprox",
    }
)
HEAD = Head(
    np.array([[1, 2, 3] * 8, [-1, 0.5, 1e30] * 8], np.float32),
    np.array([0.25, -7], np.float32),
)
TUNED = {
    "features.18.0.weight": np.arange(6, dtype=np.float32).reshape(3, 1, 2),
    "features.18.1.bias": np.ones(3, np.float32),
}
MODEL = Model(HEAD, TUNED)


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "job": JOB,
        "job_id": JOB.job_id,
        "fingerprint": "f" * 64,
        "backbone_digest": "d" * 64,
        "rounds": 3,
        "hospitals": 2,
        "metrics": {"auroc": 0.9, "by_hospital": {"a": {"auroc": None}}},
        "versions": {"consilium": "0.1.0"},
    }
    return Manifest(**{**values, **changes})


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, MODEL, manifest())
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def refused(path: Path, content: bytes | None = None) -> str:
    """The message about a file, of this content if it is given."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def forged(path: Path, head: Head, **changes: Any) -> str:
    """The message about a file that was written in good order, but says `changes`."""
    save_model(path, Model(head), manifest(**changes))
    return refused(path, path.read_bytes())


def test_a_model_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "run" / "model.safetensors"
    save_model(path, MODEL, manifest())
    model, found = load_model(path)
    assert list(model.arrays()) == list(MODEL.arrays())
    for name, array in MODEL.arrays().items():
        assert np.array_equal(model.arrays()[name], array)
        assert model.arrays()[name].dtype == np.float32
    assert found == manifest()
    assert found.job.job_id == JOB.job_id
    assert found.format == FORMAT


def test_a_head_in_another_memory_layout_round_trips(tmp_path: Path) -> None:
    turned = Head(np.asfortranarray(HEAD.weight), HEAD.bias[::-1][::-1])
    save_model(tmp_path / "m", Model(turned, {"w": np.asfortranarray(TUNED["features.18.0.weight"])}), manifest())
    found = load_model(tmp_path / "m")[0]
    assert np.array_equal(found.head.weight, HEAD.weight)
    assert np.array_equal(found.tuned["w"], TUNED["features.18.0.weight"])


def test_a_model_without_tuned_arrays_round_trips(tmp_path: Path) -> None:
    save_model(tmp_path / "m", Model(HEAD), manifest())
    assert load_model(tmp_path / "m")[0].tuned == {}


def test_any_length_but_the_whole_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m"
    for length in [*range(0, 16), *range(16, len(content), 97), len(content) - 1]:
        assert refused(path, content[:length])
    assert refused(path, content + b"\0")


def test_any_changed_byte_is_found(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            for written in (byte ^ 1, byte ^ 1 << 5):
                file.seek(position)
                file.write(bytes([written]))
                assert refused(path)
            file.seek(position)
            file.write(bytes([byte]))
    assert load_model(path)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    assert refused(tmp_path_factory.getbasetemp() / "noise.safetensors", noise)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ArtifactError, match="cannot read"):
            load_model(path)


@pytest.mark.parametrize(
    ("arrays", "metadata"),
    [
        ({"weight": HEAD.weight, "bias": HEAD.bias}, None),
        ({"weight": HEAD.weight, "bias": HEAD.bias}, {"format": "pt"}),
        ({"weight": HEAD.weight}, {"consilium": "{}"}),
        ({"weight": HEAD.weight, "bias": HEAD.bias, "more": HEAD.bias}, {"consilium": "{}"}),
        ({"weight": HEAD.weight, "bias": HEAD.bias, "tuned.a": HEAD.bias.astype(np.float64)}, {"consilium": "{}"}),
        ({"weight": HEAD.weight.astype(np.float64), "bias": HEAD.bias}, {"consilium": "{}"}),
        ({}, None),
    ],
)
def test_other_safetensors_files_are_refused(tmp_path: Path, arrays: Any, metadata: Any) -> None:
    found = refused(tmp_path / "m", safetensors.numpy.save(arrays, metadata))
    assert "is a safetensors file, but not a Consilium model" in found


def test_numbers_that_numpy_does_not_have_are_refused(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {"consilium": "{}"},
            "weight": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
            "bias": {"dtype": "BF16", "shape": [1], "data_offsets": [2, 4]},
        }
    ).encode()
    assert "not a Consilium model" in refused(tmp_path / "m", len(header).to_bytes(8, "little") + header + b"\0" * 4)


def test_a_head_without_its_digest_is_refused(tmp_path: Path) -> None:
    arrays = {"weight": HEAD.weight, "bias": HEAD.bias}
    data = safetensors.numpy.save(arrays, {"consilium": manifest().model_dump_json()})
    assert "do not match their digest" in refused(tmp_path / "m", data)


def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    other = parse_job({**json.loads(JOB.canonical_json()), "seed": 1})
    path = tmp_path / "m"
    assert "job_id does not belong to the job" in forged(path, HEAD, job_id=other.job_id)
    assert "job_id does not belong to the job" in forged(path, HEAD, job=other)
    three = Head.zeros(3, 24)
    assert "expected weight (2, 24) and bias (2,), got (3, 24) and (3,)" in forged(path, three)
    assert "expected weight (2, 24) and bias (2,), got (2, 25) and (2,)" in forged(path, Head.zeros(2, 25))
    assert "expected weight (2, 24)" in forged(path, Head(HEAD.bias, HEAD.bias))
    assert "expected weight (2, 24)" in forged(path, Head(HEAD.weight, HEAD.weight))


def test_a_manifest_of_another_version_says_what_is_wrong(tmp_path: Path) -> None:
    other = manifest().model_copy(update={"format": "consilium-model-1"})
    save_model(tmp_path / "m", MODEL, other)
    found = refused(tmp_path / "m", (tmp_path / "m").read_bytes())
    assert "its manifest cannot be read by this version" in found
    assert "format: input should be 'consilium-model-2', got 'consilium-model-1'" in found


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, "long old content")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    write_atomically(path, "Ödem")
    assert path.read_text(encoding="utf-8") == "Ödem"
    assert names(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "step", "failure"),
    [(os, "fsync", full), (os, "fsync", interrupted), (Path, "chmod", full), (Path, "replace", full)],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, failure: Any
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, failure)
        with pytest.raises((OSError, KeyboardInterrupt)):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_is_full_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    open_handle = os.fdopen

    class Full:
        def __init__(self, handle: int, mode: str) -> None:
            self.file = open_handle(handle, mode)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:2])
            full()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", Full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]
