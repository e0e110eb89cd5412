"""What of the backbone a job tunes, and arrays that are in it for a while."""

import numpy as np
import pytest
import torch

from client.backbone import digest_of
from client.tuned import cut_of, installed, pretrained
from client.weights import load_backbone
from common.errors import ConfigError, WeightsError
from common.job import Weights


def test_installed_arrays_are_there_and_gone_again(case):
    one = case("mobilenet_v3_small")
    before = digest_of(one.backbone.network)
    name = next(iter(one.tuned))
    array = np.full_like(one.tuned[name], 0.25)
    array.flags.writeable = False
    seen = []

    def fail():
        seen.append(one.backbone.network.state_dict()[name].numpy().copy())
        raise KeyError

    with pytest.raises(KeyError), installed(one.backbone, {name: array}):
        fail()
    assert np.array_equal(seen[0], array)
    assert digest_of(one.backbone.network) == before
    with (
        pytest.raises(WeightsError, match=r"features\.99"),
        installed(one.backbone, {name: array, "features.99": array}),
    ):
        pass
    assert digest_of(one.backbone.network) == before


def test_nothing_of_the_backbone_travels_when_the_head_alone_is_trained(job):
    backbone = load_backbone("squeezenet1_1", Weights(name="random", seed=1))
    assert pretrained(job(), backbone) == {}
    assert cut_of(job(), backbone) == len(backbone.blocks)
    assert cut_of(job(tune="full"), backbone) == 0
    assert cut_of(job(tune={"part": "last-blocks", "blocks": 1}), backbone) == backbone.cut_before(1)


@pytest.mark.parametrize("network", ["squeezenet1_1", "mobilenet_v3_small"])
def test_last_blocks_are_fewer_than_all(job, network):
    """All of them would be another job under another name, and the activations before them the images."""
    weights = Weights(name="random", seed=1)
    backbone = load_backbone(network, weights)
    most = len(backbone.tunable_blocks) - 1

    def tuning(blocks):
        return job(backbone={"name": network, "weights": "random"}, tune={"part": "last-blocks", "blocks": blocks})

    assert cut_of(tuning(most), backbone) == backbone.blocks.index(backbone.tunable_blocks[1])
    for blocks in (most + 1, 100):
        with pytest.raises(ConfigError) as caught:
            cut_of(tuning(blocks), backbone)
        assert str(caught.value) == (
            f"tune.blocks: {network} has {most + 1} blocks with weights, so expected at most {most} last ones, got {blocks}; "
            "to tune everything write tune: full"
        )


def test_blocks_that_come_after_every_stage_are_not_tuned(job):
    """features.3 and features.6 of 19 blocks: the last 13 or fewer of them would train into nothing."""
    backbone = load_backbone("mobilenet_v2", Weights(name="random", seed=1))

    def tuning(blocks, *stages, part="last-blocks"):
        tune = {"part": part, **({"blocks": blocks} if blocks else {})}
        return job(backbone={"name": "mobilenet_v2", "weights": "random"}, features={"stages": list(stages)}, tune=tune)

    after = len(backbone.tunable_blocks) - backbone.tunable_blocks.index("features.6")
    assert cut_of(tuning(after, "features.3", "features.6"), backbone) == backbone.blocks.index("features.6")
    for blocks in (1, after - 1):
        with pytest.raises(ConfigError, match=f"the last {blocks} blocks come after every stage in features.stages"):
            cut_of(tuning(blocks, "features.3", "features.6"), backbone)
    # One stage after the cut is enough, and `full` is always before all.
    assert cut_of(tuning(1, "features.3", "output"), backbone) == backbone.cut_before(1)
    assert cut_of(tuning(None, "features.3", part="full"), backbone) == 0
    head = job(backbone={"name": "mobilenet_v2", "weights": "random"}, features={"stages": ["features.3"]})
    assert cut_of(head, backbone) == len(backbone.blocks)


def test_pretrained_arrays_keep_their_numbers(case):
    one = case()
    name = next(iter(one.tuned))
    before = one.tuned[name].copy()
    with torch.no_grad():
        one.backbone.network.get_parameter(name).add_(1.0)
    assert np.array_equal(one.tuned[name], before)
    with torch.no_grad():
        one.backbone.network.get_parameter(name).sub_(1.0)
