import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from client import diagnosis
from client.deep import DeepTraining, Source
from client.diagnosis import REFER, Diagnostician, files_of
from client.diagnosis_files import write_dicom as write_dicom_results
from client.diagnosis_files import write_heatmaps
from client.dicom_series import open_series
from client.extractor import Extractor
from client.feature_space import columns_of
from client.images import load_image, shown_picture, to_input
from client.local_state import LocalState, load_kept
from client.records import read_rows
from client.slices import AS_IT_IS, Reading
from client.weights import load_backbone
from common.artifact import load_model, save_model
from common.errors import ArtifactError, DataError
from common.head import Head, Standardisation
from common.job import parse_job
from common.model import Model, digest_of_arrays
from simulation.run import simulate
from tests.dicom_files import uid, write_dicom, write_series


@pytest.fixture(scope="module")
def model(job, phantoms, cache_dir, tmp_path_factory) -> Path:
    """The model file of a short run of two hospitals."""
    two = dict(list(phantoms.items())[:2])
    folder = tmp_path_factory.mktemp("run") / "run"
    simulate(job(method={"name": "fedavg", "rounds": 2}), two, folder, cache_dir=cache_dir, device="cpu")
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def diagnostician(model) -> Diagnostician:
    return Diagnostician(model, device="cpu")


@pytest.fixture
def images(phantoms) -> list[Path]:
    return [row.path for row in read_rows(phantoms["hospital-c"])][:8]


def test_probabilities_are_those_of_the_head_and_sum_to_one(diagnostician, images):
    found = diagnostician.diagnose(images, threshold=0.0)
    assert [one.image for one in found] == images
    for one in found:
        assert list(one.probabilities) == ["normal", "opacity"]
        assert sum(one.probabilities.values()) == pytest.approx(1.0)
        assert all(0 <= value <= 1 for value in one.probabilities.values())
        assert one.label == max(one.probabilities, key=one.probabilities.get)
        assert one.problem is None
    assert len({one.probabilities["opacity"] for one in found}) == len(images)


def test_under_the_threshold_a_radiologist_decides(diagnostician, images):
    certain = sorted(max(one.probabilities.values()) for one in diagnostician.diagnose(images, 0.0))
    threshold = certain[4]
    found = diagnostician.diagnose(images, threshold)
    for one in found:
        assert (one.label == REFER) == (max(one.probabilities.values()) < threshold)
    assert sum(one.label == REFER for one in found) == 4
    assert all(one.label == REFER and one.probabilities for one in diagnostician.diagnose(images, 1.0 + 1e-9))


def test_an_unreadable_image_is_told_and_the_others_are_diagnosed(diagnostician, images, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"nonsense")
    asked = [tmp_path / "damaged.png", *images[:2], tmp_path / "gone.png"]
    first, *good, last = diagnostician.diagnose(asked, 0.0)
    for bad in (first, last):
        assert (bad.label, bad.probabilities) == (REFER, {})
        assert bad.problem
    expected = diagnostician.diagnose(images[:2], 0.0)
    assert [one.image for one in good] == images[:2]
    assert [one.label for one in good] == [one.label for one in expected]


def test_nothing_readable_and_nothing_at_all(diagnostician, tmp_path):
    assert diagnostician.diagnose([], 0.5) == []
    [only] = diagnostician.diagnose([tmp_path / "gone.png"], 0.5)
    assert only.problem


def test_many_images_are_taken_in_parts(diagnostician, images, monkeypatch):
    expected = diagnostician.diagnose(images, 0.0)
    monkeypatch.setattr(diagnosis, "_IMAGES_AT_ONCE", 3)
    found = diagnostician.diagnose(images, 0.0)
    assert [one.image for one in found] == images
    for one, other in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_another_backbone_than_the_trained_one_is_refused(model, tmp_path):
    head, manifest = load_model(model)
    content = {**manifest.job.model_dump(mode="json"), "backbone": {"name": "squeezenet1_1", "weights": "random"}}
    other = parse_job(content)
    changed = manifest.model_copy(update={"job": other, "job_id": other.job_id})
    save_model(tmp_path / "other.safetensors", head, changed)
    with pytest.raises(ArtifactError, match=manifest.fingerprint[:16]):
        Diagnostician(tmp_path / "other.safetensors", device="cpu")


def test_a_damaged_model_is_refused(model, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(model.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ArtifactError):
        Diagnostician(tmp_path / "model.safetensors", device="cpu")


def test_a_folded_head_on_raw_features_is_the_head_on_standardised_ones(diagnostician):
    rng = np.random.default_rng(0)
    features = diagnostician._features(rng.integers(0, 256, (6, 3, 64, 64), np.uint8))
    head = Head(rng.normal(0, 0.1, (3, 512)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    wide = features.astype(np.float64)
    standardisation = Standardisation.from_sums(len(features), wide.sum(axis=0), (wide**2).sum(axis=0))
    on_standardised = head.probabilities(standardisation.apply(features))
    np.testing.assert_allclose(standardisation.fold(head).probabilities(features), on_standardised, atol=1e-5)
    assert not np.allclose(head.probabilities(features), on_standardised, atol=1e-2)


class Run:
    """A run of two hospitals that tunes the last blocks and mirrors, and what they keep of it."""

    def __init__(self, job, phantoms, folder, **changes):
        self.job = job(
            backbone={"name": "mobilenet_v3_small", "weights": {"name": "random", "seed": 1}},
            modality="chest-xray",
            features={"stages": "last", "mirror": True},
            method={
                "name": "fedavg",
                "rounds": 1,
                "batch_size": 8,
                "lr": 0.001,
                "optimizer": "adam",
                "local_epochs": 2,
            },
            personalisation={"epochs": 2},
            **changes,
        )
        self.cache = folder / "cache"
        two = dict(list(phantoms.items())[:2])
        result = simulate(self.job, two, folder / "run", cache_dir=self.cache, device="cpu")
        self.path = result.folder / "model.safetensors"
        self.model, self.manifest = load_model(self.path)
        assert self.manifest.rounds == 1

    def kept(self, what, hospital="hospital-a") -> Path:
        return LocalState(self.cache, hospital, self.job).path(what, 1)

    def probabilities(self, images, head=None, batch_norm=None, tuned=None):
        """As the hospital computes them in its rounds: the features of `DeepTraining`, and the head on top."""
        backbone = load_backbone("mobilenet_v3_small", self.job.backbone.weights)
        sources = [Source(path, hashlib.sha256(path.read_bytes()).digest(), 0) for path in images]
        extractor = Extractor(backbone, torch.device("cpu"), self.job.size_px)
        training = DeepTraining(self.job, extractor, {"test": sources}, self.cache, 10**9)
        features = training.features(self.model.tuned if tuned is None else tuned, "test", batch_norm or {})
        return (head or self.model.head).probabilities(features)


@pytest.fixture(scope="module")
def tuned_run(job, phantoms, tmp_path_factory):
    tune = {"part": "last-blocks", "views": 1, "lr": 0.0001}
    return Run(job, phantoms, tmp_path_factory.mktemp("tuned"), tune=tune)


@pytest.fixture(scope="module")
def fedbn_run(job, phantoms, tmp_path_factory):
    tune = {"part": "last-blocks", "views": 1, "lr": 0.0001, "batch_norm": "local"}
    return Run(job, phantoms, tmp_path_factory.mktemp("fedbn"), tune=tune)


def found(images, *arguments, **options):
    """Probabilities (N, C) of a diagnosis."""
    diagnoses = Diagnostician(*arguments, device="cpu", **options).diagnose(images, 0.0)
    return np.array([list(one.probabilities.values()) for one in diagnoses])


def assert_same(one, other):
    """But for the activations at the cut, which are rounded to float16 on their way through the cache."""
    np.testing.assert_allclose(one, other, atol=5e-4)


def apart(one, other):
    return np.abs(one - other).max() > 0.05


def test_a_tuned_model_diagnoses_as_the_hospitals_saw_it(tuned_run, images):
    given = found(images, tuned_run.path)
    assert_same(given, tuned_run.probabilities(images))
    pretrained = load_backbone("mobilenet_v3_small", tuned_run.job.backbone.weights).network.state_dict()
    before = {name: pretrained[name].numpy() for name in tuned_run.model.tuned}
    assert apart(given, tuned_run.probabilities(images, tuned=before))


def test_each_image_is_diagnosed_with_its_mirror_image(diagnostician, tuned_run, images):
    one = Diagnostician(tuned_run.path, device="cpu")
    pixels = np.stack([to_input(load_image(path), 64, "pad") for path in images])
    turned = np.ascontiguousarray(pixels[..., ::-1])
    np.testing.assert_allclose(one._features(pixels), one._features(turned), rtol=1e-5, atol=1e-5)
    # That of a job without mirrored views sees the side.
    assert not np.allclose(diagnostician._features(pixels), diagnostician._features(turned), rtol=1e-3)


def test_the_backbone_is_as_it_was_after_a_diagnosis(tuned_run, images):
    one = Diagnostician(tuned_run.path, device="cpu")
    pixels = np.stack([to_input(load_image(path), 64, "pad") for path in images])
    backbone = one._extractor.backbone
    before = one._extractor(pixels)[:, columns_of(tuned_run.job)]
    names = {name: tensor.numpy().copy() for name, tensor in backbone.network.state_dict().items()}
    one.diagnose(images, 0.0)
    assert np.array_equal(one._extractor(pixels)[:, columns_of(tuned_run.job)], before)
    assert all(np.array_equal(tensor.numpy(), names[name]) for name, tensor in backbone.network.state_dict().items())


def test_without_its_own_batch_normalisation_a_hospital_cannot_diagnose(fedbn_run):
    with pytest.raises(ArtifactError, match=r"tune\.batch_norm: local.*--batch-norm \(batch-norm-\*\.safetensors"):
        Diagnostician(fedbn_run.path, device="cpu")


def test_with_its_own_batch_normalisation_it_diagnoses_as_in_its_rounds(fedbn_run, images):
    by_hospital = {}
    for hospital in ("hospital-a", "hospital-b"):
        path = fedbn_run.kept("batch-norm", hospital)
        by_hospital[hospital] = found(images, fedbn_run.path, batch_norm=path)
        assert_same(by_hospital[hospital], fedbn_run.probabilities(images, batch_norm=load_kept(path).arrays))
    assert apart(by_hospital["hospital-a"], fedbn_run.probabilities(images))
    assert np.abs(by_hospital["hospital-a"] - by_hospital["hospital-b"]).max() > 1e-3


def test_batch_normalisation_of_another_job_round_or_kind_is_refused(fedbn_run, tuned_run, job, tmp_path):
    arrays = dict(load_kept(fedbn_run.kept("batch-norm")).arrays)
    name = next(iter(arrays))
    other, own = LocalState(tmp_path, "hospital-a", job()), LocalState(tmp_path, "hospital-a", fedbn_run.job)
    other.save("batch-norm", 1, arrays)
    own.save("batch-norm", 1, {one: array for one, array in arrays.items() if one != name})
    own.save("more", 1, {**arrays, "classifier.0.weight": arrays[name]})
    own.save("later", 2, arrays)
    for path in (
        other.path("batch-norm", 1),
        own.path("batch-norm", 1),
        own.path("more", 1),
        own.path("later", 2),
        fedbn_run.kept("personal"),
        tuned_run.kept("personal"),
    ):
        with pytest.raises(
            ArtifactError, match=f"{path.name} does not belong to this model: expected {len(arrays)} arrays"
        ):
            Diagnostician(fedbn_run.path, device="cpu", batch_norm=path)
    with pytest.raises(DataError, match="cannot be read"):
        Diagnostician(fedbn_run.path, device="cpu", batch_norm=tmp_path / "gone.safetensors")


def test_a_hospital_that_missed_the_last_rounds_has_the_batch_normalisation_of_the_one_before(
    fedbn_run, images, tmp_path
):
    """The model is of round 5, the file of round 1."""
    changed = fedbn_run.manifest.model_copy(update={"rounds": 5})
    save_model(tmp_path / "five.safetensors", fedbn_run.model, changed)
    path = fedbn_run.kept("batch-norm")
    five = found(images, tmp_path / "five.safetensors", batch_norm=path)
    assert np.array_equal(five, found(images, fedbn_run.path, batch_norm=path))


def test_a_model_of_round_0_has_the_pretrained_batch_normalisation(fedbn_run, images, tmp_path):
    """Of a warm start that no round improved: no hospital has a file that belongs to it."""
    changed = fedbn_run.manifest.model_copy(update={"rounds": 0})
    save_model(tmp_path / "none.safetensors", fedbn_run.model, changed)
    assert_same(found(images, tmp_path / "none.safetensors"), fedbn_run.probabilities(images))
    with pytest.raises(ArtifactError, match="leave --batch-norm out"):
        Diagnostician(tmp_path / "none.safetensors", device="cpu", batch_norm=fedbn_run.kept("batch-norm"))


def test_batch_normalisation_goes_with_no_other_model(tuned_run, fedbn_run, model):
    for path in (tuned_run.path, model):
        with pytest.raises(
            ArtifactError, match="has no batch normalisation of a hospital's own; leave --batch-norm out"
        ):
            Diagnostician(path, device="cpu", batch_norm=fedbn_run.kept("batch-norm"))


def test_a_personalised_head_takes_the_place_of_the_global_one(tuned_run, fedbn_run, images):
    for run, more in ((tuned_run, {}), (fedbn_run, {"batch_norm": fedbn_run.kept("batch-norm")})):
        path = run.kept("personal")
        kept = load_kept(path)
        assert (kept.job_id, kept.number) == (run.job.job_id, 1)
        assert kept.model == digest_of_arrays(run.model.arrays())
        given = found(images, run.path, personal=path, **more)
        own = load_kept(more["batch_norm"]).arrays if more else {}
        head = Head(kept.arrays["weight"], kept.arrays["bias"])
        assert_same(given, run.probabilities(images, head=head, batch_norm=own))
        assert apart(given, found(images, run.path, **more))


def test_a_personalised_head_of_another_job_or_model_is_refused(tuned_run, fedbn_run, job, tmp_path):
    right = load_kept(tuned_run.kept("personal"))
    moved = Model(Head(tuned_run.model.head.weight, tuned_run.model.head.bias + 1), tuned_run.model.tuned)
    other, own = LocalState(tmp_path, "hospital-a", job()), LocalState(tmp_path, "hospital-a", tuned_run.job)
    other.save("personal", 1, right.arrays, right.model)
    own.save("personal", 1, right.arrays, digest_of_arrays(moved.arrays()))
    own.save("unsaid", 1, right.arrays)
    files = [other.path("personal", 1), own.path("personal", 1), own.path("unsaid", 1), fedbn_run.kept("personal")]
    for path in files:
        with pytest.raises(ArtifactError, match=r"is no personalised head of this model.*leave --personal out"):
            Diagnostician(tuned_run.path, device="cpu", personal=path)
    with pytest.raises(ArtifactError, match="is no personalised head of this model"):
        Diagnostician(
            fedbn_run.path,
            device="cpu",
            personal=fedbn_run.kept("batch-norm"),
            batch_norm=fedbn_run.kept("batch-norm"),
        )
    # And the right one belongs to no other model of the same job.
    save_model(tmp_path / "moved.safetensors", moved, tuned_run.manifest)
    with pytest.raises(ArtifactError, match="is no personalised head of this model"):
        Diagnostician(tmp_path / "moved.safetensors", device="cpu", personal=tuned_run.kept("personal"))
    assert Diagnostician(tuned_run.path, device="cpu", personal=tuned_run.kept("personal")).model.tuned.keys() == (
        tuned_run.model.tuned.keys()
    )


@pytest.fixture(scope="module")
def bedside(job, phantoms, cache_dir, tmp_path_factory) -> Diagnostician:
    """A model with all that a diagnosis needs, of three hospitals."""
    folder = tmp_path_factory.mktemp("bedside") / "run"
    asked = job(
        modality="chest-xray",
        method="analytic",
        features={"stages": "all", "pool": ["mean"], "mirror": True},
        evaluation={
            "test_fraction": 0.05,
            "validation_fraction": 0.45,
            "operating_point": {"class": "opacity", "sensitivity": 0.7},
        },
    )
    simulate(asked, phantoms, folder, cache_dir=cache_dir, device="cpu")
    return Diagnostician(folder / "model.safetensors", device="cpu")


def test_a_record_has_everything_a_person_needs(bedside, images):
    [one, *_] = bedside.diagnose(images[:2], 0.0, heatmaps=True)
    assert bedside.lacking == []
    assert one.limit == bedside.manifest.unlike.distance
    assert 0.2 < one.distance < 5
    assert one.above == (one.probabilities["opacity"] >= bedside.point.threshold)
    assert one.leaning == ("opacity" if one.above else "normal")
    assert one.confidence >= 0.5
    assert one.words.startswith(one.leaning)
    assert (one.frame.width, one.frame.height, one.frame.size) == (64, 64, 64)
    assert one.heatmap.shown == one.leaning
    assert one.turned in (0, 90, 180, 270)
    told = one.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["diagnosis"] == one.label


def test_with_mirrored_views_the_map_adds_up_to_the_score_and_turns_with_the_image(bedside, images):
    pixels = np.stack([to_input(load_image(path), 64, "pad") for path in images])
    grids = bedside._maps(pixels, [1] * len(images))
    head = bedside.model.head
    logits = head.logits(bedside._features(pixels)) - head.bias
    np.testing.assert_allclose(grids.sum((1, 2)), (logits[:, 1] - logits.mean(axis=1)), rtol=1e-3, atol=1e-3)
    other = bedside._maps(np.ascontiguousarray(pixels[..., ::-1]), [1] * len(images))
    np.testing.assert_allclose(other, grids[..., ::-1], rtol=1e-3, atol=1e-3)


def test_noise_and_turned_films_are_referred_with_the_reason(bedside, images, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / "noise.png")
    [noise] = bedside.diagnose([tmp_path / "noise.png"], 0.0)
    assert noise.label == REFER
    assert any("unlike the training images: distance" in reason for reason in noise.reasons)
    paths = [tmp_path / path.name for path in images]
    for path, turned in zip(images, paths, strict=True):
        load_image(path).transpose(Image.Transpose.ROTATE_180).save(turned)
    found = bedside.diagnose(paths, 0.0)
    assert sum(one.turned == 180 for one in found) >= 6
    assert all(one.label == REFER and "turned" in " ".join(one.reasons) for one in found if one.turned)


def test_a_file_of_an_earlier_version_still_diagnoses_and_says_what_is_missing(bedside, images, tmp_path):
    old = {"calibration": None, "operating_point": None, "unlike": None, "missing": {}}
    save_model(tmp_path / "old.safetensors", bedside.model, bedside.manifest.model_copy(update=old))
    one = Diagnostician(tmp_path / "old.safetensors", device="cpu")
    [found] = one.diagnose(images[:1], 0.0)
    assert found.distance is found.above is found.turned is None
    assert found.label in ("normal", "opacity")
    assert len(one.lacking) == 3
    assert all("made by a version of Consilium that did not write it" in sentence for sentence in one.lacking)


def test_a_folder_stands_for_the_images_below_it(phantoms, images, tmp_path):
    assert set(files_of([phantoms["hospital-c"]])) >= set(images)
    assert files_of([images[1], images[0]]) == [images[1], images[0]]
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="no image below it"):
        files_of([tmp_path])


def test_a_folder_of_studies_is_its_series_and_its_other_images_wherever_it_lies(tmp_path):
    """Files of a PACS often have no suffix, and an export may lie below a hidden folder."""
    export = tmp_path / ".export"
    series = write_series(export / "p1" / "ct", np.arange(3 * 8 * 8, dtype=np.uint16).reshape(3, 8, 8))
    film = write_dicom(export / "p1" / "IM0001", np.zeros((8, 8), np.uint16), Modality="DX")
    write_dicom(export / ".hidden.dcm", np.zeros((8, 8), np.uint16))
    assert files_of([export]) == [film, series]


def test_heat_maps_are_written_in_the_size_of_the_images(bedside, images, tmp_path):
    found = bedside.diagnose([*images[:2], images[0]], 0.0, heatmaps=True)
    assert write_heatmaps(found, AS_IT_IS, tmp_path / "maps") == 3
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == sorted([f"{images[0].stem}.png", f"{images[1].stem}.png", f"{images[0].stem}-2.png"])
    assert load_image(tmp_path / "maps" / names[0]).size == (64, 64)


def test_results_of_a_film_a_series_and_what_is_no_dicom(bedside, images, tmp_path):
    rng = np.random.default_rng(0)
    series = write_series(tmp_path / "1.2.3.4", rng.integers(0, 900, (5, 40, 40)).astype(np.uint16))
    uids = {"Modality": "CT", "StudyInstanceUID": uid("study"), "SeriesInstanceUID": uid("film")}
    film = write_dicom(tmp_path / "1.2.3.5", rng.integers(0, 900, (40, 50)).astype(np.uint16), **uids)
    job = bedside.manifest.job.model_copy(update={"modality": "chest-ct"})
    save_model(
        tmp_path / "model.safetensors",
        bedside.model,
        bedside.manifest.model_copy(update={"job": job, "job_id": job.job_id}),
    )
    of_ct = Diagnostician(tmp_path / "model.safetensors", device="cpu")
    found = of_ct.diagnose([series, film, images[0]], 0.0, heatmaps=True)
    assert write_dicom_results(found, of_ct, tmp_path / "model.safetensors", tmp_path / "out") == (2, 1)
    names = {f"{stem}.{kind}.dcm" for stem in ("1.2.3.4", "1.2.3.5") for kind in ("overlay", "report")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    shown = pydicom.dcmread(tmp_path / "out" / "1.2.3.4.overlay.dcm").SourceImageSequence[0].ReferencedSOPInstanceUID
    assert shown == open_series(series).headers[2].SOPInstanceUID


def test_under_a_heat_map_lies_the_slice_that_the_job_looked_at(tmp_path):
    """Of two of eight slices the second one, the seventh in all, not the middle of the whole series."""
    bright = np.arange(8, dtype=np.uint16)[:, None, None] * np.full((8, 16, 16), 30, np.uint16)
    series = write_series(tmp_path / "ct", bright, WindowCenter=127.5, WindowWidth=256)
    assert np.asarray(shown_picture(series, Reading(slices=2))).mean() == pytest.approx(6 * 30, abs=2)
    assert np.asarray(shown_picture(series, AS_IT_IS)).mean() == pytest.approx(4 * 30, abs=2)
