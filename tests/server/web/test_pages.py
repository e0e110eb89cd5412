"""The coordinator's pages over real run directories: finished, failed, silent, going on, damaged."""

import asyncio
import json
import os
import re
import time

import pytest

from common.web.access import Access
from common.web.gate import Rules
from server.now import NOW, HospitalNow, Now, NowFile
from server.recorder import JOB, ROUNDS, SUMMARY, Recorder
from server.report import write_report
from server.rounds import Hooks, run_job
from server.storage import note_failure
from server.web.pages import ago, changes, make_site
from server.web.reading import FILES, folders, read

STRANGE = "run <b>&\"'"


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def runs(finished, small_job, exchange_with, scripted, examples, tmp_path):
    """A folder with a run of each kind. The finished ones are made once."""
    jobs = {"one": small_job(method={"name": "fedavg", "rounds": 3}), STRANGE: small_job(method="analytic", seed=9)}
    if not any(finished.iterdir()):
        for name, job in jobs.items():
            hospitals = {
                "alpha": scripted(examples=examples(1, [[20, 10], [6, 5], [7, 7]]), step=0.3),
                "beta <i>": scripted(examples=examples(2, [[9, 16], [5, 5], [6, 8]]), step=-0.1),
            }
            with Recorder(finished / name, job, "test") as recorder:
                hooks = Hooks(judged=[recorder.judged], checkpoint=[recorder.save], now=[recorder.now.tell])
                recorder.finish(run_job(job, exchange_with(hospitals), hooks))
            write_report(finished / name)
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in jobs:
        (folder / name).symlink_to(finished / name)
    lines = (finished / "one" / ROUNDS).read_text().splitlines(keepends=True)
    for name in ("going", "failed", "silent"):
        (folder / name).mkdir()
        (folder / name / JOB).write_text(jobs["one"].canonical_json())
        (folder / name / ROUNDS).write_text(lines[0] + lines[1][:40])
    hospitals = {"alpha": HospitalNow("answered"), "gamma": HospitalNow("failed", "not <connected>")}
    NowFile(folder / "going").tell(Now("fit", 2, time.time(), time.time() + 90, 2, hospitals, 100, 50))
    note_failure(folder / "failed", ValueError("two <hospitals> were missing"))
    long_ago = time.time() - 1e6
    for file in (folder / "silent").iterdir():
        os.utime(file, (long_ago, long_ago))
    (folder / "damaged").mkdir()
    (folder / "damaged" / JOB).write_text("{}")
    (folder / "no run").mkdir()
    return folder


@pytest.fixture
def site(runs):
    return make_site(runs, Rules(Access("test")), look_s=0.01)


@pytest.fixture
def person(site, visitor):
    return visitor(site)


def test_runs_are_told_apart_by_their_files(runs):
    states = {name: read(folder).state for name, folder in folders(runs).items()}
    assert states == {
        **{"one": "finished", STRANGE: "finished", "going": "running"},
        **{"failed": "failed", "silent": "silent", "damaged": "damaged"},
    }


def test_a_run_that_goes_on_shows_its_rounds_and_its_question(person):
    run = person.get("/api/runs/going").json()
    assert (run["rounds_done"], run["rounds_planned"]) == (1, 3)
    assert 80 < run["question"]["seconds_left"] <= 90
    assert run["question"]["hospitals"][1] == {"name": "gamma", "state": "failed", "reason": "not <connected>"}
    assert run["bytes_up"] == run["rounds"][0]["bytes_up"] + 50
    page = person.get("/runs/going").text
    assert "not &lt;connected&gt;" in page
    assert "Now: fit, round 2" in page
    assert 'class="plot"' in page


def test_the_page_of_a_finished_run_has_its_figures_and_files(person, runs):
    summary = json.loads((runs / "one" / SUMMARY).read_text())
    run = person.get("/api/runs/one").json()
    assert run["auroc"] == summary["metrics"]["pooled"]["auroc"]
    assert run["result"]["hospitals"].keys() == {"alpha", "beta <i>"}
    assert run["bytes_up"] == summary["communication"]["bytes_up"]
    page = person.get("/runs/one").text
    assert "beta &lt;i&gt;" in page
    for name in ("report.html", "model.safetensors"):
        assert f"/api/runs/one/files/{name}" in page


def test_every_file_is_given_as_it_is(person, runs):
    for name in FILES:
        answer = person.get(f"/api/runs/one/files/{name}")
        assert answer.content == (runs / "one" / name).read_bytes()
        assert answer.headers["content-disposition"].startswith("attachment")
    assert person.get("/api/runs/going/files/model.safetensors").status_code == 404
    assert person.get("/api/runs/one/files/run.lock").status_code == 422


def test_a_report_is_shown_with_its_styles_and_nothing_that_runs(person):
    answer = person.get("/runs/one/report")
    assert "<style>" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "sandbox" in policy
    assert "script-src" not in policy


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2fetc%2fpasswd", "no run", "nothing", "one%00"])
def test_a_name_is_no_path(person, name):
    for path in (f"/api/runs/{name}", f"/runs/{name}", f"/api/runs/{name}/files/job.json", f"/runs/{name}/report"):
        assert person.get(path).status_code == 404


def test_names_are_escaped_and_their_addresses_lead_there(person):
    page = person.get("/").text
    assert "<b>&" not in page
    addresses = re.findall(r'href="(/runs/[^"]+)"', page)
    assert len(addresses) == 6
    assert {person.get(address).status_code for address in addresses} == {200}


def test_runs_side_by_side(person):
    page = person.get("/compare", params={"run": ["one", STRANGE, "going"]})
    assert page.status_code == 200
    assert "different seeds" in page.text
    assert "Not every run is finished" in page.text
    assert page.text.count('aria-label="best"') > 0
    assert person.get("/compare").status_code == 200
    assert person.get("/compare", params={"run": ["nothing"]}).status_code == 404


def test_an_empty_folder_says_what_to_do(tmp_path, visitor):
    assert "There is no run here yet" in visitor(make_site(tmp_path, Rules(Access("test")))).get("/").text


def events(folder, then):
    """The events of a run; `then` is called after the first."""

    async def follow():
        found = []
        async for text in changes(folder, 0.01):
            found.append(json.loads(text.split("data: ")[1]))
            if len(found) == 1:
                then()
        return found

    return asyncio.run(asyncio.wait_for(follow(), 20))


def test_events_tell_of_changes_until_the_run_is_over(runs):
    folder = runs / "going"
    found = events(folder, lambda: note_failure(folder, ValueError("stopped")))
    assert found == [{"state": "running", "rounds": 1, "over": False}, {"state": "failed", "rounds": 1, "over": True}]


def test_events_are_a_stream_that_needs_a_login(person, site, visitor):
    answer = person.get("/runs/one/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("event: changed") == 1
    assert visitor(site, logged_in=False).get("/runs/one/events").status_code == 401


def test_damaged_files_are_passed_over(person, runs):
    folder = runs / "going"
    for text in ("[]", "{", '{"kind": 3}', '{"hospitals": {"a": 1}, "deadline": 1}'):
        (folder / NOW).write_text(text)
        assert person.get("/api/runs/going").json()["question"] is None
    (folder / ROUNDS).write_bytes(b"\xff\xfe\n{}\n")
    assert person.get("/runs/going").status_code == 200
    (folder / SUMMARY).write_text('{"metrics": {}}')
    assert person.get("/api/runs/going").json()["state"] == "damaged"
    assert person.get("/").status_code == 200


def test_how_long_ago():
    assert [ago(1000 - passed, 1000) for passed in (0, 119, 120, 7200, 172800)] == [
        "0 seconds ago",
        "119 seconds ago",
        "2 minutes ago",
        "2 hours ago",
        "2 days ago",
    ]
