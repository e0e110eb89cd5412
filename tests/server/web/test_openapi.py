"""The API keeps what its OpenAPI description says, for whatever a program sends."""

import pytest

from common.web.access import Access
from common.web.gate import Rules
from server.recorder import JOB
from server.web.pages import make_site
from tests.openapi import conforms, operations


@pytest.fixture
def site(small_job, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / JOB).write_text(small_job().canonical_json())
    return make_site(tmp_path, Rules(Access("test", failures=10**6)))


def test_what_is_asked_at_random_is_answered_as_described(site):
    conforms(site, examples=3)


@pytest.mark.slow
def test_much_of_what_is_asked_at_random_is_answered_as_described(site):
    conforms(site, examples=200)


def test_every_operation_has_its_errors(site):
    found = operations(site)
    assert {name for name, _ in found} == {"GET /api/runs", "GET /api/runs/{name}", "GET /api/runs/{name}/files/{file}"}
    for _, operation in found:
        assert {"401", "403", "413", "421", "429"} <= operation["responses"].keys()
