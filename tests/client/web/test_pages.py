"""A hospital's pages: jobs, ledger, data; a stub stands for the model."""

import json
import re

import numpy as np
import pytest
import yaml

from client.agent_status import AgentStatus, StatusFile
from client.approvals import Approvals
from client.hospital_file import Data, HospitalFile
from client.ledger import Ledger
from client.policy import Policy
from client.web.api import NO_MODEL
from client.web.pages import DIAGNOSE, make_site
from common.packed import REFUSAL, Packed
from common.web.access import Access
from common.web.gate import Rules
from tests.client.web.stub import Stub

NAME = "st-marys"


@pytest.fixture
def own(phantoms, tmp_path):
    return HospitalFile(
        name=NAME, data=Data(folder=phantoms["hospital-a"]), cache=tmp_path / "cache", policy=Policy(approve="manual")
    )


@pytest.fixture
def site(own):
    return make_site(own, Rules(Access("test"), large={DIAGNOSE: 20_000}), Stub(20_000))


@pytest.fixture
def person(site, visitor):
    return visitor(site)


@pytest.fixture
def waiting(own, job):
    made = job(name="a-job")
    Approvals(own.state_folder).note(made)
    return made


def test_empty_states_say_what_comes(person):
    assert "No job waits" in person.get("/").text
    assert "does not run here" in person.get("/").text
    assert "There is no ledger yet" in person.get("/sent").text
    assert person.get("/api/sent").status_code == 404
    assert person.get("/sent/ledger.csv").status_code == 404
    assert "Look through the data" in person.get("/data").text
    assert person.get("/api/hospital").json()["agent"]["state"] == "away"


def test_a_job_is_read_and_approved_and_revoked(person, own, waiting):
    page = person.get("/").text
    assert "Waiting for approval" in page
    assert "never leaves" in page
    approvals = Approvals(own.state_folder)
    for decision, allowed in (("approve", True), ("revoke", False), ("approve", True)):
        [action] = re.findall(rf'action="(/jobs/[0-9a-f]+/{decision})"', person.get("/").text)
        assert person.post(action).status_code == 403
        assert approvals.allows(waiting.job_id) != allowed
        assert person.post(action, data={"form_token": person.token}).headers["location"] == "/"
        assert approvals.allows(waiting.job_id) == allowed
    in_full = person.get(f"/jobs/{waiting.job_id}").text
    assert waiting.job_id in in_full
    assert "a-job" in in_full


def test_another_site_approves_nothing(person, own, waiting):
    sent = {"origin": "http://evil.example.org"}
    for path in (f"/jobs/{waiting.job_id}/approve", f"/api/jobs/{waiting.job_id}/approve"):
        assert person.post(path, data={"form_token": person.token}, headers=sent).status_code == 403
        assert person.get(path).status_code in (404, 405)
    assert not Approvals(own.state_folder).allows(waiting.job_id)


def test_programs_read_and_decide_as_people_do(person, own, waiting):
    [said] = person.get("/api/hospital").json()["jobs"]
    assert (said["job_id"], said["approved"]) == (waiting.job_id, None)
    assert yaml.safe_load(said["in_full"])["name"] == "a-job"
    sent = {"x-form-token": person.token}
    done = person.post(f"/api/jobs/{waiting.job_id}/approve", headers=sent)
    assert done.json() == {"job_id": waiting.job_id, "approved": True}
    assert person.get(f"/api/jobs/{waiting.job_id}").json()["approved"]
    assert person.post(f"/api/jobs/{waiting.job_id}/revoke", headers=sent).json()["approved"] is False
    assert not Approvals(own.state_folder).allows(waiting.job_id)
    for job_id, status in (("0" * 64, 404), ("x" * 64, 422), ("abc", 422)):
        assert person.post(f"/api/jobs/{job_id}/approve", headers=sent).status_code == status
        assert person.get(f"/jobs/{job_id}").status_code == status


def test_an_automatic_policy_is_said(own, visitor):
    automatic = own.model_copy(update={"policy": Policy(approve="auto")})
    assert "approve: auto" in visitor(make_site(automatic, Rules(Access("test")), None)).get("/").text


def test_what_the_agent_does_is_shown(person, own):
    status = AgentStatus(
        1, NAME, "/run/socket", "ready", 1e9, doing="fit", done=3, total=9, answered=4, problem="a <problem>"
    )
    StatusFile(own.state_folder, status)
    page = person.get("/").text
    assert "at work: fit, 3 of 9" in page
    assert "a &lt;problem&gt;" in page
    assert "/run/socket" not in page
    (own.state_folder / "agent.json").write_text("{")
    assert "cannot be read" in person.get("/").text


def test_what_was_sent_is_the_ledger(person, own, job):
    made = job(name="a-job")
    with Ledger(own.state_folder, NAME) as ledger:
        request = Packed({}, {"job": made.canonical_json()})
        ledger.record("describe", request, Packed({"sums": np.zeros(4)}, {"examples": 3}))
        ledger.record("fit", request, Packed({}, {REFUSAL: "job-not-approved"}), "nobody approved it")
    sent = person.get("/api/sent").json()
    assert (sent["verified"], sent["answers"], sent["bytes"], sent["refused"]) == (True, 1, 32, 1)
    assert sent["jobs"][0]["job"] == "a-job"
    assert "Verified" in person.get("/sent").text
    assert json.loads(person.get("/sent/ledger.json").text)["hospital"] == NAME
    assert person.get("/sent/ledger.html").headers["content-disposition"].startswith("attachment")
    lines = next((own.state_folder / "ledger").glob("ledger*"))
    lines.write_bytes(lines.read_bytes().replace(b"begun", b"bogus"))
    assert not person.get("/api/sent").json()["verified"]
    assert "not as it was written" in person.get("/sent").text


def test_the_data_is_looked_through_once_at_a_time(person, site, phantoms):
    sent = {"x-form-token": person.token}
    assert person.post("/api/check").status_code == 403
    assert person.post("/api/check", headers=sent).status_code == 202
    while person.get("/api/check").json()["state"] == "running":
        pass
    found = person.get("/api/check").json()
    assert found["state"] == "done"
    assert sum(found["classes"].values()) == 40
    assert "No errors" in person.get("/data").text
    assert person.post("/data", data={"form_token": person.token}).headers["location"] == "/data"


def test_an_image_gets_an_answer_and_the_bedside_page_the_limits(person):
    sent = {"x-form-token": person.token}
    answer = person.post(DIAGNOSE, content=b"\x89PNG good", headers=sent)
    assert answer.json()["probabilities"][0]["name"] == "opacity"
    page = person.get("/bedside").text
    for words in ("not a medical device", "0.910", "0.850 to 0.950"):
        assert words in page
    assert person.get("/api/model").json()["limits"]


def test_no_image_without_the_form_s_token(person):
    assert person.post(DIAGNOSE, content=b"\x89PNG good").status_code == 403


def test_without_a_model_the_page_says_how_to_give_one(own, visitor):
    person = visitor(make_site(own, Rules(Access("test")), None))
    assert "consilium hospital web --model" in person.get("/bedside").text
    assert person.get("/api/model").json() == {"detail": NO_MODEL}
    sent = {"x-form-token": person.token}
    assert person.post(DIAGNOSE, content=b"\x89PNG good", headers=sent).json() == {"detail": NO_MODEL}
