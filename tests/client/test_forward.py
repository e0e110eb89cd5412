"""The faster backbone gives the features of the plain one, is chosen only where it does, and touches nothing else."""

import logging
import threading

import numpy as np
import pytest
import torch
from torch import nn

from client import folding, forward
from client.backbone import NETWORKS, Backbone, digest_of
from client.extractor import Extractor
from client.feature_cache import FeatureCache
from client.feature_space import all_blocks
from client.features import extract
from client.folding import folded, joined
from client.forward import TOLERANCE, Forward, distance, faster, features_of, lanes_on, open_lanes
from client.records import read_rows

CPU = torch.device("cpu")
SIZES = {"inception_v3": 80, "vit_b_16": 224, "swin_t": 64}
"""Sides in pixels that a network needs or that keep it small; 48 for the others."""
LEFT = {"densenet121": 62}
"""Batch normalisations that stay: before a convolution, not after it."""
HEAVY = {"vgg16", "vit_b_16", "resnet50", "resnet34", "convnext_tiny", "swin_t", "mobilenet_v3_large", "squeezenet1_0"}


def unsettled(name: str) -> Backbone:
    """A backbone with random weights whose batch normalisations have statistics, scales and shifts that are far from 1 and 0."""
    generator = torch.Generator().manual_seed(0)
    if name in HEAVY:
        network = NETWORKS[name].build()
    else:  # PyTorch's own first weights take seconds
        with torch.device("meta"):
            network = NETWORKS[name].build()
        network.to_empty(device="cpu")
        for tensor in [*network.parameters(), *network.buffers()]:
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
            _ = (
                tensor.data.normal_(0, fan_in**-0.5, generator=generator)
                if tensor.is_floating_point()
                else tensor.zero_()
            )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.3, generator)
            nn.init.uniform_(layer.running_var, 0.5, 1.5, generator)
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator)
            nn.init.normal_(layer.bias, 0, 0.3, generator)
    return Backbone(NETWORKS[name], network, digest_of(network), name)


def pixels_of(size_px: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3, size_px, size_px), np.uint8)


@pytest.fixture(scope="module")
def small() -> Extractor:
    """A network with batch normalisations, residual connections, gates and three kinds of activation."""
    return Extractor(unsettled("mobilenet_v3_small"), CPU, 48)


@pytest.fixture
def many(monkeypatch):
    """From one image on a faster backbone is worth its making."""
    monkeypatch.setattr(forward, "MANY", 1)


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one in HEAVY)) for one in NETWORKS])
def test_folded_and_joined_features_are_the_plain_ones(name):
    backbone = unsettled(name)
    extractor = Extractor(backbone, CPU, SIZES.get(name, 48))
    pixels = pixels_of(extractor.size_px)
    plain = features_of(backbone, extractor, pixels)
    fold = backbone.with_blocks(folded)
    assert distance(features_of(fold, extractor, pixels), plain, name) < TOLERANCE
    left = [layer for _, block in fold._chain for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(left) == LEFT.get(name, 0)
    if torch.backends.mkldnn.is_available():
        join = fold.with_blocks(joined)
        assert distance(features_of(join, extractor, pixels), plain, name) < TOLERANCE
        few = features_of(join, extractor, pixels[:1])  # the weights were packed for three
        assert distance(few, plain[:1], name) < TOLERANCE
    assert digest_of(backbone.network) == backbone.digest == fold.digest
    assert fold.network is backbone.network
    np.testing.assert_array_equal(features_of(backbone, extractor, pixels), plain)


def test_a_convolution_whose_result_is_also_read_elsewhere_keeps_its_batch_normalisation():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            nn.init.uniform_(self.norm.running_var, 2.0, 3.0)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    block, x = Both().eval(), torch.rand(2, 3, 4, 4)
    assert folded(block) is block
    with torch.inference_mode():
        torch.testing.assert_close(joined(block)(x), block(x), rtol=1e-5, atol=1e-5)


def test_a_block_that_cannot_be_traced_stays():
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    block = Deciding().eval()
    assert folded(block) is block
    assert joined(block) is block


def test_lanes_give_the_features_of_the_plain_backbone_in_order(small, many):
    pixels = pixels_of(48, 11)
    with Forward(small, 11) as lanes:
        found, again = lanes.begin(pixels), lanes.begin(pixels[::-1].copy())
        assert distance(found(), features_of(small.backbone, small, pixels), small.backbone.name) < TOLERANCE
        assert distance(again()[::-1], found(), small.backbone.name) < TOLERANCE
        assert "folded" in lanes.words


def test_equal_images_give_equal_bits(small, many):
    found = []
    for _ in range(2):
        with Forward(small, 9) as lanes:
            found.append(lanes.begin(pixels_of(48, 9))())
    np.testing.assert_array_equal(found[0], found[1])


def test_few_images_take_the_backbone_as_it_is(small):
    with Forward(small, 3) as few:
        np.testing.assert_array_equal(few.begin(pixels_of(48))(), small(pixels_of(48)))
        assert few.words == "cpu, float32, as it is"


@pytest.mark.parametrize("gone", ["mkldnn_reorder_conv2d_weight", None])
def test_without_onednn_the_layers_are_folded_only_and_without_folding_left_as_they_are(gone, monkeypatch):
    extractor = Extractor(unsettled("mobilenet_v3_small"), CPU, 48)
    if gone:
        monkeypatch.delattr(torch._C._nn, gone)
        assert faster(extractor)[0] == "batch norm folded"
    else:
        monkeypatch.setattr(folding, "fuse_conv_bn_eval", lambda *_: 1 / 0)
        assert faster(extractor) == ("as it is", extractor.backbone)


def test_what_gives_other_features_is_left_out(monkeypatch):
    extractor = Extractor(unsettled("mobilenet_v3_small"), CPU, 48)

    def wrong(block):
        return nn.Sequential(folded(block), nn.Hardtanh(-1e9, 0.9))

    monkeypatch.setattr(forward, "_JOINED", (("clipped", lambda one: one.with_blocks(wrong)),))
    assert faster(extractor)[0] == "batch norm folded"
    broken = (("nowhere", lambda one: one.with_blocks(lambda block: nn.Sequential(block, _NotANumber()))),)
    monkeypatch.setattr(forward, "_JOINED", broken)
    monkeypatch.setattr(forward, "_FOLDED", ())
    assert faster(Extractor(unsettled("mobilenet_v3_small"), CPU, 48))[0] == "as it is"


class _NotANumber(nn.Module):
    def forward(self, x):
        return x * float("nan")


def test_a_faster_backbone_is_remembered_until_a_weight_changes():
    extractor = Extractor(unsettled("mobilenet_v3_small"), CPU, 48)
    _, first = faster(extractor)
    assert faster(extractor)[1] is first
    with torch.no_grad():
        next(extractor.backbone.network.parameters()).mul_(2.0)
    _, second = faster(extractor)
    assert second is not first
    pixels = pixels_of(48)
    plain = features_of(extractor.backbone, extractor, pixels)
    assert distance(features_of(second, extractor, pixels), plain, "mobilenet_v3_small") < TOLERANCE
    assert distance(features_of(first, extractor, pixels), plain, "mobilenet_v3_small") > TOLERANCE


def test_lanes_leave_the_number_of_threads_as_it_is():
    before = torch.get_num_threads()
    lanes = open_lanes(CPU, 2, 1)
    both = threading.Barrier(2)
    seen = list(lanes.map(lambda _: (both.wait(), torch.get_num_threads())[1], range(2)))
    later: list[int] = []
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    lanes.shutdown()
    assert (seen, torch.get_num_threads(), later) == ([1, 1], before, [before])


@pytest.mark.parametrize(("threads", "expected"), [(1, (1, 1)), (2, (2, 1)), (8, (8, 1)), (64, (8, 8))])
def test_lanes_and_threads_fit_the_cores(threads, expected, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert lanes_on(CPU) == expected


def test_out_of_memory_gives_a_lane_fewer_images(small, many, monkeypatch):
    sizes = []

    def cramped(backbone, extractor, pixels):
        sizes.append(len(pixels))
        if len(pixels) > room:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")
        return features_of(backbone, extractor, pixels)

    plain = features_of(small.backbone, small, pixels_of(48, 6))
    with Forward(small, 6) as lanes:
        monkeypatch.setattr(forward, "features_of", cramped)
        room = 2
        assert distance(lanes.begin(pixels_of(48, 6))(), plain, small.backbone.name) < TOLERANCE
        assert max(sizes) == 4
        room = 0
        with pytest.raises(MemoryError, match="not even one image"):
            lanes.begin(pixels_of(48, 2))()


def test_a_gpu_has_two_lanes_each_with_a_stream_and_takes_pinned_memory(monkeypatch):
    cuda, streams, synchronised = torch.device("cuda"), [], []
    monkeypatch.setattr(torch.cuda, "synchronize", synchronised.append)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: streams.append((threading.get_ident(), stream)))
    assert lanes_on(cuda) == (2, 1)
    open_lanes(cuda, 2, 1).shutdown()
    assert synchronised == [cuda]
    assert len({thread for thread, _ in streams}) == len({id(stream) for _, stream in streams}) == 2

    done = []

    class Told:
        def pin_memory(self):
            done.append("pinned")
            return self

        def to(self, device, non_blocking):
            done.append((str(device), non_blocking))
            return torch.zeros(1, 3, 2, 2, dtype=torch.uint8)

    extractor = Extractor(unsettled("mobilenet_v3_small"), CPU, 48)
    extractor.device = cuda
    monkeypatch.setattr(torch, "from_numpy", lambda _: Told())
    extractor.to_images(pixels_of(2))
    assert done == ["pinned", ("cuda", True)]


def test_what_is_cached_by_lanes_is_of_the_same_space_and_of_no_other(tmp_path, phantoms, small, many, job, caplog):
    """The faster features lie where the plain ones would, within the tolerance; another network's never do."""
    paths = [row.path for row in read_rows(phantoms["hospital-a"])[:6]]
    asked = [(path, [0, -1]) for path in paths]
    one = job(backbone={"name": "mobilenet_v3_small", "weights": {"name": "random", "seed": 1}}, image={"size": 48})
    width = all_blocks("mobilenet_v3_small")[-1].stop
    with caplog.at_level(logging.INFO, "client.features"), FeatureCache(tmp_path, "a" * 64, width) as cache:
        quick = extract(asked, small, cache, one)
        again = extract(asked, small, cache, one)
    with FeatureCache(tmp_path, "b" * 64, width) as cache, pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "MANY", 10**9)
        plain = extract(asked, small, cache, one)
    assert (quick.decoded, again.cached, plain.decoded) == (6, 6, 6)
    for rows, same, expected in zip(quick.vectors, again.vectors, plain.vectors, strict=True):
        np.testing.assert_array_equal(rows, same)
        assert np.linalg.norm(rows - expected) < TOLERANCE * np.linalg.norm(expected)
    line, *_ = [record.getMessage() for record in caplog.records if "a second" in record.getMessage()]
    assert line.startswith("12 images through mobilenet_v3_small, ")
    assert str(paths[0]) not in line


def test_few_images_in_lanes_have_the_layers_as_they_are(small):
    with Forward(small, 9) as lanes:
        assert "as it is" in lanes.words
        plain = features_of(small.backbone, small, pixels_of(48, 9))
        assert distance(lanes.begin(pixels_of(48, 9))(), plain, small.backbone.name) < TOLERANCE


def test_the_maximum_is_the_same_with_and_without_a_gradient(small):
    images = small.to_images(pixels_of(48))
    blocks = all_blocks(small.backbone.name)
    with torch.no_grad():
        found = small.backbone.features(images, blocks)
    with torch.inference_mode():
        assert torch.equal(small.backbone.features(images, blocks), found)
