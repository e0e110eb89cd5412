"""The API keeps what its OpenAPI description says, for whatever a program sends."""

import pytest

from client.approvals import Approvals
from client.hospital_file import Data, HospitalFile
from client.web.pages import DIAGNOSE, make_site
from common.web.access import Access
from common.web.gate import Rules
from tests.client.web.stub import Stub
from tests.openapi import conforms, operations


@pytest.fixture
def site(phantoms, job, tmp_path):
    own = HospitalFile(name="st-marys", data=Data(folder=phantoms["hospital-a"]), cache=tmp_path)
    Approvals(own.state_folder).note(job())
    return make_site(own, Rules(Access("test", failures=10**6), large={DIAGNOSE: 10_000}), Stub(10_000))


def test_what_is_asked_at_random_is_answered_as_described(site):
    conforms(site, examples=1, opaque={"POST /api/diagnose"})


@pytest.mark.slow
def test_much_of_what_is_asked_at_random_is_answered_as_described(site):
    conforms(site, examples=200, opaque={"POST /api/diagnose"})


def test_every_operation_has_its_errors(site):
    found = operations(site)
    assert {name for name, _ in found} == {
        *("GET /api/hospital", "GET /api/jobs/{job_id}", "POST /api/jobs/{job_id}/approve"),
        *("POST /api/jobs/{job_id}/revoke", "GET /api/sent", "GET /api/check", "POST /api/check"),
        *("GET /api/model", "POST /api/diagnose"),
    }
    for _, operation in found:
        assert {"401", "403", "413", "421", "429"} <= operation["responses"].keys()
