"""What is settled before the first round."""

import pytest

from common.errors import ArtifactError, FederationError
from server.rounds import Hooks, run_job


def test_too_few_hospitals_are_an_error_that_says_why(server_job, scripted, exchange_with):
    job = server_job(quorum={"min_hospitals": 2, "deadline_s": 0.2})
    with pytest.raises(FederationError, match=r"1 hospitals are connected after 0\.2 s, the job needs 2"):
        run_job(job, exchange_with({"alpha": scripted()}))


def test_another_feature_space_is_left_out(server_job, scripted, exchange_with):
    hospitals = {"alpha": scripted(), "beta": scripted(fingerprint="f" * 64), "gamma": scripted()}
    outcome = run_job(server_job(), exchange_with(hospitals))
    assert [member.name for member in outcome.members.members] == ["alpha", "gamma"]
    assert "another feature space" in outcome.members.dropped["beta"]


def test_a_checkpoint_of_another_job_is_refused(server_job, scripted, exchange_with, tmp_path):
    states = []
    run_job(server_job(), exchange_with({"alpha": scripted()}), Hooks(checkpoint=[states.append]))
    with pytest.raises(ArtifactError, match="another job"):
        run_job(server_job(seed=99), exchange_with({"alpha": scripted()}), resume=states[0])
