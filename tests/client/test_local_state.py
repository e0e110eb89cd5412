"""What a hospital keeps of a job, by round, and that a file says what it belongs to."""

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from client.local_state import Kept, LocalState, load_kept
from common.errors import DataError


def some(value: float) -> dict[str, np.ndarray]:
    return {"weight": np.full((2, 3), value, np.float32), "tuned.features.1.bias": np.full(4, value, np.float32)}


def first(arrays) -> float:
    return float(arrays["weight"][0, 0])


@pytest.fixture
def state(tmp_path, job):
    return LocalState(tmp_path, "st-marys", job())


def test_a_round_comes_back_with_what_it_belongs_to(state, job):
    state.save("batch-norm", 3, some(1.5))
    kept = load_kept(state.path("batch-norm", 3))
    assert isinstance(kept, Kept)
    assert (kept.job_id, kept.number, kept.model) == (job().job_id, 3, "")
    assert {name: array.tolist() for name, array in kept.arrays.items()} == {
        n: a.tolist() for n, a in some(1.5).items()
    }
    assert all(array.dtype == np.float32 for array in kept.arrays.values())
    back = state.load_latest("batch-norm", 3)
    assert {name: array.tolist() for name, array in back.items()} == {n: a.tolist() for n, a in some(1.5).items()}


def test_a_file_says_which_model_it_was_made_from(state):
    state.save("personal", 2, some(1), "ab" * 32)
    assert load_kept(state.path("personal", 2)).model == "ab" * 32


def test_arrays_that_are_views_are_kept_as_they_are(state):
    state.save("batch-norm", 1, {"weight": np.arange(6, dtype=np.float32).reshape(2, 3).T})
    assert state.load_latest("batch-norm", 1)["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_all_rounds_are_kept_as_any_may_be_the_one_chosen(state):
    for number in (1, 2, 3, 4):
        state.save("batch-norm", number, some(number))
    assert [first(state.load_latest("batch-norm", number)) for number in (1, 2, 3, 4)] == [1, 2, 3, 4]


def test_a_round_missed_has_the_state_of_the_last_one_before(state):
    state.save("batch-norm", 1, some(1))
    state.save("batch-norm", 4, some(4))
    assert first(state.load_latest("batch-norm", 3)) == 1
    assert first(state.load_latest("batch-norm", 9)) == 4
    assert state.load_latest("batch-norm", 0) == {}


def test_a_round_asked_for_again_replaces_its_file_and_forgets_the_later_ones(state):
    for number in (1, 2, 3):
        state.save("batch-norm", number, some(number))
    state.save("batch-norm", 2, some(7))
    assert [first(state.load_latest("batch-norm", number)) for number in (1, 2, 9)] == [1, 7, 7]
    assert sorted(path.name for path in state.folder.iterdir()) == [
        "batch-norm-00001.safetensors",
        "batch-norm-00002.safetensors",
    ]


def test_the_parts_are_kept_apart(state):
    state.save("batch-norm", 3, some(1))
    state.save("personal", 1, some(2), "ab" * 32)
    assert first(state.load_latest("batch-norm", 3)) == 1
    assert first(state.load_latest("personal", 3)) == 2
    assert state.load_latest("another", 9) == {}


def test_jobs_and_hospitals_are_kept_apart(tmp_path, job):
    states = [LocalState(tmp_path, name, one) for name in ("a", "b") for one in (job(), job(seed=4))]
    assert len({state.folder for state in states}) == 4
    for at, state in enumerate(states):
        state.save("batch-norm", 1, some(at))
    assert [first(state.load_latest("batch-norm", 1)) for state in states] == [0, 1, 2, 3]


def test_only_the_owner_can_read_it(state):
    state.save("batch-norm", 1, some(1))
    state.save("personal", 1, some(1), "ab" * 32)
    assert state.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in state.folder.iterdir()} == {0o600}
    state.save("batch-norm", 1, some(2))
    assert state.path("batch-norm", 1).stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_named_with_what_to_do(state):
    state.save("batch-norm", 1, some(1))
    state.path("batch-norm", 1).write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"batch-norm-00001\.safetensors.*cannot be read.*run the job again"):
        state.load_latest("batch-norm", 1)
    with pytest.raises(DataError, match=r"gone\.safetensors.*correct the path"):
        load_kept(state.folder / "gone.safetensors")


@pytest.mark.parametrize(
    "about", [None, {}, {"job_id": "a" * 64}, {"round": "1"}, {"job_id": "a" * 64, "round": "last"}]
)
def test_a_file_that_does_not_say_what_it_belongs_to_is_none_of_ours(about, tmp_path):
    path = tmp_path / "batch-norm-00001.safetensors"
    path.write_bytes(safetensors.numpy.save(some(1), metadata=about))
    with pytest.raises(DataError, match=r"batch-norm-00001\.safetensors.*cannot be read"):
        load_kept(path)
