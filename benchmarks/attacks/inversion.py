"""From the gradient of a network to the image: in closed form through an embedding of patches, and by search.

Letters: T patches of (3, P, P), E width of the embedding, N images (N, 3, S, S) in [0, 1].
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

Gradient = Callable[[Tensor], Sequence[Tensor]]


def patches_in(positions: np.ndarray, weight: np.ndarray, least: float = 1e-4) -> np.ndarray:
    """The patches (T, 3, P, P), as the network gets them, of one image; float64.

    Tokens are weight x patch + position, so the gradient of the position is the token's own, d_t; the gradient of the weight is
    the sum of d_t x_t^T, and is solved for x. Source: Lu et al. 2022, arXiv 2112.14087 (there with attention in the place of it).

    Args:
        positions: gradient of the positions of the patches (T, E).
        weight: gradient of the embedding of patches (E, 3, P, P).
        least: singular values below it, relative to the greatest, are left out: rounding is greater.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    found = np.linalg.lstsq(positions.T.astype(np.float64), flat, rcond=least)[0]
    return np.asarray(found.reshape(len(positions), *weight.shape[1:]))


def put_together(patches: np.ndarray) -> np.ndarray:
    """Patches (T, 3, P, P), row by row of a square, as an image (3, S, S)."""
    side, size = math.isqrt(len(patches)), patches.shape[-1]
    rows = patches.reshape(side, side, 3, size, size).transpose(2, 0, 3, 1, 4)
    return np.asarray(rows.reshape(3, side * size, side * size))


def searched(
    gradient_of: Gradient, wanted: Sequence[Tensor], begin: Tensor, iterations: int, lr: float = 0.02
) -> Tensor:
    """A grey image (1, 3, S, S) whose gradient has the direction of `wanted`, from `begin`; it is smooth, too.

    Source: Geiping et al. 2020, arXiv 2003.14053, equation 4, with Adam on signed gradients and total variation.
    """
    grey = begin[:, :1].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([grey], lr=lr)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [iterations * part // 8 for part in (3, 5, 7)], 0.1)
    best, least = grey.detach().clone(), math.inf
    for _ in range(iterations):
        loss = 1 - _cosine(gradient_of(grey.expand(-1, 3, -1, -1)), wanted) + 0.01 * roughness(grey)
        if loss.item() < least:
            best, least = grey.detach().clone(), loss.item()
        optimizer.zero_grad()
        loss.backward()
        grey.grad = torch.sign(grey.grad)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            grey.clamp_(0, 1)
    return best.expand(-1, 3, -1, -1)


def _cosine(some: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (some, others))
    return torch.nn.functional.cosine_similarity(one, other, dim=0)


def roughness(images: Tensor) -> Tensor:
    """Total variation: the mean difference of neighbours."""
    down, right = (images[..., 1:, :] - images[..., :-1, :]).abs(), (images[..., 1:] - images[..., :-1]).abs()
    return down.mean() + right.mean()


def similarity(found: Tensor, true: Tensor) -> tuple[float, float, float]:
    """Cosine of the pixels less their mean, PSNR in dB and SSIM (7 x 7 windows) of two images (1, 3, S, S) in [0, 1].

    Source: Wang et al. 2004, IEEE Transactions on Image Processing 13(4), equation 13.
    """
    a, b = found.double(), true.double()
    centred, wanted = a - a.mean(), b - b.mean()
    cosine = (centred * wanted).sum() / (centred.norm() * wanted.norm() + 1e-12)
    psnr = -10 * math.log10(float((a - b).square().mean()) + 1e-12)
    mean_a, mean_b = avg_pool2d(a, 7, 1), avg_pool2d(b, 7, 1)
    spread = avg_pool2d(a * a, 7, 1) - mean_a**2 + avg_pool2d(b * b, 7, 1) - mean_b**2
    both = avg_pool2d(a * b, 7, 1) - mean_a * mean_b
    one, two = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + one) * (2 * both + two) / ((mean_a**2 + mean_b**2 + one) * (spread + two))
    return float(cosine), psnr, float(index.mean())
