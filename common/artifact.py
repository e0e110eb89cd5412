"""The trained model as one file: a safetensors file with the head and a manifest that says exactly what it is.

A digest over head and manifest comes with them, so that a changed byte is found and never diagnosed with.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import Field

from common.config_file import Section, parse
from common.errors import ArtifactError, ConfigError
from common.job import Job
from common.model import TUNED, Model, digest_of_arrays
from common.operating_point import OperatingPoint
from common.packed import AnyArray
from common.unlike import UNLIKE, Spread, UnlikeLimit, pack_spread

FORMAT: Literal["consilium-model-2"] = "consilium-model-2"
_AXES = f"{UNLIKE}axes"


class Calibration(Section):
    """The temperature by which the logits were divided, fitted on validation counts; it is in the head already.

    images: validation images it was fitted on. ece_before, ece: their expected calibration error without it and with
    it. None where the closed form chose it among its candidates' counts and nothing was asked again.
    """

    temperature: float = Field(gt=0.0)
    images: int | None = None
    ece_before: float | None = None
    ece: float | None = None


class Manifest(Section):
    """What a model file says about itself. `fingerprint` names the feature space the head reads.

    calibration, operating_point, unlike: None where the model has none; `missing` says why, by name. A file of an earlier version
    has none of them and no reason.
    """

    format: Literal["consilium-model-2"] = FORMAT
    job: Job
    job_id: str
    fingerprint: str
    backbone_digest: str
    rounds: int = Field(ge=0)
    hospitals: int = Field(ge=1)
    metrics: dict[str, Any]
    versions: dict[str, str]
    calibration: Calibration | None = None
    operating_point: OperatingPoint | None = None
    unlike: UnlikeLimit | None = None
    missing: dict[str, str] = Field(default_factory=dict)

    def why_missing(self, name: str) -> str:
        """Why the model has no calibration, operating_point or unlike."""
        return self.missing.get(name, "the model was made by a version of Consilium that did not write it")


@dataclass(frozen=True)
class Artifact:
    """A model file. spread: of the training images' features, None if the file has it not."""

    model: Model
    manifest: Manifest
    spread: Spread | None = None


def save_model(path: Path, model: Model, manifest: Manifest, spread: Spread | None = None) -> None:
    """Write the model file, all or nothing. The head (weight (C, D), bias (C,)) reads raw features."""
    arrays: dict[str, AnyArray] = {
        name: np.ascontiguousarray(array, dtype=np.float32) for name, array in model.arrays().items()
    }
    if spread is not None:
        arrays |= {name: np.ascontiguousarray(array) for name, array in pack_spread(spread).items()}
    text = manifest.model_dump_json(by_alias=True)
    write_atomically(
        path, safetensors.numpy.save(arrays, metadata={"consilium": text, "sha256": _digest(text, arrays)})
    )


def load_model(path: Path) -> tuple[Model, Manifest]:
    """The model and the manifest of a model file; as `load_artifact`."""
    found = load_artifact(path)
    return found.model, found.manifest


def load_artifact(path: Path) -> Artifact:
    """What a model file holds.

    Raises:
        ArtifactError: the file is missing, damaged, of another kind, or contradicts itself.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  not a mapping
            head = {name for name in types if not name.startswith((TUNED, UNLIKE))}
            right = all(kind == ("F16" if name == _AXES else "F32") for name, kind in types.items())
            ours = "consilium" in metadata and head == {"weight", "bias"} and right
            arrays = {name: file.get_tensor(name) for name in types} if ours else {}
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"cannot read {path} as a model file: {error}") from error
    if not ours:
        raise ArtifactError(
            f"{path} is a safetensors file, but not a Consilium model; expected model.safetensors of a run"
        )
    text = metadata["consilium"]
    if metadata.get("sha256") != _digest(text, arrays):
        raise ArtifactError(f"{path}: head and manifest do not match their digest; the file is damaged, copy it again")
    try:
        manifest = parse(Manifest, json.loads(text), f"{path}, manifest")
    except (ConfigError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: its manifest cannot be read by this version: {error}") from error
    model = Model.from_arrays(arrays)
    job, weight, bias = manifest.job, model.head.weight, model.head.bias
    if job.job_id != manifest.job_id:
        raise ArtifactError(f"{path}: job_id does not belong to the job in the manifest; the file was changed")
    expected = (job.num_classes, job.num_features)
    if weight.shape != expected or bias.shape != expected[:1]:
        raise ArtifactError(
            f"{path}: expected weight {expected} and bias {expected[:1]}, got {weight.shape} and {bias.shape}"
        )
    return Artifact(model, manifest, _spread(path, arrays, job.num_features))


def _spread(path: Path, arrays: Mapping[str, AnyArray], features: int) -> Spread | None:
    found = {name.removeprefix(UNLIKE): array for name, array in arrays.items() if name.startswith(UNLIKE)}
    if not found:
        return None
    directions = len(found["axes"]) if "axes" in found and found["axes"].ndim == 2 else 0
    expected = {
        "mean": (features,),
        "scale": (features,),
        "axes": (directions, features),
        "variances": (directions + 1,),
    }
    if {name: array.shape for name, array in found.items()} != expected:
        raise ArtifactError(
            f"{path}: expected arrays of the training images' spread {expected}, got "
            f"{ {name: array.shape for name, array in sorted(found.items())} }; the file was changed"
        )
    return Spread.from_arrays(found)


def _digest(text: str, arrays: Mapping[str, AnyArray]) -> str:
    """sha256 over the manifest's text and the arrays, 64 hex digits."""
    parts = (
        text.encode(),
        digest_of_arrays({name: array.astype(np.float32) for name, array in arrays.items()}).encode(),
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def write_atomically(path: Path, data: bytes | str, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it, also after a crash.

    durable: False saves the wait for the disk, for a file that is written anew all the time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode() if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
