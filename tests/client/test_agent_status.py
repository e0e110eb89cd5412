import pytest

from client.agent_status import STATUS, AgentStatus, StatusFile, read_status
from common.errors import DataError


@pytest.fixture
def status(tmp_path):
    return StatusFile(tmp_path / "state", AgentStatus(7, "st-marys", "/run/a.sock", "starting", 1.5))


def test_the_file_says_what_was_changed_last(status, tmp_path):
    assert read_status(tmp_path / "state") == AgentStatus(7, "st-marys", "/run/a.sock", "starting", 1.5)
    status.change(state="ready")
    assert read_status(tmp_path / "state").state == "ready"


def test_answers_and_refusals_are_counted_apart(status, tmp_path):
    for declined in (False, True, False):
        status.count(declined)
    found = read_status(tmp_path / "state")
    assert (found.answered, found.declined) == (2, 1)
    assert found.last_answer > 1.7e9


def test_work_is_told_as_it_goes_on(status, tmp_path):
    with status.doing("fit"):
        status.progress("images", 10, 10)
        found = read_status(tmp_path / "state")
        assert (found.doing, found.done, found.total) == ("fit", 10, 10)
    found = read_status(tmp_path / "state")
    assert (found.doing, found.done, found.total) == (None, 0, 0)


def test_progress_is_not_written_a_thousand_times(status, tmp_path):
    status.change(state="ready")
    before = (tmp_path / "state" / STATUS).stat().st_mtime_ns
    for done in range(1000):
        status.progress("images", done, 2000)
    assert (tmp_path / "state" / STATUS).stat().st_mtime_ns == before


def test_an_agent_that_never_ran_has_no_status(tmp_path):
    assert read_status(tmp_path / "nowhere") is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": 1, "more": 2}'])
def test_a_damaged_file_says_what_to_do(tmp_path, text):
    (tmp_path / STATUS).write_text(text)
    with pytest.raises(DataError, match="restart the agent"):
        read_status(tmp_path)
