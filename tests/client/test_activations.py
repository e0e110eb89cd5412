import hashlib
import logging
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import torch

from client.activations import Activations
from client.extractor import Extractor
from client.records import read_rows
from client.weights import load_backbone
from common.errors import DataError
from common.job import Weights

LOTS = 10**9


@pytest.fixture(autouse=True)
def _one_thread():
    """Where others want the processors too, layers as small as these wait ten times longer on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def wanted(phantoms):
    """Twelve images as they are, mirrored, and augmented."""
    images = [(hashlib.sha256(row.path.read_bytes()).digest(), row.path) for row in read_rows(phantoms["hospital-a"])]
    return [((digest, view), path) for digest, path in images[:12] for view in (0, -1, 3)]


@pytest.fixture(scope="module", params=["squeezenet1_1", "mobilenet_v3_small"])
def network(request):
    backbone = load_backbone(request.param, Weights(name="random", seed=1))
    return request.param, Extractor(backbone, torch.device("cpu"), 64)


@pytest.fixture
def make(job, network, tmp_path):
    """Activations before the last two blocks; call it with the budget and what to change."""
    name, extractor = network

    def made(budget_bytes=LOTS, cut=None, cache_dir=tmp_path, stages="all"):
        weights = {"name": "random", "seed": 1}
        chosen = job(backbone={"name": name, "weights": weights}, features={"stages": stages})
        before = extractor.backbone.cut_before(2) if cut is None else cut
        return Activations(chosen, extractor, before, cache_dir, budget_bytes)

    return made


def all_of(activations, wanted, sizes=None):
    """The batches as (activations, early features), and how many images went through the network for them."""
    sizes = sizes or [len(wanted)]
    batches, passed = [], []
    front = activations._extractor.backbone.front
    activations._extractor.backbone.front = lambda images, *rest: passed.append(len(images)) or front(images, *rest)
    try:
        with closing(activations.batches(wanted, sizes, "test")) as entering:
            batches = [(batch.activation, batch.early) for batch in entering]
    finally:
        del activations._extractor.backbone.front
    assert [len(activation) for activation, _ in batches] == sizes
    return np.concatenate([one for one, _ in batches]), np.concatenate([early for _, early in batches]), sum(passed)


def passes(images: int) -> int:
    """Of so many images, computed in decoded batches of a multiple of 8: the last batch is filled up."""
    return -(-images // 8) * 8


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one[:2], other[:2], strict=True))


def test_rest_of_what_enters_gives_the_features_of_the_whole_network(make, network, job, wanted):
    name, extractor = network
    activations = make()
    activation, early, _ = all_of(activations, wanted)
    chosen = job(backbone={"name": name, "weights": "random"}, features={"stages": "all"})
    pixels, _, _ = all_of(make(cut=0), wanted)
    with torch.inference_mode():
        whole = extractor.backbone.features(extractor.to_images(pixels), chosen.feature_blocks).numpy()
        late = chosen.feature_blocks[len(activations.early) :]
        rest = extractor.backbone.rest(torch.from_numpy(activation).float(), extractor.backbone.cut_before(2), late)
    assert 0 < early.shape[1] < whole.shape[1]
    np.testing.assert_allclose(early, whole[:, : early.shape[1]], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(rest.numpy(), whole[:, early.shape[1] :], rtol=2e-3, atol=2e-3 * np.abs(whole).max())


def test_what_was_computed_is_read_the_next_time_in_any_order(make, wanted):
    first = all_of(make(), wanted, [8, 8, 8, 11, 1])
    assert first[2] == passes(len(wanted))
    again = all_of(make(), wanted[::-1])
    assert again[2] == 0
    assert same([array[::-1] for array in again[:2]], first)


@pytest.mark.parametrize("images_with_room", [0, 24])
def test_without_room_on_the_disk_the_bits_are_the_same(
    make, network, wanted, tmp_path, caplog, monkeypatch, images_with_room
):
    monkeypatch.setattr(network[1], "batch_size", 16)
    # One first, so that the batches of the large cache are others than those of the small one.
    all_of(make(cache_dir=tmp_path / "large"), wanted[:1])
    large = all_of(make(cache_dir=tmp_path / "large"), wanted)
    row_bytes = 4 * len(make()._packed(np.zeros((1, 3, 64, 64), np.uint8))[0])
    budget_bytes = images_with_room * (row_bytes + 4096) + 40_000 if images_with_room else 0
    activations = make(budget_bytes, cache_dir=tmp_path / "small")
    caplog.set_level(logging.INFO)
    small, again = all_of(activations, wanted), all_of(activations, wanted, [5] * 7 + [1])
    assert same(small, large)
    assert same(again, large)
    assert again[2] > 0
    assert (again[2] < passes(len(wanted))) == (images_with_room > 0)
    assert caplog.text.count("is used up") == 1
    [path] = (tmp_path / "small").glob("activations-*.sqlite")
    assert images_with_room == 0 or path.stat().st_size <= budget_bytes


def test_an_image_wanted_twice_is_computed_once(make, wanted):
    activation, _, passed = all_of(make(0), [wanted[0], *wanted[:7], wanted[0]], [2, 5, 2])
    assert passed == 8
    assert np.array_equal(activation[0], activation[1])
    assert np.array_equal(activation[0], activation[-1])
    assert not np.array_equal(activation[1], activation[2])


def test_the_whole_network_gets_pixels_and_keeps_nothing(make, wanted, tmp_path):
    pixels, early, _ = all_of(make(cut=0), wanted, [30, 6])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(wanted), 3, 64, 64)
    assert early.shape == (len(wanted), 0)
    assert np.array_equal(pixels[1], pixels[0][..., ::-1])
    assert not list(tmp_path.iterdir())


def test_every_cut_and_every_choice_of_features_has_its_own_file(make, network, wanted, tmp_path):
    _, extractor = network
    for activations in (make(), make(cut=extractor.backbone.cut_before(1)), make(stages="last")):
        assert all_of(activations, wanted[:3])[2] == 8
    assert len(list(tmp_path.glob("activations-*.sqlite"))) == 3


@pytest.mark.parametrize("damage", ["no database", "in the middle"])
def test_a_damaged_file_is_set_aside_and_built_anew(make, wanted, tmp_path, caplog, damage):
    first = all_of(make(), wanted)
    [path] = tmp_path.glob("activations-*.sqlite")
    with path.open("r+b") as file:
        file.seek(0 if damage == "no database" else 2 * 4096)
        file.write(b"\xff" * (path.stat().st_size - file.tell()))
    again = all_of(make(), wanted)
    assert again[2] == passes(len(wanted))
    assert same(again, first)
    assert path.with_suffix(".damaged").exists()
    assert caplog.text.count("set aside") == 1
    assert all_of(make(), wanted)[2] == 0


def test_damage_that_shows_only_after_the_keys_were_read_costs_time_and_no_result(make, wanted, monkeypatch):
    first = all_of(make(), wanted)
    monkeypatch.setattr("client.activations.FeatureCache.get", lambda cache, keys: {})
    again = all_of(make(), wanted, [8, 8, 8, 12])
    assert again[2] == passes(len(wanted))
    assert same(again, first)


def test_a_full_disk_ends_the_writing_and_not_the_work(make, wanted, caplog, monkeypatch):
    activations = make()
    opened = activations._open

    def small():
        cache = opened()
        pages = cache._database.execute("PRAGMA page_count").fetchone()[0]
        cache._database.execute(f"PRAGMA max_page_count={pages + 2}")
        return cache

    monkeypatch.setattr(activations, "_open", small)
    full = all_of(activations, wanted)
    assert caplog.text.count("make room") == 1
    monkeypatch.undo()
    assert all_of(make(), wanted)[2] == passes(len(wanted))
    assert same(all_of(make(), wanted), full)


def test_an_image_that_can_no_longer_be_read_is_an_error_that_names_it(make, wanted, tmp_path):
    (tmp_path / "gone.png").write_bytes(b"no image")
    gone = ((bytes(32), 0), tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"(?s)cannot be read now.*gone\.png"):
        all_of(make(), [wanted[0], gone])


def test_what_is_too_large_for_float16_becomes_its_largest_number(make, wanted, network, monkeypatch):
    _, extractor = network
    front = extractor.backbone.front
    monkeypatch.setattr(
        extractor.backbone, "front", lambda *arguments: (1e9 * front(*arguments)[0], front(*arguments)[1])
    )
    activations = make()
    with closing(activations.batches(wanted, [len(wanted)], "test")) as batches:
        [entering] = batches
    assert np.isfinite(entering.activation).all()
    assert entering.activation.max() == np.float16(65504)


def test_the_file_is_private(make, wanted, tmp_path):
    all_of(make(cache_dir=tmp_path / "new"), wanted[:2])
    [path] = (tmp_path / "new").glob("*.sqlite")
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM features").fetchone() == (2,)
