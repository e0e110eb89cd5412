"""What the coordinator receives is uniform for a fixed plain input: chi-square over many runs.

Each masked vector has fresh keys and seeds, the input is always the same. The bytes of its numbers are counted by their place in
the number (8 places, 256 values each); for uniform bytes the statistic has mean 255 and deviation 22.6, and is above 410 once in
4e8 times. Without a mask it is a million.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from common.packed import Packed
from common.secure_sum.layout import Layout, Slot
from common.secure_sum.masks import add_mask, pair_mask_key, pair_sign, self_mask_key
from common.secure_sum.messages import context_of, unpack_keys
from common.secure_sum.primitives import agreed_key
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Phase, Terms
from tests.common.secure_sum.sessions import Session, names, session

COUNT, RUNS, BOUND = 3, 200, 410.0
LAYOUT = Layout((Slot("examples", (), "count"), Slot("gram", (127,), "real", 24)))
SUBJECT = Subject("a" * 64, "statistics", LAYOUT, "c" * 64)
ME = 1
"""The place of the hospital that is looked at."""


def worst(vectors: npt.NDArray[np.uint64]) -> float:
    """The greatest chi-square statistic of the 8 places of bytes in some numbers."""
    found = []
    for place in range(8):
        values = (vectors.ravel() >> np.uint64(8 * place)) & np.uint64(255)
        counts = np.bincount(values.astype(np.int64), minlength=256)
        expected = vectors.size / 256
        found.append(((counts - expected) ** 2 / expected).sum())
    return float(max(found))


def secrets_of(made: Session, place: int) -> Any:
    return vars(made.hospitals[names(COUNT)[place]])["_secrets"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, npt.NDArray[np.uint64]]:
    """The vectors (RUNS, 128) of ME as the coordinator has them, knowing ever more."""
    folder: Path = tmp_path_factory.mktemp("runs")
    found: dict[str, list[Any]] = {"seen": [], "lost": [], "colluding": [], "everything": [], "difference": []}
    for _ in range(RUNS):
        made = session(folder, COUNT, subject=SUBJECT).until(Phase.UNMASK)
        replies = {name: reply.arrays["vector"].view(np.uint64) for name, reply in made.replies[Phase.MASKED].items()}
        vector = replies[names(COUNT)[ME]].copy()
        found["seen"].append(vector.copy())
        found["difference"].append(vector - replies["h00"])
        keys = unpack_keys(made.requests[Phase.SHARES]["h00"])
        context = context_of(Terms.unpack(made.requests[Phase.KEYS]["h00"]), keys)
        # As if ME were lost: its key is recovered and all its pair masks are known; the self mask is left.
        lost = vector.copy()
        for other in (0, 2):
            agreed = agreed_key(secrets_of(made, ME).mask, keys[other].mask)
            add_mask(lost, pair_mask_key(agreed, context, ME, other), -pair_sign(ME, other))
        found["lost"].append(lost)
        # As ME survived: its seed is recovered; h00 colludes and tells its key; the mask in common with h02 is left.
        add_mask(vector, self_mask_key(secrets_of(made, ME).seed, context, ME), -1)
        agreed = agreed_key(secrets_of(made, 0).mask, keys[ME].mask)
        add_mask(vector, pair_mask_key(agreed, context, ME, 0), -pair_sign(ME, 0))
        found["colluding"].append(vector.copy())
        agreed = agreed_key(secrets_of(made, 2).mask, keys[ME].mask)
        add_mask(vector, pair_mask_key(agreed, context, ME, 2), -pair_sign(ME, 2))
        found["everything"].append(vector)
    return {name: np.stack(rows) for name, rows in found.items()}


@pytest.mark.parametrize("known", ["seen", "lost", "colluding", "difference"])
def test_a_masked_vector_is_uniform(known: str, runs: dict[str, npt.NDArray[np.uint64]]) -> None:
    """As received; with all pair masks known; with the self mask and all but one pair mask known; less another's."""
    assert worst(runs[known]) < BOUND


def test_each_number_of_it_is_uniform_by_itself(runs: dict[str, npt.NDArray[np.uint64]]) -> None:
    """Over the runs, in 8 equal parts of the range; 7 degrees of freedom: above 60 once in 7e9 times."""
    for column in runs["seen"].T:
        counts = np.bincount((column >> np.uint64(61)).astype(np.int64), minlength=8)
        assert ((counts - RUNS / 8) ** 2 / (RUNS / 8)).sum() < 60


def test_no_vector_comes_twice(runs: dict[str, npt.NDArray[np.uint64]]) -> None:
    assert len(np.unique(runs["seen"])) == runs["seen"].size


def test_the_statistic_finds_what_is_not_masked(runs: dict[str, npt.NDArray[np.uint64]]) -> None:
    """With every mask known the plain vector is left, always the same: the control of the tests above."""
    assert (runs["everything"] == runs["everything"][0]).all()
    assert worst(runs["everything"]) > 100 * BOUND


def test_the_requests_of_other_hospitals_hold_no_share_in_the_open(tmp_path: Path) -> None:
    """All that passes the coordinator before the last phase, and the shares: no share is anywhere in it."""
    made = session(tmp_path, COUNT, subject=SUBJECT).until(Phase.UNMASK)
    passed = b"".join(_bytes(packed) for phase in made.replies for packed in made.replies[phase].values())
    for hospital in made.hospitals.values():
        for shares in vars(hospital)["_held"].values():
            assert shares.seed[4:] not in passed
            assert shares.key[4:] not in passed


def _bytes(packed: Packed) -> bytes:
    return b"".join(array.tobytes() for array in packed.arrays.values())
