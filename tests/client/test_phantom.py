import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from client.phantom import RECORD, make_phantoms
from client.phantom_image import draw_anatomy, draw_scanner, expose, render
from client.records import read_rows
from common.errors import ConfigError, DataError

SMALL = {"hospitals": 3, "images": 12, "size_px": 48}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(hospital: Path) -> list[dict[str, str]]:
    with (hospital / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "small"
    make_phantoms(folder, **SMALL)
    return folder


def test_same_seed_gives_the_same_bytes(small, tmp_path):
    make_phantoms(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(small)


def test_another_seed_gives_other_images(small, tmp_path):
    make_phantoms(tmp_path, **SMALL, seed=1)
    pngs = [path for path in contents(tmp_path) if path.endswith("-1.png")]
    assert pngs
    assert all(contents(tmp_path)[path] != contents(small).get(path) for path in pngs)


def test_an_image_does_not_depend_on_how_many_others_there_are(small, tmp_path):
    make_phantoms(tmp_path, hospitals=2, images=7, size_px=48)
    fewer, more = contents(tmp_path), contents(small)
    images = [path for path in fewer if "/images/" in path]
    assert len(images) == 14
    assert all(fewer[path] == more[path] for path in images)
    assert rows(tmp_path / "hospital-b") == rows(small / "hospital-b")[:7]


def test_a_hospital_is_read_like_any_other(small):
    found = read_rows(small / "hospital-a")
    assert len(found) == 12
    assert all(row.path.is_file() for row in found)
    assert {row.label for row in found} <= {"normal", "opacity"}


def test_hospitals_are_named_by_letters_then_numbers(tmp_path):
    names = list(make_phantoms(tmp_path, hospitals=28, images=1, size_px=32))
    assert names[:2] + names[25:] == ["hospital-a", "hospital-b", "hospital-z", "hospital-027", "hospital-028"]
    assert rows(tmp_path / "hospital-027")[0]["patient_id"] == "027-0001"


def test_hospitals_save_different_bit_depths(small):
    expected = {"hospital-a": ("PNG", "I;16"), "hospital-b": ("PNG", "L"), "hospital-c": ("JPEG", "L")}
    for name, (kind, mode) in expected.items():
        for row in rows(small / name):
            with Image.open(small / name / row["path"]) as image:
                assert (image.format, image.mode, image.size) == (kind, mode, (48, 48))
    with Image.open(small / "hospital-a" / rows(small / "hospital-a")[0]["path"]) as image:
        assert len(np.unique(np.asarray(image))) > 256


def test_patients_have_one_or_two_images_and_one_label(tmp_path):
    hospital = make_phantoms(tmp_path, hospitals=1, images=200, size_px=32)["hospital-a"]
    labels: dict[str, list[str]] = {}
    for row in rows(hospital):
        labels.setdefault(row["patient_id"], []).append(row["label"])
    assert {len(found) for found in labels.values()} == {1, 2}
    assert all(len(set(found)) == 1 for found in labels.values())
    assert 1.2 < 200 / len(labels) < 1.4


def test_prevalence_differs_between_hospitals(tmp_path):
    hospitals = make_phantoms(tmp_path, hospitals=4, images=60, size_px=32)
    shares = [np.mean([row["label"] == "opacity" for row in rows(folder)]) for folder in hospitals.values()]
    assert max(shares) - min(shares) > 0.2
    wanted = [draw_scanner(index, np.random.default_rng(0)).prevalence for index in range(50)]
    assert 0.2 <= min(wanted) < 0.22
    assert 0.58 < max(wanted) <= 0.6
    np.testing.assert_allclose(shares, wanted[:4], atol=0.12)


def test_an_opacity_makes_the_lungs_brighter_and_nothing_else():
    anatomy = draw_anatomy(np.random.default_rng(3))
    normal, opacity = (render(anatomy, shown, 64, np.random.default_rng(5)) for shown in (False, True))
    # Drawn after the opacity, the stomach's gas may differ: it lies in the lowest fifth.
    change = (opacity - normal)[:50]
    assert normal.dtype == np.float32
    assert normal.shape == (64, 64)
    assert 0.0 <= normal.min() < normal.max() <= 1.0
    assert change.min() > -1e-6
    assert change.max() > 0.05
    assert np.mean(change > 0.02) < 0.5


def test_lungs_are_darker_than_what_surrounds_them():
    image = render(draw_anatomy(np.random.default_rng(0)), False, 100, np.random.default_rng(0))
    lungs = image[35:60, [25, 30, 70, 75]].mean()
    middle, belly = image[35:60, 48:53].mean(), image[92:, 40:60].mean()
    air_above_the_shoulders = image[:4, :10].mean()
    assert air_above_the_shoulders < 0.1 < lungs < 0.8 * min(middle, belly)


def test_an_exposed_image_uses_the_range_but_is_not_burnt_out():
    attenuation = render(draw_anatomy(np.random.default_rng(0)), False, 64, np.random.default_rng(0))
    for index in range(12):
        grey = expose(attenuation, draw_scanner(index, np.random.default_rng(index)), np.random.default_rng(1))
        assert grey.dtype == np.float32
        assert 0.0 <= grey.min() < grey.max() <= 1.0
        assert np.mean(grey == 1.0) < 0.35


def test_coarse_pixels_tell_the_classes_apart_but_not_perfectly(tmp_path):
    hospitals = make_phantoms(tmp_path, hospitals=6, images=100, size_px=64)
    features, labels, patients = [], [], []
    for folder in hospitals.values():
        for row in rows(folder):
            with Image.open(folder / row["path"]) as image:
                pixels = np.asarray(image, dtype=np.float64)
            coarse = pixels.reshape(16, 4, 16, 4).mean(axis=(1, 3)).ravel()
            features.append((coarse - coarse.mean()) / coarse.std())
            labels.append(row["label"] == "opacity")
            patients.append(int(row["patient_id"].rpartition("-")[2]))
    x, y, test = np.array(features), np.array(labels), np.array(patients) % 3 == 0
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500)).fit(x[~test], y[~test])
    auroc = roc_auc_score(y[test], model.decision_function(x[test]))
    assert 0.7 < auroc < 0.99


def test_a_second_call_touches_nothing(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    hospitals = make_phantoms(small, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    assert hospitals == {name: small / name for name in ("hospital-a", "hospital-b", "hospital-c")}


def test_an_interrupted_call_is_completed(small, tmp_path):
    make_phantoms(tmp_path, **SMALL)
    (tmp_path / "hospital-b" / "manifest.csv").unlink()
    next((tmp_path / "hospital-b" / "images").iterdir()).unlink()
    make_phantoms(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(small)


def test_other_parameters_are_refused_and_nothing_is_lost(small):
    before = contents(small)
    with pytest.raises(DataError, match=r"other phantoms: expected .*\"images\": 13.* got .*\"images\": 12"):
        make_phantoms(small, **(SMALL | {"images": 13}))
    assert contents(small) == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files .* new or empty folder"):
        make_phantoms(tmp_path, **SMALL)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "phantoms").write_text("mine")
    with pytest.raises(DataError, match="cannot write phantoms"):
        make_phantoms(tmp_path / "phantoms", **SMALL)


def test_labels_are_named_by_the_caller(tmp_path):
    hospital = make_phantoms(tmp_path, hospitals=1, images=12, size_px=32, classes=("clear", "ill, a bit"))[
        "hospital-a"
    ]
    assert {row["label"] for row in rows(hospital)} == {"clear", "ill, a bit"}
    assert json.loads((tmp_path / RECORD).read_text())["classes"] == ["clear", "ill, a bit"]


@pytest.mark.parametrize("classes", [("a",), ("a", "b", "c"), ("a", "a"), ("a", " "), "ab"])
def test_other_than_two_classes_are_refused(tmp_path, classes):
    with pytest.raises(ConfigError, match="expected two different names"):
        make_phantoms(tmp_path, classes=classes)
    assert not any(tmp_path.iterdir())


def test_all_arguments_out_of_range_are_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        make_phantoms(tmp_path, hospitals=0, images=0, seed=-1, size_px=8)
    for part in (
        "hospitals: expected 1",
        "images: expected 1",
        "seed: expected 0",
        "size_px: expected 32 or more, got 8",
    ):
        assert part in str(caught.value)
