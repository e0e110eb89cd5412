"""The model as one ONNX file that diagnoses as `client/diagnosis.py` does: backbone, views, head, temperature, softmax.

    pixels (N, 3, S, S) float32 in [0, 1] -> ImageNet normalisation -> backbone, with what the job tunes of it
      -> features of the job's stages, mean of the image's and its mirror image's -> head -> probabilities (N, C) float32

Everything after the division by 255 is inside the file; what comes before it is described in `preprocessing`, and nowhere is
anything of a patient. Head and softmax are float64 as in the diagnosis: a folded standardisation has weights of very unlike
size. The file is only kept if onnxruntime gives the probabilities of the diagnosis.

Letters: N images, D features, C classes, S side in pixels.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.backbone import Backbone
from client.chains import IMAGENET_MEAN, IMAGENET_STD
from client.diagnosis import Diagnostician
from client.extractor import Pixels
from client.images import load_pictures, to_input
from client.progress import progress
from client.slices import reading_of
from common.artifact import Manifest, write_atomically
from common.errors import ArtifactError, ConfigError
from common.head import Head
from common.telemetry import OFF

FORMAT = "consilium-onnx-1"
TOLERANCE = 1e-5
"""The largest difference of a probability from the diagnosis with which a file is kept."""

INPUT, OUTPUT = "images", "probabilities"
_IN_A_BATCH = 8
"""Images that onnxruntime is given at once in the check; another number than the export saw, since the batch is free."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parity:
    """How the file was checked: how many random and given images, and the largest difference of a probability."""

    random_images: int
    given_images: int
    largest_difference: float
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Exported:
    """file: the ONNX file. description: what it is, the JSON beside it. parity: how it was checked."""

    file: Path
    description: Path
    parity: Parity


class _Diagnosis(nn.Module):
    """What the file computes: images (N, 3, S, S) float32 in [0, 1] to probabilities (N, C) float32."""

    def __init__(self, backbone: Backbone, head: Head, manifest: Manifest) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks = manifest.job.feature_blocks
        self.mirror = manifest.job.features.mirror
        self.scaled = manifest.job.private
        self.register_buffer("weight", torch.from_numpy(head.weight.T.astype(np.float64)))
        self.register_buffer("bias", torch.from_numpy(head.bias.astype(np.float64)))

    def forward(self, images: Tensor) -> Tensor:
        """As `Diagnostician.probabilities`."""
        features = self.backbone.features(images, self.blocks)
        if self.mirror:
            features = (features + self.backbone.features(images.flip(3), self.blocks)) / 2
        if self.scaled:
            features = self._stage_normalised(features)
        logits = features.double() @ self.get_buffer("weight") + self.get_buffer("bias")
        return torch.softmax(logits, 1).float()

    def _stage_normalised(self, features: Tensor) -> Tensor:
        """As `common.dp.private_features.stage_normalised`, which the head of a private job was trained on."""
        stages = [features[:, block.start : block.stop].double() for block in self.blocks]
        norms = [(one * one).sum(1, keepdim=True).sqrt().clamp_min(1e-30) for one in stages]
        scaled = [one / norm / len(stages) ** 0.5 for one, norm in zip(stages, norms, strict=True)]
        return torch.cat(scaled, 1).float()


def export_onnx(
    diagnostician: Diagnostician, file: Path, images: Sequence[Path] = (), random_images: int = 16, seed: int = 0
) -> Exported:
    """Write the model of a diagnostician on the CPU as an ONNX file, all or nothing, with FILE.json beside it.

    images: are diagnosed both ways, besides so many random ones.

    Raises:
        ArtifactError: onnxruntime gives other probabilities than the diagnosis; no file is left.
        ConfigError: `file` has not the suffix .onnx, or there is no image to check with.
        DataError: a given image cannot be read.
    """
    if file.suffix.lower() != ".onnx":
        raise ConfigError(f"--onnx: expected a file name that ends in .onnx, got {file.name}")
    if not images and random_images < 1:
        raise ConfigError("the check needs an image: raise --random-images to 1 or more, or give --image")
    about = describe(diagnostician.manifest)
    job = diagnostician.manifest.job
    given = [
        to_input(picture, job.size_px, job.image.fit)
        for path in images
        for picture in load_pictures(path, reading_of(job))
    ]
    drawn = list(_random_pixels(np.random.default_rng(seed), random_images, about["input"]["shape"][2]))
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}.", suffix=".onnx")
    os.close(handle)
    temporary = Path(name)
    try:
        _write(diagnostician, temporary, about)
        parity = Parity(len(drawn), len(given), _largest_difference(diagnostician, temporary, [*drawn, *given]))
        # Not `>`: a difference that is no number is no parity.
        if not parity.largest_difference <= TOLERANCE:
            raise ArtifactError(
                f"{file}: onnxruntime differs from the diagnosis by {parity.largest_difference:.1e} in a probability; expected "
                f"at most {TOLERANCE:g} on {len(drawn) + len(given)} images; nothing was written. Use the versions of torch, "
                "onnx and onnxruntime that this version was tested with; a head with very large weights shows the float32 "
                "rounding of the network, and then a greater ridge or fewer stages help"
            )
        temporary.chmod(0o644)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    description = file.with_name(f"{file.name}.json")
    write_atomically(description, json.dumps({**about, "parity": asdict(parity)}, indent=1))
    return Exported(file, description, parity)


def describe(manifest: Manifest) -> dict[str, Any]:
    """What the file is and what it must be given, as plain JSON; it is in the file's metadata as well."""
    job = manifest.job
    return {
        "format": FORMAT,
        "job": job.name,
        "job_id": manifest.job_id,
        "classes": list(job.classes),
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "shape": ["N", 3, job.size_px, job.size_px],
            "range": [0.0, 1.0],
            "channels": ["red", "green", "blue"],
        },
        "preprocessing": {
            "decode": "8-bit grey or RGB, EXIF orientation applied, transparency on black; deeper grey is scaled from its least "
            "and greatest value to 0 and 255; the three channels of a grey image are equal",
            "fit": job.image.fit,
            "size_px": job.size_px,
            "resample": "bilinear with antialiasing (Pillow's BILINEAR), rounded to 8 bits",
            "fits": {
                "pad": "the longer side becomes size_px, centred on black",
                "crop": "the shorter side becomes 8/7 of size_px, the centre is cut out",
                "stretch": "both sides become size_px",
            }[job.image.fit],
            "divide_by": 255.0,
            "window": job.image.window,
            "slices": job.image.slices,
            "study": "the features of several slices are averaged before the head; this file sees one picture at a time",
        },
        "inside": {
            "normalisation": {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
            "backbone": job.backbone.name,
            "tuned": job.tune.part,
            "stages": [f"{block.stage} {block.pool}" for block in job.feature_blocks],
            "mirror": job.features.mirror,
            "head": "standardisation and temperature are folded into it; float64",
        },
        "output": {"name": OUTPUT, "dtype": "float32", "shape": ["N", job.num_classes], "range": [0.0, 1.0]},
        "backbone_digest": manifest.backbone_digest,
        "fingerprint": manifest.fingerprint,
        "random_weights": job.backbone.weights.random,
        "rounds": manifest.rounds,
        "hospitals": manifest.hospitals,
        "versions": dict(manifest.versions),
        "use": "research; not for clinical use without approval",
    }


def _write(diagnostician: Diagnostician, file: Path, about: Mapping[str, Any]) -> None:
    side = about["input"]["shape"][2]
    with diagnostician.network() as backbone, torch.no_grad(), warnings.catch_warnings():
        # torch warns of its own deprecated parts, which the person who exports can do nothing about.
        warnings.simplefilter("ignore")
        network = _Diagnosis(backbone, diagnostician.model.head, diagnostician.manifest)
        program = torch.onnx.export(
            network,
            # Two, because a batch of one would be taken for a constant.
            (torch.zeros(2, 3, side, side),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            verbose=False,
        )
        if program is None:
            raise ArtifactError(f"{file}: torch.onnx.export made no program; expected one, with torch 2.5 or newer")
        program.model.producer_name = "consilium"
        program.model.metadata_props.update(
            {
                "consilium": json.dumps(about),
                "classes": json.dumps(about["classes"]),
                "preprocessing": json.dumps(about["preprocessing"]),
            }
        )
        # In here: the program refers to the arrays of the network, which get back their own afterwards.
        program.save(str(file), external_data=False)


def _random_pixels(randomness: np.random.Generator, number: int, side: int) -> Pixels:
    """Pixels (N, 3, S, S) uint8, half of them noise, half smooth, of which features are unlike those of noise."""
    noise = randomness.integers(0, 256, (number, 3, side, side), np.uint8)
    coarse = randomness.integers(0, 256, (number, 3, 4, 4), np.uint8)
    steps = np.arange(side) * 4 // side
    noise[::2] = coarse[::2][:, :, steps][:, :, :, steps]
    return noise


def quiet_runtime() -> Any:
    """The module onnxruntime, imported so that it neither keeps nor sends usage events (docs/privacy.md, Telemetry)."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
    import onnxruntime

    return onnxruntime


def _largest_difference(diagnostician: Diagnostician, file: Path, pixels: Sequence[Pixels]) -> float:
    """Of a probability, between the file and the diagnosis, over pixels (3, S, S) uint8."""
    onnxruntime = quiet_runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    with progress("images through both models", len(pixels)) as advance:
        for start in range(0, len(pixels), _IN_A_BATCH):
            batch = np.stack(pixels[start : start + _IN_A_BATCH])
            [found] = session.run([OUTPUT], {INPUT: batch.astype(np.float32) / np.float32(255.0)})
            difference = np.abs(found - diagnostician.probabilities(batch)).max()
            largest = float(np.maximum(largest, difference))  # keeps NaN, which max() may drop
            advance(len(batch))
    return largest
