"""The random projection that all hospitals share: by seed alone, the same in every version."""

import hashlib
from typing import Any

import numpy as np
import pytest

from common.job import Job, parse_job
from common.projection import projection_of

SMALL = {"stages": ["features.3"], "pool": ["mean"]}
WIDE = {"stages": "all", "pool": ["mean"]}


def job(projection: int = 8, seed: int = 3, **changes: Any) -> Job:
    """24 features; with `WIDE` 1816."""
    return parse_job(
        {
            "name": "j",
            "classes": ["a", "b"],
            "backbone": {"name": "mobilenet_v2", "weights": "random"},
            "features": SMALL,
            "method": {"name": "analytic", "stage_subsets": False, "projection": projection},
            "seed": seed,
            **changes,
        }
    )


@pytest.mark.parametrize("projected", [2, 8, 23])
def test_its_entries_are_signs_over_the_root_of_the_width(projected: int) -> None:
    found = projection_of(job(projected))
    assert (found.shape, found.dtype) == ((24, projected), np.float32)
    assert set(np.unique(found)) == {np.float32(-1 / np.sqrt(projected)), np.float32(1 / np.sqrt(projected))}


def test_the_seed_and_the_widths_decide_and_nothing_else() -> None:
    found = projection_of(job())
    assert np.array_equal(projection_of(job(name="other", classes=["x", "y", "z"])), found)
    assert not np.array_equal(projection_of(job(seed=4)), found)
    assert not np.array_equal(projection_of(job(9))[:, :8] * np.sqrt(9), found * np.sqrt(8))


def test_signs_are_even_and_rows_unlike() -> None:
    signs = np.sign(projection_of(job(1500, features=WIDE)))[:24]
    assert np.abs(signs.mean(axis=1)).max() < 5 / np.sqrt(1500)
    likeness = signs @ signs.T / 1500 - np.eye(24)
    assert np.abs(likeness).max() < 5 / np.sqrt(1500)


def test_lengths_are_kept_on_average() -> None:
    wide = job(400, features=WIDE)
    vectors = np.random.default_rng(0).normal(size=(200, wide.num_features))
    projected = vectors @ projection_of(wide)
    ratio = np.linalg.norm(projected, axis=1) / np.linalg.norm(vectors, axis=1)
    assert 0.8 < ratio.min() <= ratio.max() < 1.2
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)


def test_the_bytes_of_this_projection_never_change() -> None:
    """Hospitals of two versions project with it; a sum over different projections means nothing."""
    found = hashlib.sha256(projection_of(job()).astype("<f4").tobytes()).hexdigest()
    assert found == "549751d12506452021bf191007cf462323caf9c5bbbfa2aeb174907124f4af55"
