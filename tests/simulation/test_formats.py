"""Hospitals that keep the same images in different formats train the same model."""

import csv

import nibabel
import numpy as np
import pytest
from PIL import Image

from client.diagnosis import Diagnostician
from client.images import load_image
from client.records import read_rows
from simulation.run import simulate
from tests.dicom_files import write_dicom, write_series

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def as_png(path, pixels):
    Image.fromarray(pixels).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def as_inverted_dicom(path, pixels):
    return write_dicom(path, 255 - pixels, Modality="CR", PhotometricInterpretation="MONOCHROME1")


def as_nifti(path, pixels):
    nibabel.save(nibabel.Nifti1Image(pixels.T[..., None], LPS), path.with_suffix(".nii.gz"))
    return path.with_suffix(".nii.gz")


def as_series(path, pixels):
    return write_series(path, [pixels * 0, pixels, 255 - pixels], modality="CR")


@pytest.fixture(scope="module")
def federation(phantoms, tmp_path_factory):
    """The phantom hospitals in a format of each one's own choice."""

    def make(*formats):
        folder = tmp_path_factory.mktemp("formats")
        for (name, source), save in zip(phantoms.items(), formats, strict=True):
            (folder / name).mkdir()
            with (folder / name / "manifest.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["path", "label", "patient_id"])
                for number, row in enumerate(read_rows(source)):
                    path = save(folder / name / f"{number:03d}", np.asarray(load_image(row.path).convert("L")))
                    writer.writerow([path.name, row.label, row.patient_id])
        return {name: folder / name for name in phantoms}

    return make


def test_png_dicom_and_nifti_give_the_same_head(federation, job, tmp_path):
    quick = job(method={"name": "fedavg", "rounds": 2}, modality="chest-xray")
    plain = simulate(quick, federation(as_png, as_png, as_png), tmp_path / "plain", cache_dir=tmp_path / "c1")
    mixed_folders = federation(as_series, as_inverted_dicom, as_nifti)
    mixed = simulate(quick, mixed_folders, tmp_path / "mixed", cache_dir=tmp_path / "c2")
    assert np.abs(plain.model.head.weight).max() > 1e-3
    np.testing.assert_allclose(mixed.model.head.weight, plain.model.head.weight, rtol=0, atol=1e-4)
    np.testing.assert_allclose(mixed.model.head.bias, plain.model.head.bias, rtol=0, atol=1e-4)
    assert mixed.summary["metrics"] == plain.summary["metrics"]
    # And they are diagnosed alike: a file, a series, a volume.
    diagnostician = Diagnostician(tmp_path / "mixed" / "model.safetensors", device="cpu")
    images = [read_rows(folder)[0].path for folder in mixed_folders.values()]
    reference = [load_image(path) for path in images]
    for number, picture in enumerate(reference):
        picture.save(tmp_path / f"{number}.png")
    found = diagnostician.diagnose([*images, *(tmp_path / f"{number}.png" for number in range(3))], 0.0)
    assert all(one.problem is None for one in found)
    for one, other in zip(found[:3], found[3:], strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
