"""The closed-form head of sums that were masked is that of the plain sums."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.ridge import Ridge
from common.secure_sum.layout import Layout, Slot
from common.secure_sum.terms import Phase, default_threshold
from common.sums import Sums
from tests.common.secure_sum.sessions import SUBJECT, names, session

FEATURES, CLASSES = 24, 3
WIDTH = FEATURES + 1
LAYOUT = Layout(
    (
        Slot("examples", (), "count"),
        Slot("gram", (WIDTH * (WIDTH + 1) // 2,), "real", 24),
        Slot("class-sums", (WIDTH, CLASSES), "real", 24),
    )
)


def sums_of(seed: int) -> Sums:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, 60)
    features = rng.normal(size=(60, FEATURES)) + labels[:, None] * rng.normal(size=FEATURES)
    return Sums.of(features.astype(np.float32), labels, CLASSES)


@pytest.mark.parametrize("lost", list(Phase)[:3])
@pytest.mark.parametrize("count", [3, 5, 20])
def test_the_head_is_the_same(count: int, lost: Phase, tmp_path: Path) -> None:
    """To 1e-6 of its greatest number, where float32 on the wire costs as much; the demand is 1e-4."""
    made = session(tmp_path, count, subject=replace(SUBJECT, layout=LAYOUT))
    sums = {name: sums_of(place) for place, name in enumerate(names(count))}
    for name, one in sums.items():
        made.arrays[name] = {
            "examples": np.array(60),
            "gram": one.triangle("float64"),
            "class-sums": one.class_sums,
        }
    gone = names(count)[: count - default_threshold(count)]
    total = made.until(None, {lost: set(gone)}).combiner.total
    assert total is not None
    left = [one for name, one in sums.items() if name not in gone]
    assert total.arrays["examples"] == 60 * len(left)
    plain, found = sum(left[1:], left[0]), Sums.from_triangle(total.arrays["gram"], total.arrays["class-sums"])
    assert found.contradiction() is None
    for strength in (1e-2, 1.0):
        wanted, head = Ridge(plain).scores(strength), Ridge(found).scores(strength)
        for one, other in ((wanted.weight, head.weight), (wanted.bias, head.bias)):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-6 * np.abs(one).max())
