from pathlib import Path

import pytest

from client.approvals import Approvals
from client.hospital_file import HospitalFile, load_hospital_file
from client.policy import Policy, require_allowed
from common.errors import ConfigError, Refusal

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "hospital.yaml"

WHOLE = """
name: st-marys
data: {manifest: /data/labels.csv, skip_unreadable: true}
cache: /var/lib/consilium/cache
state: /var/lib/consilium/state
weights_dir: /var/lib/consilium/weights
device: cpu
policy:
  approve: manual
  allow_backbones: [resnet50, squeezenet1_1]
  allow_tuning: [head]
  min_examples: 50
"""


@pytest.fixture
def load(tmp_path):
    def from_text(text: str) -> HospitalFile:
        (tmp_path / "hospital.yaml").write_text(text, encoding="utf-8")
        return load_hospital_file(tmp_path / "hospital.yaml")

    return from_text


@pytest.fixture
def approvals(tmp_path):
    return Approvals(tmp_path / "state")


@pytest.fixture
def refusal(approvals):
    def code_of(policy: Policy, job) -> str:
        with pytest.raises(Refusal) as error:
            require_allowed(policy, job, approvals)
        return error.value.code.value

    return code_of


def test_a_whole_file(load):
    file = load(WHOLE)
    assert file.name == "st-marys"
    assert file.data.source == Path("/data/labels.csv")
    assert file.data.skip_unreadable
    assert (file.cache, file.weights_dir) == (Path("/var/lib/consilium/cache"), Path("/var/lib/consilium/weights"))
    assert file.state_folder == Path("/var/lib/consilium/state")
    assert file.policy.allow_backbones == ("resnet50", "squeezenet1_1")
    assert file.policy.min_examples == 50


def test_the_shortest_file_is_the_careful_one(load):
    file = load("name: st-marys\ndata: {folder: /data}\n")
    assert file.policy.approve == "manual"
    assert file.state_folder.name == "state-of-st-marys"
    assert not file.data.skip_unreadable


def test_the_annotated_example_is_valid():
    if not EXAMPLE.exists():
        pytest.skip("configs/hospital.yaml is not there")
    assert load_hospital_file(EXAMPLE).name


@pytest.mark.parametrize("data", ["{}", "{folder: /a, manifest: /b}"])
def test_data_has_one_source(load, data):
    with pytest.raises(ConfigError, match="either manifest"):
        load(f"name: st-marys\ndata: {data}\n")


def test_rules_that_ask_for_nothing_are_no_rules(load):
    policy = load(
        "name: st-marys\ndata: {folder: /data}\npolicy: {max_epsilon: null, max_rounds: null, min_count: 1}\n"
    ).policy
    assert (policy.max_epsilon, policy.max_rounds, policy.min_count) == (None, None, 1)


def test_all_problems_are_reported_together(load):
    with pytest.raises(ConfigError) as error:
        load(
            "name: St. Mary's\ndata: {folder: /a, manifest: /b}\ncache: 7\ndevise: cuda\n"
            "policy: {approve: perhaps, allow_backbones: [resnet5, vgg], allow_tuning: [fully],\n"
            "  allow_methods: [fedavg, fedsgd], max_epsilon: -6, min_examples: 0, min_patients: none, min_count: 0,\n"
            "  max_rounds: 0, max_payload_mb: -1}\n"
        )
    text = str(error.value)
    expected = [
        "hospital.yaml: 14 problems",
        "name: ",
        "data: expected either",
        "cache: ",
        "did you mean 'device'",
        "policy.approve: ",
        "unknown backbone 'resnet5'; did you mean",
        "unknown backbone 'vgg'",
        "policy.allow_tuning[0]: ",
        "policy.max_epsilon: ",
        "policy.allow_methods: unknown method 'fedsgd'",
        *(f"policy.{key}: " for key in ("min_examples", "min_patients", "min_count", "max_rounds", "max_payload_mb")),
    ]
    assert [words for words in expected if words not in text] == [], text


def test_a_job_must_be_approved_by_its_id(job, approvals, refusal):
    assert refusal(Policy(), job()) == "job-not-approved"
    approvals.approve(job())
    require_allowed(Policy(), job(), approvals)
    assert refusal(Policy(), job(seed=4)) == "job-not-approved"
    require_allowed(Policy(approve="auto"), job(seed=4), approvals)


def test_a_job_that_nobody_approved_waits_for_it(job, approvals, refusal):
    assert approvals.known() == []
    refusal(Policy(), job())
    [waiting] = approvals.known()
    assert (waiting.job, waiting.approved) == (job(), None)


def test_a_job_against_the_policy_does_not_wait(job, approvals, refusal):
    assert refusal(Policy(allow_tuning=()), job()) == "against-policy"
    assert approvals.known() == []


def test_approval_does_not_override_the_other_rules(job, approvals, refusal):
    approvals.approve(job())
    assert refusal(Policy(allow_backbones=("resnet50",)), job()) == "against-policy"


def test_backbones(job, approvals, refusal):
    assert refusal(Policy(approve="auto", allow_backbones=()), job()) == "against-policy"
    require_allowed(Policy(approve="auto", allow_backbones=("resnet50", "squeezenet1_1")), job(), approvals)


def test_tuning(job, refusal):
    assert refusal(Policy(approve="auto", allow_tuning=()), job()) == "against-policy"


def test_secure_aggregation_is_required(job, refusal, approvals):
    policy = Policy(approve="auto", require_secure_aggregation=True)
    assert refusal(policy, job()) == "against-policy"
    require_allowed(policy, job(privacy={"secure_aggregation": True}), approvals)


def test_a_job_spends_no_more_than_any_may(job, refusal, approvals):
    changes = {"method": "analytic", "evaluation": {"validation_fraction": 0}}
    budget = {"secure_aggregation": True, "differential_privacy": {"epsilon": 3.0, "delta": 1e-6}}
    private = job(**changes, privacy=budget)
    for policy in ({}, {"max_epsilon": 3}, {"max_epsilon_total": 1}, {"max_delta": 1e-6}):
        require_allowed(Policy(approve="auto", **policy), private, approvals)
    for policy in ({"max_epsilon": 2.9}, {"max_delta": 9e-7}):
        assert refusal(Policy(approve="auto", **policy), private) == "against-policy"
    # A limit on epsilon that jobs without any could pass by would be none.
    for policy in ({"max_epsilon": 3}, {"max_epsilon_total": 3}):
        assert refusal(Policy(approve="auto", **policy), job()) == "against-policy"
