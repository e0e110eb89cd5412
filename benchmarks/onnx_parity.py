"""How far the ONNX file is from the diagnosis: the largest difference of a probability on 100 chest X-rays.

    python benchmarks/onnx_parity.py SHARED

All stages, mean and maximum, mirrored views, a head drawn at random on features standardised by these images (as strong as a
trained one, and folded). Weights from SHARED/weights where there is a file, random ones elsewhere. Prints a Markdown table.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from client.device import choose_device
from client.diagnosis import Diagnostician
from client.extractor import Extractor
from client.feature_space import columns_of, fingerprint_of
from client.images import load_image, to_input
from client.onnx_export import export_onnx
from client.records import read_rows
from client.weights import load_backbone
from common.artifact import Manifest, save_model
from common.head import Head, Standardisation
from common.job import parse_job
from common.model import Model

IMAGES = 100
CLASSES = ["normal", "pneumonia"]


def main() -> None:
    """Export, compare and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("shared", type=Path)
    arguments.add_argument("--backbones", nargs="+", default=["mobilenet_v2", "resnet18", "vit_b_16"])
    given = arguments.parse_args()
    rows = read_rows(given.shared / "data" / "chest_xray" / "nih_clinical_center")
    images = [row.path for row in rows[:: len(rows) // IMAGES]][:IMAGES]
    print("| backbone | weights | features | opset, torch | file, MB | seconds | largest difference |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in given.backbones:
        with tempfile.TemporaryDirectory() as folder:
            print(_row(name, given.shared / "weights", images, Path(folder)), flush=True)


def _row(name: str, weights_dir: Path, images: list[Path], folder: Path) -> str:
    file = weights_dir / f"{name}.safetensors"
    weights = (
        {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        if file.exists()
        else {"name": "random", "seed": 1}
    )
    job = parse_job(
        {
            "name": "parity",
            "classes": CLASSES,
            "modality": "chest-xray",
            "backbone": {"name": name, "weights": weights},
            "features": {"stages": "all", "pool": ["mean", "max"], "mirror": True},
        }
    )
    backbone = load_backbone(name, job.backbone.weights, weights_dir)
    pixels = np.stack([to_input(load_image(path), job.size_px, job.image.fit) for path in images])
    features = Extractor(backbone, choose_device("cpu"), job.size_px)(pixels)[:, columns_of(job)].astype(np.float64)
    standardisation = Standardisation.from_sums(len(features), features.sum(axis=0), (features**2).sum(axis=0))
    drawn = np.random.default_rng(0).normal(0, 2 / job.num_features**0.5, (len(CLASSES), job.num_features))
    head = standardisation.fold(Head(drawn.astype(np.float32), np.zeros(len(CLASSES), np.float32)))
    manifest = Manifest(
        job=job,
        job_id=job.job_id,
        fingerprint=fingerprint_of(job, backbone.digest),
        backbone_digest=backbone.digest,
        rounds=1,
        hospitals=2,
        metrics={},
        versions={},
    )
    save_model(folder / "model.safetensors", Model(head), manifest)
    start = time.perf_counter()
    done = export_onnx(
        Diagnostician(folder / "model.safetensors", weights_dir, "cpu"), folder / "model.onnx", images, random_images=0
    )
    seconds = time.perf_counter() - start
    import onnx

    opset = onnx.load(done.file, load_external_data=False).opset_import[0].version
    return (
        f"| {name} | {'pretrained' if file.exists() else 'random'} | {job.num_features} | {opset}, {torch.__version__} | "
        f"{done.file.stat().st_size / 1e6:.1f} | {seconds:.0f} | {done.parity.largest_difference:.1e} |"
    )


if __name__ == "__main__":
    main()
