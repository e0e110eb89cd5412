"""The trained model as one file: a safetensors file with the head and a manifest that says exactly what it is."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import Field

from common.config_file import Section, parse
from common.errors import ArtifactError, ConfigError
from common.head import Head
from common.job import Job

FORMAT = "consilium-model-1"


class Manifest(Section):
    """What a model file says about itself. `fingerprint` names the feature space the head reads."""

    format: Literal["consilium-model-1"] = FORMAT
    job: Job
    job_id: str
    fingerprint: str
    weights_sha256: str
    rounds: int = Field(ge=0)
    hospitals: int = Field(ge=1)
    metrics: dict[str, Any]
    versions: dict[str, str]


def save_model(path: Path, head: Head, manifest: Manifest) -> None:
    """Write the model file, all or nothing. The head (weight (C, D), bias (C,)) reads raw features."""
    data = safetensors.numpy.save(
        {"weight": np.ascontiguousarray(head.weight), "bias": np.ascontiguousarray(head.bias)},
        metadata={"consilium": manifest.model_dump_json()},
    )
    write_atomically(path, data)


def load_model(path: Path) -> tuple[Head, Manifest]:
    """The head and the manifest of a model file.

    Raises:
        ArtifactError: the file is missing, damaged, of another kind, or contradicts itself.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("consilium")
            names = set(file.keys())
            arrays = {name: file.get_tensor(name) for name in names & {"weight", "bias"}}
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"cannot read {path} as a model file: {error}") from error
    if text is None or set(arrays) != {"weight", "bias"}:
        raise ArtifactError(f"{path} is a safetensors file, but not a Consilium model; expected model.safetensors of a run")
    try:
        manifest = parse(Manifest, json.loads(text), f"{path}, manifest")
    except (ConfigError, ValueError) as error:
        raise ArtifactError(f"{path}: its manifest cannot be read by this version: {error}") from error
    head = Head(arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32))
    classes = manifest.job.num_classes
    if manifest.job.job_id != manifest.job_id:
        raise ArtifactError(f"{path}: job_id does not belong to the job in the manifest; the file was changed")
    if head.weight.ndim != 2 or head.weight.shape[0] != classes or head.bias.shape != (classes,):
        raise ArtifactError(
            f"{path}: expected weight ({classes}, D) and bias ({classes},), got {head.weight.shape} and {head.bias.shape}"
        )
    return head, manifest


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
