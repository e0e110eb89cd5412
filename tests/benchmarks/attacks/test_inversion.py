"""From gradients of tiny networks to images."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.attacks.gradient_inversion import (
    full_job,
    gradient_in,
    gradient_of_network,
    mean_gradient,
    round_of,
    seen_by_transformer,
)
from benchmarks.attacks.inversion import patches_in, put_together, roughness, searched, similarity
from client.images import load_image, to_input
from client.records import read_rows
from common.head import Head
from common.model import Model


class TinyTransformer(nn.Module):
    """Patches of 4 pixels, their positions, something that mixes tokens, a class."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 16, 64) / 10)
        self.mix = nn.TransformerEncoderLayer(64, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(64 * 16, 2)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.mix(tokens).flatten(1))


def gradients(network: nn.Module, images: Tensor, labels: list[int]) -> dict[str, np.ndarray]:
    loss = cross_entropy(network(images), torch.tensor(labels))
    found = torch.autograd.grad(loss, list(network.parameters()))
    names = [name for name, _ in network.named_parameters()]
    return {name: one.numpy() for name, one in zip(names, found, strict=True)}


def images(number: int, size: int = 16) -> Tensor:
    noise = torch.rand(number, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(noise, size=(size, size), mode="bilinear")


def through_patches(found: dict[str, np.ndarray]) -> Tensor:
    return torch.tensor(put_together(patches_in(found["positions"][0], found["patches.weight"])))[None]


@pytest.fixture
def transformer() -> TinyTransformer:
    torch.manual_seed(0)
    return TinyTransformer().eval()


def test_an_image_is_solved_for_through_an_embedding_of_patches(transformer: TinyTransformer) -> None:
    true = images(1)
    found = through_patches(gradients(transformer, true, [1]))
    np.testing.assert_allclose(found, true, atol=1e-2)


def test_of_two_images_neither_is(transformer: TinyTransformer) -> None:
    true = images(2)
    found = through_patches(gradients(transformer, true, [0, 1]))
    assert min(float((found - one).abs().max()) for one in true) > 0.2


def test_patches_are_put_together_row_by_row() -> None:
    image = images(1)[0].numpy()
    patches = image.reshape(3, 4, 4, 4, 4).transpose(1, 3, 0, 2, 4).reshape(16, 3, 4, 4)
    np.testing.assert_array_equal(put_together(patches), image)


def test_a_transformers_update_is_read_by_the_names_it_travels_under(transformer: TinyTransformer) -> None:
    """Pixels are normalised as ImageNet's, the class token comes first, and the image is grey."""
    true = images(1)[:, :1].expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = gradients(transformer, (true - mean) / std, [1])
    positions = np.concatenate([np.zeros((1, 1, 64)), found["positions"]], axis=1)
    seen = seen_by_transformer(
        {"tuned.encoder.pos_embedding": positions, "tuned.conv_proj.weight": found["patches.weight"]}
    )
    assert similarity(seen, true)[0] > 0.99


def test_a_search_comes_nearer_to_the_image() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(12 * 64, 2))
    true = images(1, 8)[:, :1].expand(-1, 3, -1, -1)

    def gradient(some: Tensor) -> list[Tensor]:
        loss = cross_entropy(network(some), torch.tensor([1]))
        return list(torch.autograd.grad(loss, list(network.parameters()), create_graph=True))

    begin = torch.full((1, 3, 8, 8), 0.5)
    found = searched(gradient, [one.detach() for one in gradient(true)], begin, 150, lr=0.05)
    assert similarity(found, true)[0] > 0.9
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_similarity_by_hand() -> None:
    one = images(1)
    assert similarity(one, one) == pytest.approx((1.0, 120.0, 1.0))
    cosine, psnr, index = similarity(1 - one, one)
    assert cosine == pytest.approx(-1.0)
    assert psnr == pytest.approx(-10 * np.log10(float((1 - 2 * one).square().mean())), abs=1e-3)
    assert index < 0.2


def test_roughness_is_the_mean_step() -> None:
    assert float(roughness(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))) == 1.0


def test_a_sum_of_gradients_weighs_by_examples() -> None:
    mixed = mean_gradient([{"a": np.ones(2)}, {"a": np.zeros(2)}], [1, 3])
    np.testing.assert_array_equal(mixed["a"], [0.25, 0.25])


def test_the_gradient_in_an_update_of_several_steps_takes_out_learning_rates_and_decay() -> None:
    job = full_job("squeezenet1_1", epochs=2, size_px=32)
    lr, tuned_lr, decay = job.method.local.lr, job.tune.lr or 0.0, job.method.local.weight_decay
    start = Model(Head(np.ones((2, 3), np.float32), np.zeros(2, np.float32)), {"x": np.ones(4, np.float32)})
    # Two steps of momentum 0.9 on a gradient that stays 1: the steps are 1 and 1.9.
    moved = {
        name: array - (tuned_lr if "x" in name else lr) * 2.9 * (1 + decay * array)
        for name, array in start.arrays().items()
    }
    found = gradient_in(
        start, Model.from_arrays({name: array.astype(np.float32) for name, array in moved.items()}), job, 2
    )
    for array in found.values():
        np.testing.assert_allclose(array, 1.0, atol=1e-3)


def test_the_update_of_a_real_round_has_the_gradient_of_its_one_image(phantoms, tmp_path) -> None:
    """What `client.deep` sends is what the attack computes with: the network's own gradient at the image."""
    row = next(row for row in read_rows(next(iter(phantoms.values()))))
    job = full_job("squeezenet1_1", size_px=32)
    start, shown = round_of(job, [(row.path, "normal")], tmp_path / "hospital")
    gradient, names = gradient_of_network(job, start, 0)
    image = torch.from_numpy(to_input(load_image(row.path), 32, "pad")).float()[None] / 255
    true = dict(zip(names, gradient(image), strict=True))
    assert true.keys() == shown.keys()
    for name in ("weight", "bias", "tuned.features.0.weight"):
        expected = true[name].detach().numpy()
        np.testing.assert_allclose(shown[name], expected, atol=0.02 * np.abs(expected).max())
