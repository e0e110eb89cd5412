"""now.json: what a run is doing, for who looks on."""

import json
import time

import pytest

from server import now as module
from server.now import NOW, STATES, HospitalNow, Now, NowFile
from server.recorder import Recorder
from server.rounds import Hooks, run_job


def asked(**changes):
    plain = {
        "kind": "fit",
        "round": 1,
        "since": 10.0,
        "deadline": 70.0,
        "needed": 1,
        "hospitals": {"a": HospitalNow("asked")},
    }
    return Now(**{**plain, **changes})


@pytest.fixture
def told(small_job, exchange_with, scripted, tmp_path):
    """What a run of two hospitals tells, of which one fails to train, and its folder."""

    def fails(_kind, _records):
        raise RuntimeError("SECRET")

    found = []
    job = small_job(method={"name": "fedavg", "rounds": 1}, quorum={"min_hospitals": 1, "deadline_s": 30})
    with Recorder(tmp_path / "run", job, "test") as recorder:
        hooks = Hooks(judged=[recorder.judged], now=[found.append, recorder.now.tell])
        run_job(job, exchange_with({"alpha": scripted(), "beta": scripted(tamper=fails)}), hooks)
        left = json.loads((recorder.folder / NOW).read_text())
    return found, left, recorder.folder


def test_each_question_is_told_until_all_have_answered_or_failed(told):
    found, _left, _folder = told
    kinds = list(dict.fromkeys((one.kind, one.round) for one in found))
    assert kinds[:3] == [("describe", 0), ("fit", 1), ("evaluate", 1)]
    last = {(one.kind, one.round): one for one in found}
    assert {name: one.state for name, one in last["fit", 1].hospitals.items()} == {
        "alpha": "answered",
        "beta": "failed",
    }
    assert "SECRET" not in repr(found)
    assert last["fit", 1].bytes_up > 0
    assert last["fit", 1].bytes_down > 0
    for one in found:
        assert one.deadline == pytest.approx(one.since + 30, abs=1)
        assert abs(one.since - time.time()) < 60
        assert {state.state for state in one.hospitals.values()} <= STATES.keys()


def test_the_file_is_there_while_the_process_is(told):
    found, left, folder = told
    assert (left["kind"], left["since"]) == (found[-1].kind, found[-1].since)
    assert set(left["hospitals"]) == {"alpha", "beta"}
    assert not (folder / NOW).exists()


def test_news_are_written_at_once_and_the_rest_now_and_then(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    file = NowFile(tmp_path)

    def written():
        return json.loads((tmp_path / NOW).read_text())

    file.tell(asked())
    two = {"a": HospitalNow("answered"), "b": HospitalNow("asked")}
    file.tell(asked(hospitals=two))
    assert written()["hospitals"] == {"a": {"state": "asked", "reason": ""}}
    clock[0] += 1
    file.tell(asked(hospitals=two))
    assert written()["hospitals"]["a"]["state"] == "answered"
    file.tell(asked(hospitals={name: HospitalNow("answered") for name in "ab"}))
    assert written()["hospitals"]["b"]["state"] == "answered"
    file.tell(asked(round=2))
    assert written()["round"] == 2


def test_a_disk_that_refuses_costs_nothing_but_a_line_of_log(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    NowFile(tmp_path / "file").tell(asked())
    assert "cannot be written" in caplog.text
