"""The ONNX file gives the probabilities of the diagnosis, or is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client import onnx_export
from client.diagnosis import Diagnostician
from client.feature_space import fingerprint_of
from client.onnx_export import TOLERANCE, export_onnx
from client.records import read_rows
from client.tuned import pretrained
from client.weights import load_backbone
from common.artifact import Manifest, save_model
from common.errors import ArtifactError, ConfigError, DataError
from common.head import Head, Standardisation
from common.model import Model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ALL_STAGES = {"stages": "all", "pool": ["mean", "max"], "mirror": True}


def model_of(job, folder, spread=0.5):
    """A model file with a folded standardisation, and tuned arrays that are not the pretrained ones."""
    backbone = load_backbone(job.backbone.name, job.backbone.weights, None)
    randomness = np.random.default_rng(1)
    size = job.num_features
    standardisation = Standardisation(
        randomness.normal(0.5, 0.1, size).astype(np.float16), randomness.uniform(0.1, 1, size).astype(np.float16)
    )
    weight = randomness.normal(0, spread / size**0.5, (job.num_classes, size)).astype(np.float32)
    head = standardisation.fold(Head(weight, np.array([0.1, -0.2], np.float32)))
    tuned = {
        name: (array + randomness.normal(0, 0.01, array.shape)).astype(np.float32)
        for name, array in (pretrained(job, backbone) if job.tune.deep else {}).items()
    }
    manifest = Manifest(
        job=job,
        job_id=job.job_id,
        fingerprint=fingerprint_of(job, backbone.digest),
        backbone_digest=backbone.digest,
        rounds=1,
        hospitals=2,
        metrics={},
        versions={"torch": "2"},
    )
    save_model(folder / "model.safetensors", Model(head, tuned), manifest)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def diagnostician(job, tmp_path_factory):
    """Tuned last blocks, features of all stages, mirrored views."""
    made = job(
        tune={"part": "last-blocks", "blocks": 2}, features=ALL_STAGES, modality="chest-xray", image={"size": 48}
    )
    return Diagnostician(model_of(made, tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def exported(diagnostician, phantoms, tmp_path_factory):
    images = [row.path for row in read_rows(phantoms["hospital-a"])][:5]
    return export_onnx(diagnostician, tmp_path_factory.mktemp("onnx") / "deep" / "model.onnx", images, random_images=4)


def test_the_file_diagnoses_as_the_diagnosis_does(exported, diagnostician):
    assert (exported.parity.random_images, exported.parity.given_images) == (4, 5)
    assert exported.parity.largest_difference <= TOLERANCE
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    spreads = []
    for number in (1, 3, 11):  # the batch is free
        pixels = np.random.default_rng(number).integers(0, 256, (number, 3, 48, 48), np.uint8)
        [found] = session.run(None, {"images": pixels.astype(np.float32) / 255})
        assert found.shape == (number, 2)
        np.testing.assert_allclose(found, diagnostician.probabilities(pixels), rtol=0, atol=TOLERANCE)
        spreads.append(np.ptp(diagnostician.probabilities(pixels)[:, 0]))
    assert max(spreads) > 1000 * TOLERANCE  # else constant probabilities would do


def test_the_file_says_what_it_must_be_given(exported, diagnostician):
    job = diagnostician.manifest.job
    metadata = {one.key: one.value for one in onnx.load(exported.file).metadata_props}
    beside = json.loads(exported.description.read_text())
    assert json.loads(metadata["consilium"]) == {key: value for key, value in beside.items() if key != "parity"}
    assert json.loads(metadata["classes"]) == beside["classes"] == ["normal", "opacity"]
    assert json.loads(metadata["preprocessing"])["fit"] == job.image.fit
    assert (beside["job_id"], beside["input"]["shape"]) == (job.job_id, ["N", 3, 48, 48])
    assert beside["parity"]["largest_difference"] == exported.parity.largest_difference
    assert sorted(path.name for path in exported.file.parent.iterdir()) == ["model.onnx", "model.onnx.json"]


def test_a_file_that_differs_is_not_kept(exported, diagnostician, tmp_path, monkeypatch):
    def other(_diagnostician, file, _about):
        file.write_bytes(exported.file.read_bytes())

    monkeypatch.setattr(onnx_export, "_write", other)
    head = diagnostician.model.head
    monkeypatch.setattr(
        diagnostician,
        "model",
        Model(
            Head(head.weight, head.bias + np.float32(0.001) * np.arange(2, dtype=np.float32)), diagnostician.model.tuned
        ),
    )
    with pytest.raises(ArtifactError, match=r"differs from the diagnosis by .*nothing was written"):
        export_onnx(diagnostician, tmp_path / "model.onnx")
    monkeypatch.setattr(diagnostician, "model", Model(Head(head.weight * np.nan, head.bias), diagnostician.model.tuned))
    with pytest.raises(ArtifactError, match="nothing was written"):
        export_onnx(diagnostician, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_checked_is_not_exported(diagnostician, tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        export_onnx(diagnostician, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="--random-images"):
        export_onnx(diagnostician, tmp_path / "model.onnx", random_images=0)
    with pytest.raises(DataError, match="gone"):
        export_onnx(diagnostician, tmp_path / "model.onnx", [tmp_path / "gone.png"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "vgg16",
        "inception_v3",
        "densenet121",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "convnext_tiny",
        "squeezenet1_0",
        "vit_b_16",
        "swin_t",
    ],
)
def test_every_family_of_backbones(job, name, tmp_path):
    made = job(
        backbone={"name": name, "weights": {"name": "random", "seed": 1}},
        features=ALL_STAGES,
        modality="chest-xray",
        image={"size": 224 if name == "vit_b_16" else 96},
    )
    done = export_onnx(Diagnostician(model_of(made, tmp_path), device="cpu"), tmp_path / "model.onnx", random_images=10)
    assert done.parity.largest_difference <= TOLERANCE


@pytest.mark.slow
def test_a_private_model_whose_stages_are_scaled(job, tmp_path):
    made = job(
        method={"name": "dp-gd", "rounds": 5},
        privacy={"secure_aggregation": True, "differential_privacy": {"epsilon": 3}},
        evaluation={"validation_fraction": 0.0},
        quorum={"min_hospitals": 3},
        features=ALL_STAGES,
        modality="chest-xray",
    )
    done = export_onnx(Diagnostician(model_of(made, tmp_path, 20.0), device="cpu"), tmp_path / "model.onnx")
    assert done.parity.largest_difference <= TOLERANCE


def test_the_runtime_writes_and_sends_nothing_of_its_own(tmp_path):
    """Its usage events would lie in the home folder as soon as it is imported (docs/privacy.md, Telemetry)."""
    code = "from client.onnx_export import quiet_runtime; quiet_runtime()"
    told = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env={**told, **home}, cwd=Path(__file__).parents[2])
    assert not list(tmp_path.rglob("*onnxruntime*"))
