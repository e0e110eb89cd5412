"""What a hospital keeps of a job, by round."""

import numpy as np
import pytest

from client.local_state import LocalState, load_arrays
from common.errors import DataError


def some(value: float) -> dict[str, np.ndarray]:
    return {"weight": np.full((2, 3), value, np.float32), "tuned.features.1.bias": np.full(4, value, np.float32)}


@pytest.fixture
def state(tmp_path, job):
    return LocalState(tmp_path, "st-marys", job())


def test_a_round_comes_back(state):
    state.save("control", 3, some(1.5))
    back = state.load("control", 3)
    assert {name: array.tolist() for name, array in back.items()} == {n: a.tolist() for n, a in some(1.5).items()}
    assert state.load("control", 2) == {}
    assert state.load("batch-norm", 3) == {}


def test_the_last_two_rounds_are_kept_for_a_round_that_is_asked_for_again(state):
    for number in (1, 2, 3):
        state.save("control", number, some(number))
    assert state.load("control", 1) == {}
    assert state.load("control", 2)["weight"][0, 0] == 2
    assert state.load("control", 3)["weight"][0, 0] == 3


def test_all_rounds_are_kept_where_any_may_be_the_one_chosen(state):
    for number in (1, 2, 3, 4):
        state.save("batch-norm", number, some(number), keep_all=True)
    assert state.load("batch-norm", 1)["weight"][0, 0] == 1


def test_a_round_missed_has_the_state_of_the_one_before(state):
    state.save("batch-norm", 1, some(1), keep_all=True)
    state.save("batch-norm", 4, some(4), keep_all=True)
    assert state.load_latest("batch-norm", 3)["weight"][0, 0] == 1
    assert state.load_latest("batch-norm", 9)["weight"][0, 0] == 4
    assert state.load_latest("batch-norm", 0) == {}


def test_a_run_begun_anew_forgets_the_rounds_of_the_one_before(state):
    for number in (1, 2, 3):
        state.save("batch-norm", number, some(number), keep_all=True)
    state.save("batch-norm", 1, some(7), keep_all=True)
    assert state.load("batch-norm", 3) == {}
    assert state.load_latest("batch-norm", 9)["weight"][0, 0] == 7


def test_jobs_and_hospitals_are_kept_apart(tmp_path, job):
    folders = {LocalState(tmp_path, name, one).folder for name in ("a", "b") for one in (job(), job(seed=4))}
    assert len(folders) == 4


def test_the_folder_is_private(state):
    state.save("control", 1, some(1))
    assert state.folder.stat().st_mode & 0o777 == 0o700


def test_a_damaged_file_is_named_with_what_to_do(state):
    state.save("control", 1, some(1))
    state.path("control", 1).write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"control-00001\.safetensors.*cannot be read.*run the job again"):
        state.load("control", 1)
    with pytest.raises(DataError):
        load_arrays(state.folder / "gone.safetensors")
