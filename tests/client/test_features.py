import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client import features
from client.augmentation import view_of
from client.extractor import Extractor
from client.feature_cache import FeatureCache
from client.feature_space import all_blocks, columns_of
from client.features import extract
from client.images import load_image, load_pictures, to_input
from client.records import read_rows
from common.errors import DataError

WIDTH = 512
CACHED = all_blocks("squeezenet1_1")[-1].stop
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    RuntimeError("MPS backend out of memory (MPS allocated: 3.00 GB)"),
]


class Cramped(nn.Module):
    """A backbone whose device holds `room` images; its features are the means of the channels."""

    def __init__(self, room: int, error: RuntimeError) -> None:
        super().__init__()
        self.room, self.error, self.sizes = room, error, []

    name = "squeezenet1_1"

    def features(self, images, wanted):
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.error
        return images.mean(dim=(2, 3))


@pytest.fixture
def folder(tmp_path, phantoms) -> Path:
    """Six images of one hospital, to be changed at will."""
    (tmp_path / "images").mkdir()
    for row in read_rows(phantoms["hospital-a"])[:6]:
        shutil.copy(row.path, tmp_path / "images" / row.path.name)
    return tmp_path / "images"


@pytest.fixture
def run(tmp_path, extractor, job):
    """Extraction of a folder's images with `views` views, through a cache of this test's own."""

    def make(folder: Path, views: int = 1, **options):
        with FeatureCache(tmp_path / "cache", "ab" * 32, CACHED) as cache:
            asked = [(path, range(views)) for path in sorted(folder.iterdir())]
            return extract(asked, extractor, cache, options.pop("job", job()), **options)

    return make


@pytest.fixture
def decodings(monkeypatch) -> Counter:
    """How often each file is decoded."""
    counted = Counter()

    def load(path, reading):
        counted[path.name] += 1
        return load_pictures(path, reading)

    monkeypatch.setattr(features, "load_pictures", load)
    return counted


def test_each_image_is_decoded_once_ever(run, folder, decodings):
    first = run(folder)
    assert (first.decoded, first.cached) == (6, 0)
    assert sorted(decodings.values()) == [1] * 6
    second = run(folder)
    assert (second.decoded, second.cached) == (0, 6)
    assert decodings.total() == 6
    assert all(np.array_equal(one, two) for one, two in zip(first.vectors, second.vectors, strict=True))
    assert all(vectors.shape == (1, WIDTH) and vectors.dtype == np.float32 for vectors in first.vectors)


def test_features_are_those_of_the_backbone(run, folder, squeezenet):
    found = run(folder).vectors
    for path, vectors in zip(sorted(folder.iterdir()), found, strict=True):
        pixels = torch.from_numpy(to_input(load_image(path), 64, "pad")).float() / 255
        with torch.no_grad():
            expected = squeezenet(pixels[None])
        np.testing.assert_allclose(vectors, expected, atol=1e-4, rtol=1e-4)


def test_a_changed_image_misses_and_a_renamed_one_does_not(run, folder):
    before = run(folder)
    one, two, *_ = sorted(folder.iterdir())
    shutil.copy(two, one)
    (folder / two.name).rename(folder / f"zz{two.name}")
    after = run(folder)
    assert (after.decoded, after.cached) == (0, 6)
    assert np.array_equal(after.vectors[0], before.vectors[1])
    load_image(one).rotate(90).save(one)
    again = run(folder)
    assert (again.decoded, again.cached) == (1, 5)
    assert not np.array_equal(again.vectors[0], after.vectors[0])


def test_equal_files_are_decoded_once(run, folder, decodings):
    original = sorted(folder.iterdir())[0]
    shutil.copy(original, folder / f"copy-{original.name}")
    found = run(folder)
    assert (found.decoded, len(found.vectors), decodings.total()) == (6, 7, 6)


def test_views_begin_with_the_image_itself_and_are_the_same_every_time(run, folder, decodings):
    plain = run(folder)
    views = run(folder, views=3)
    assert (views.decoded, views.cached) == (6, 0)
    for one, three in zip(plain.vectors, views.vectors, strict=True):
        assert three.shape == (3, WIDTH)
        assert np.array_equal(three[0], one[0])
        assert len(np.unique(three, axis=0)) == 3
    times = decodings.total()
    again = run(folder, views=3)
    assert (again.decoded, again.cached, decodings.total()) == (0, 6, times)
    assert all(np.array_equal(one, two) for one, two in zip(views.vectors, again.vectors, strict=True))


def test_a_view_depends_on_the_image_and_its_number_alone(folder):
    image = load_image(sorted(folder.iterdir())[0])
    one, same, other, elsewhere = (
        np.asarray(view_of(image, digest, view).resize((32, 32)))
        for digest, view in ((b"a" * 32, 1), (b"a" * 32, 1), (b"a" * 32, 2), (b"b" * 32, 1))
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, elsewhere)


def test_batch_size_does_not_change_features(extractor):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 3, 64, 64), np.uint8)
    found = []
    for extractor.batch_size in (1, 4, 13):
        found.append(extractor(pixels))
    scale = np.abs(found[0]).max()
    for other in found[1:]:
        np.testing.assert_allclose(other / scale, found[0] / scale, atol=1e-5)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:12])
def test_out_of_memory_halves_the_batch_and_changes_no_feature(error):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
    cramped = Cramped(3, error)
    extractor = Extractor(cramped, torch.device("cpu"), 224)
    found = extractor(pixels)
    assert cramped.sizes == [20, 10, 5, 2, *[2] * 9]
    assert extractor.batch_size == 2
    np.testing.assert_array_equal(found, Extractor(Cramped(99, error), torch.device("cpu"), 224)(pixels))
    np.testing.assert_allclose(found, pixels.mean(axis=(2, 3)) / 255, atol=1e-6)


def test_not_even_one_image_fits():
    extractor = Extractor(Cramped(0, OUT_OF_MEMORY[0]), torch.device("cpu"), 224)
    with pytest.raises(MemoryError, match="not even one image"):
        extractor(np.zeros((4, 3, 8, 8), np.uint8))


def test_another_error_of_torch_is_not_taken_for_a_lack_of_memory():
    extractor = Extractor(Cramped(0, RuntimeError("shapes cannot be multiplied")), torch.device("cpu"), 224)
    with pytest.raises(RuntimeError, match="multiplied"):
        extractor(np.zeros((4, 3, 8, 8), np.uint8))


@pytest.fixture
def damaged(folder) -> list[Path]:
    """Three unreadable images among the six: two with the same content, and one that is gone."""
    paths = sorted(folder.iterdir())[:2]
    for path in paths:
        path.write_bytes(b"")
    gone = folder / f"gone{paths[0].suffix}"
    gone.symlink_to(folder / "nowhere")
    return [*paths, gone]


def test_all_unreadable_images_are_named(run, folder, damaged):
    with pytest.raises(DataError, match=re.escape("3 image(s) cannot be read")) as error:
        run(folder)
    assert all(str(path) in str(error.value) for path in damaged)
    assert "skip_unreadable" in str(error.value)


def test_unreadable_images_are_left_out_where_that_is_allowed(run, folder, damaged):
    for decoded, cached in ((4, 0), (0, 4)):
        found = run(folder, skip_unreadable=True)
        paths = sorted(folder.iterdir())
        assert [path for path, vectors in zip(paths, found.vectors, strict=True) if vectors is None] == sorted(damaged)
        assert (found.decoded, found.cached) == (decoded, cached)


def test_jobs_that_take_other_stages_share_the_cache(run, folder, job):
    run(folder)
    several = run(folder, job=job(features={"stages": "all", "pool": ["mean", "max"]}))
    assert (several.decoded, several.cached) == (0, 6)
    assert several.vectors[0].shape == (1, CACHED)
    last = run(folder, job=job())
    columns = columns_of(job())
    assert all(np.array_equal(all_[:, columns], one) for all_, one in zip(several.vectors, last.vectors, strict=True))


def test_a_mirrored_view_is_the_flipped_input_and_decoded_with_it(folder, tmp_path, extractor, job, decodings):
    paths = sorted(folder.iterdir())
    with FeatureCache(tmp_path / "cache", "ab" * 32, CACHED) as cache:
        found = extract([(path, [0, -1]) for path in paths], extractor, cache, job())
    assert decodings.total() == 6
    for path, vectors in zip(paths, found.vectors, strict=True):
        pixels = to_input(load_image(path), 64, "pad")[None]
        expected = extractor(np.concatenate([pixels, pixels[..., ::-1]]))[:, columns_of(job())]
        np.testing.assert_allclose(vectors, expected, atol=1e-4, rtol=1e-4)
        assert not np.array_equal(vectors[0], vectors[1])
