import pytest
import torch

from client.device import choose_device, decoding_threads, first_batch_size
from common.errors import ConfigError


def test_auto_is_a_device_that_is_here():
    assert torch.zeros(1, device=choose_device("auto")).sum() == 0


@pytest.mark.parametrize("word", ["tpu", "CPU", "", "cuda:x", "cpu:one", "cuda:999"])
def test_a_device_that_is_not_here_is_refused(word):
    with pytest.raises(ConfigError, match=f"device '{word}'"):
        choose_device(word)


def test_larger_images_come_in_smaller_batches():
    sizes = [first_batch_size(torch.device("cuda"), size) for size in (64, 224, 448, 1024, 100_000)]
    assert sizes == [256, 256, 64, 12, 1]
    assert first_batch_size(torch.device("cpu"), 224) == 32


def test_images_are_decoded_by_at_least_one_thread():
    assert decoding_threads() >= 1
