"""The ServerApp: what it leaves when a run fails, and who may come and go."""

import json

import pytest
from flwr.app import Context, RecordDict

import server.app
from common.artifact import write_atomically
from common.errors import ConfigError, FederationError
from server.app import RETRY_S, app
from server.storage import FAILURE


@pytest.fixture
def start(server_job, scripted, grid_of, tmp_path):
    """Run the ServerApp with one scripted hospital; the run directory is `run`."""

    def make(job=None, **config):
        path = tmp_path / "job.json"
        write_atomically(path, (job or server_job()).canonical_json())
        grid = grid_of({"alpha": scripted()})
        config = {"job": str(path), "out": str(tmp_path / "run"), "engine": "in-process", "resume": False, **config}
        app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config))
        return tmp_path / "run"

    return make


def test_a_run_that_succeeds_leaves_a_summary_and_no_failure(start):
    folder = start()
    assert (folder / "summary.json").exists()
    assert (folder / "report.html").exists()
    assert not (folder / FAILURE).exists()


def test_a_run_that_fails_says_why_and_the_next_one_forgets_it(start, server_job, tmp_path):
    job = server_job(quorum={"min_hospitals": 2, "deadline_s": 0.1})
    with pytest.raises(FederationError):
        start(job=job)
    failure = json.loads((tmp_path / "run" / FAILURE).read_text())
    assert failure["kind"] == "FederationError"
    assert failure["exit_code"] == 6
    assert "1 hospitals are connected after 0.1 s, the job needs 2" in failure["error"]
    assert not (tmp_path / "run" / "summary.json").exists()
    start(resume=True)
    assert not (tmp_path / "run" / FAILURE).exists()


def test_an_unexpected_error_is_left_too(start, monkeypatch, tmp_path):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(server.app, "run_job", broken)
    with pytest.raises(ZeroDivisionError):
        start()
    failure = json.loads((tmp_path / "run" / FAILURE).read_text())
    assert (failure["kind"], failure["error"], failure["exit_code"]) == ("ZeroDivisionError", "by zero", 1)


def test_a_finished_run_gets_no_failure_from_a_second_one(start):
    folder = start()
    with pytest.raises(ConfigError, match="holds a run already"):
        start()
    assert not (folder / FAILURE).exists()


@pytest.mark.parametrize(
    ("engine", "retry_s"), [("in-process", None), ("ray", None), ("flower", RETRY_S), ("deployment", RETRY_S)]
)
def test_only_in_simulations_every_answer_is_final(engine, retry_s, start, monkeypatch):
    made = []
    real = server.app.Exchange

    def remembered(grid, **settings):
        made.append(settings)
        return real(grid, **settings)

    monkeypatch.setattr(server.app, "Exchange", remembered)
    start(engine=engine)
    assert made == [{"retry_s": retry_s}]
