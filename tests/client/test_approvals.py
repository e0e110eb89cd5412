import json

import pytest

from client import approvals as module
from client.approvals import Approvals
from common.errors import ConfigError


@pytest.fixture
def approvals(tmp_path):
    return Approvals(tmp_path / "state")


def test_only_an_approved_job_is_allowed(approvals, job):
    assert not approvals.allows(job().job_id)
    approvals.approve(job())
    assert approvals.allows(job().job_id)
    assert not approvals.allows(job(seed=9).job_id)


def test_an_approval_is_seen_by_a_running_agent(approvals, job, tmp_path):
    running = Approvals(tmp_path / "state")
    approvals.approve(job())
    assert running.allows(job().job_id)
    approvals.revoke(job())
    assert not running.allows(job().job_id)


@pytest.mark.parametrize("job_id", ["", "abc", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "/"])
def test_what_is_no_job_id_is_not_allowed(approvals, job_id):
    assert not approvals.allows(job_id)


def test_waiting_jobs_come_first(approvals, job):
    approvals.note(job(name="b-waits"))
    approvals.approve(job(name="a-approved"))
    assert [(one.job.name, one.approved is None) for one in approvals.known()] == [
        ("b-waits", True),
        ("a-approved", False),
    ]
    assert approvals.approved_jobs() == [job(name="a-approved")]


def test_an_approval_says_when_and_by_whom(approvals, job):
    approvals.approve(job())
    [known] = approvals.known()
    assert " by " in known.approved
    assert known.approved.startswith("20")


def test_revoking_what_was_not_approved(approvals, job):
    assert not approvals.revoke(job())
    approvals.approve(job())
    assert approvals.revoke(job())
    assert [one.approved for one in approvals.known()] == [None]


def test_a_job_is_found_by_the_beginning_of_its_id(approvals, job):
    approvals.note(job())
    assert approvals.find(job().job_id[:6]) == job()
    assert approvals.find(job().job_id.upper()) == job()


@pytest.mark.parametrize(("beginning", "words"), [("ab", "at least 6"), ("zzzzzz", "got 0")])
def test_a_job_that_is_not_found(approvals, beginning, words, job):
    approvals.note(job())
    with pytest.raises(ConfigError, match=words):
        approvals.find(beginning)


def test_a_coordinator_cannot_fill_the_disk(approvals, job, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    for seed in range(5):
        approvals.note(job(seed=seed))
    assert len(approvals.known()) == 3
    approvals.approve(job(seed=0))
    approvals.note(job(seed=9))
    assert len(approvals.known()) == 4


def test_a_job_that_was_changed_on_the_disk_is_not_approved_by_its_old_name(approvals, job, tmp_path):
    approvals.note(job())
    path = tmp_path / "state" / "jobs" / f"{job().job_id}.json"
    path.write_text(job(seed=9).canonical_json())
    assert approvals.known() == []
    with pytest.raises(ConfigError, match="not the job of its name"):
        approvals.find(job().job_id)


def test_a_damaged_approval_is_still_an_approval(approvals, job, tmp_path):
    approvals.approve(job())
    (tmp_path / "state" / "approvals" / f"{job().job_id}.json").write_text("not json")
    assert [one.approved for one in approvals.known()] == ["at an unknown time"]


def test_the_files_are_for_their_owner_only(approvals, job, tmp_path):
    approvals.approve(job())
    state = tmp_path / "state"
    assert state.stat().st_mode & 0o777 == 0o700
    for path in (*state.glob("jobs/*"), *state.glob("approvals/*")):
        assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(next(state.glob("approvals/*")).read_text())["name"] == "test-job"
