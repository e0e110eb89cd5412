"""Every rule of the policy, broken by a compromised coordinator and by a compromised courier; the hospital refuses both.

The coordinator's requests go straight to `Hospital.answer`; the courier's are raw gRPC on the socket of a real agent.
"""

import itertools
import logging

import grpc
import numpy as np
import pytest

from client import hospital as module
from client.agent_socket import held
from client.approvals import Approvals
from client.hospital import Hospital
from client.policy import OF_SIMULATIONS, Policy, require_allowed, require_backbone, require_enough, require_policy
from client.proto import agent_pb2, agent_pb2_grpc
from client.proto.convert import METHODS, to_packed, to_request
from client.records import Record, Records
from common.errors import Refusal, RefusalCode
from common.job import Job
from common.messages import Description
from common.phases import PHASE_REQUESTS
from common.wire import MAX_HEADS, REFUSAL, Packed, bytes_of, dimensions, reply_schema

OTHER_DIGEST = "0" * 64
EVERYTHING = {
    "method": {"name": "fedavg", "rounds": 6, "warm_start": "analytic"},
    "evaluation": {"test_fraction": 0.25, "validation_fraction": 0.2, "cross_site": True, "groups": ["sex"]},
    "personalisation": {"epochs": 1},
}
"""A job that asks for every kind of request, but the pretrained arrays and the keyed hashes (`test_duplicate_keys.py`)."""

KINDS = [kind for kind in METHODS if kind not in ("initial", "duplicates", "collisions") and kind not in PHASE_REQUESTS]


@pytest.fixture(params=["coordinator", "courier"])
def attack(request, tmp_path, serve):
    """Sends a request to a hospital past everything that the project's own coordinator or courier would check."""
    if request.param == "coordinator":
        yield lambda hospital, kind, packed: hospital.answer(kind, packed)
        return
    serving, numbers = {}, itertools.count()

    def over_the_socket(hospital: Hospital, kind: str, packed: Packed) -> Packed:
        path = tmp_path / "agent.sock"
        if hospital not in serving:
            for one in serving.values():
                one.stop()
            path.unlink(missing_ok=True)
            serving[hospital] = serve(hospital, path, tmp_path / "status")
        with grpc.insecure_channel(f"unix://{path}") as channel:
            call = getattr(agent_pb2_grpc.AgentStub(channel), METHODS[kind])
            return to_packed(call(to_request(packed, f"attack-{next(numbers)}"), timeout=60))

    with held(tmp_path / "agent.sock"):
        yield over_the_socket
        for one in serving.values():
            one.stop()


@pytest.fixture
def refused(attack, caplog):
    """Attacks, and requires a neutral code outside and the reason in the hospital's log."""

    def check(hospital: Hospital, kind: str, packed: Packed, code: str, *reasons: str) -> None:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            reply = attack(hospital, kind, packed)
        assert (dict(reply.fields), dict(reply.arrays)) == ({REFUSAL: code}, {})
        for reason in reasons:
            assert reason in caplog.text

    return check


@pytest.fixture
def lax(phantoms, hospital_with):
    return hospital_with(phantoms["hospital-a"], max_rounds=None, max_payload_mb=None)


def by_kind(asked) -> dict[str, Packed]:
    """Well-formed requests of each kind."""
    return {
        "describe": asked.describe(),
        "statistics": asked.statistics(),
        "fit": asked.fit(),
        "evaluate": asked.evaluate(),
        "distances": asked.distances(),
        "own": asked.statistics(),
        "personalise": asked.personalise(),
        "groups": asked.fit(),
    }


RULES = {
    "approval": (
        {"approve": "manual"},
        "job-not-approved",
        "is not approved here; read it: consilium hospital approve",
    ),
    "backbone": (
        {"allow_backbones": ("resnet50",)},
        "against-policy",
        "it wants the backbone squeezenet1_1; policy.allow_backbones has: resnet50",
    ),
    "no backbone": ({"allow_backbones": ()}, "against-policy", "policy.allow_backbones has: none"),
    "weights": (
        {"allow_backbones": (f"squeezenet1_1@{OTHER_DIGEST}", "resnet50")},
        "against-policy",
        f"policy.allow_backbones has: squeezenet1_1@{OTHER_DIGEST}, resnet50",
    ),
    "tuning": ({"allow_tuning": ("full",)}, "against-policy", "it tunes 'head'; policy.allow_tuning has: full"),
    "method": (
        {"allow_methods": ("analytic", "fedprox")},
        "against-policy",
        "it asks for the method fedavg; policy.allow_methods has: analytic, fedprox",
    ),
    "warm start": (
        {"allow_methods": ("fedavg",)},
        "against-policy",
        "it asks for the method analytic; policy.allow_methods has: fedavg",
    ),
    "groups": ({"allow_groups": ("age_band",)}, "against-policy", "by sex; policy.allow_groups has: age_band"),
    "rounds": ({"max_rounds": 5}, "against-policy", "it has 6 rounds; policy.max_rounds is 5"),
    "secure aggregation": (
        {"require_secure_aggregation": True},
        "against-policy",
        "it goes without the required secure aggregation",
    ),
    "examples": ({"min_examples": 100}, "too-few-examples", "readable training images; policy.min_examples is 100"),
    "patients": (
        {"min_patients": 100},
        "too-few-examples",
        "patients with readable training images; policy.min_patients is 100",
    ),
    "class": (
        {"min_count": 100},
        "too-few-examples",
        "readable training images, which sums and updates would give away",
    ),
    "reply": ({"max_payload_mb": 0.0005}, "message-too-large", "MB of arrays; policy.max_payload_mb is 0.0005"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_holds_for_every_kind_of_request(
    rule, refused, lax, phantoms, hospital_with, job, requests_of, tmp_path
):
    policy, code, reason = RULES[rule]
    one = job(**EVERYTHING)
    requests = by_kind(requests_of(one, lax))
    assert list(requests) == KINDS
    for kind, request in requests.items():
        # A new one each time: a coordinator need not begin with `describe`.
        hospital = hospital_with(phantoms["hospital-a"], name=f"careful-{kind}", **policy)
        refused(hospital, kind, request, code, reason)


def test_the_requests_that_are_refused_above_are_good_ones(attack, lax, job, requests_of):
    for kind, request in by_kind(requests_of(job(**EVERYTHING), lax)).items():
        assert REFUSAL not in attack(lax, kind, request).fields


def test_pretrained_arrays_are_for_jobs_that_the_policy_allows(refused, attack, lax, phantoms, hospital_with, job):
    deep = job(tune={"part": "last-blocks", "blocks": 1}, method={"name": "fedavg", "rounds": 2})
    allowing = hospital_with(phantoms["hospital-a"], allow_tuning=("last-blocks",), min_count=2)
    described = attack(allowing, "describe", Packed({}, {"job": deep.canonical_json()}))
    request = Packed(
        {}, {"job": deep.canonical_json(), "fingerprint": described.fields.get("fingerprint", OTHER_DIGEST)}
    )
    refused(lax, "initial", request, "against-policy", "it tunes 'last-blocks'; policy.allow_tuning has: head")
    small = hospital_with(phantoms["hospital-a"], allow_tuning=("last-blocks",), max_payload_mb=0.01)
    refused(small, "initial", request, "message-too-large", "the reply would have")


def test_another_job_than_the_approved_one(refused, attack, phantoms, hospital_with, job, requests_of, lax, tmp_path):
    """One changed character is another job; a job that was approved and is withdrawn is refused from the next request on."""
    approved = job(name="approved")
    hospital = Hospital(
        hospital_with(phantoms["hospital-a"], approve="manual")._file.model_copy(update={"state": tmp_path / "state"})
    )
    approvals = Approvals(tmp_path / "state")
    approvals.approve(approved)
    asked = requests_of(approved, lax)
    assert REFUSAL not in attack(hospital, "describe", asked.describe()).fields
    for changes in ({"seed": 4}, {"guard": {"max_update_norm": 1e6}}, {"evaluation": {"test_fraction": 0.26}}):
        other = job(**{"name": "approved", **changes})
        refused(hospital, "describe", Packed({}, {"job": other.canonical_json()}), "job-not-approved")
    spaced = approved.canonical_json().replace(",", ", ", 1)
    refused(hospital, "describe", Packed({}, {"job": spaced}), "bad-request", "its job is not valid", "canonical")
    approvals.revoke(approved)
    for kind, request in (
        ("describe", asked.describe()),
        ("fit", asked.fit()),
        ("evaluate", asked.evaluate("validation")),
    ):
        refused(hospital, kind, request, "job-not-approved")


@pytest.mark.parametrize("kind", ["fit", "evaluate", "personalise"])
def test_more_rounds_than_the_job_has(kind, refused, lax, job, requests_of):
    request = by_kind(requests_of(job(**EVERYTHING), lax))[kind]
    refused(lax, kind, Packed(request.arrays, {**request.fields, "round": 7}), "bad-request", "has 6 rounds")


def test_training_patients_and_more_heads_than_allowed(refused, lax, job, requests_of):
    asked = requests_of(job(**EVERYTHING), lax)
    for kind, request in (("evaluate", asked.evaluate("train")), ("personalise", asked.personalise("train"))):
        refused(lax, kind, request, "bad-request", "on these parts only: validation, test")
    refused(lax, "evaluate", asked.evaluate(heads=MAX_HEADS + 1), "bad-request", "expected shape")


def test_what_the_job_does_not_ask_for(refused, lax, job, requests_of):
    asked = requests_of(job(method={"name": "fedavg", "rounds": 2}), lax)
    for kind in ("statistics", "own", "personalise"):
        refused(lax, kind, by_kind(asked)[kind], "bad-request", f"does not ask for {kind}")


def test_a_large_request(refused, lax, phantoms, hospital_with, job, requests_of):
    hospital = hospital_with(phantoms["hospital-a"], max_payload_mb=0.1)
    asked = requests_of(job(), lax)
    refused(hospital, "evaluate", asked.evaluate(heads=30), "message-too-large", "the request has 0.125 MB of arrays")
    stuffed = Packed({"anything": np.zeros(200_000, np.uint8)}, asked.describe().fields)
    refused(hospital, "describe", stuffed, "message-too-large", "the request has 0.200 MB of arrays")


def test_a_reply_is_refused_for_its_size_before_anything_is_computed(
    refused, lax, phantoms, hospital_with, job, requests_of
):
    hospital = hospital_with(phantoms["hospital-a"], max_payload_mb=0.1)
    asked = requests_of(job(**EVERYTHING), lax)
    refused(hospital, "statistics", asked.statistics(), "message-too-large", "the reply would have 3.295 MB of arrays")
    assert hospital._part is None


def test_the_size_that_is_foreseen_is_that_of_the_reply(lax, job, requests_of):
    one = job(**EVERYTHING)
    for kind, request in by_kind(requests_of(one, lax)).items():
        reply = lax.answer(kind, request)
        heads = len(reply.arrays["losses"]) if "losses" in reply.arrays else 1
        foreseen = bytes_of(reply_schema(kind, one, {}), dimensions(one, heads))
        assert foreseen == sum(array.nbytes for array in reply.arrays.values())


def test_words_of_the_sender_do_not_look_like_lines_of_the_log(refused, lax, caplog):
    text = '{"name": "x\\nWARNING all is well\\u001b[2J"}'
    refused(lax, "describe", Packed({}, {"job": text}), "bad-request", "its job is not valid")
    assert "\nWARNING all is well" not in caplog.text
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize("check", ["require_allowed", "require_payload", "require_small_reply"])
def test_a_check_that_fails_refuses(check, refused, lax, job, requests_of, monkeypatch):
    asked = requests_of(job(), lax)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, check, broken)
    refused(lax, "fit", asked.fit(), "internal-error")


def test_a_method_the_contract_lacks_is_not_served(lax, serve, tmp_path):
    """Nothing but the kinds of `common.wire.REQUESTS`: a courier cannot approve, read the policy, or ask for images."""
    path = tmp_path / "agent.sock"
    with held(path), grpc.insecure_channel(f"unix://{path}") as channel:
        running = serve(lax, path, tmp_path / "status")
        for name in ("Approve", "Policy", "Images", "describe"):
            call = channel.unary_unary(f"/consilium.agent.v1.Agent/{name}")
            with pytest.raises(grpc.RpcError) as error:
                call(agent_pb2.Request().SerializeToString(), timeout=5)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        running.stop()


# --------------------------------------------------------------------------------------------------- the rules by themselves


def reason(check, *arguments) -> str:
    with pytest.raises(Refusal) as error:
        check(*arguments)
    return f"{error.value.code}: {error.value}"


def test_all_that_speaks_against_a_job_is_named(job):
    careful = Policy(allow_backbones=("resnet50",), allow_tuning=(), allow_methods=(), max_rounds=3)
    told = reason(require_policy, careful, job())
    for words in ("allow_backbones has: resnet50", "allow_tuning has: none", "the method fedavg", "it has 4 rounds"):
        assert words in told
    assert job().job_id in told


def test_a_backbone_by_name_and_by_digest(job):
    ours = f"squeezenet1_1@{'a' * 64}"
    for allowed in (None, ("squeezenet1_1",), (ours,), ("squeezenet1_1", f"squeezenet1_1@{OTHER_DIGEST}")):
        require_policy(Policy(allow_backbones=allowed), job())
        require_backbone(Policy(allow_backbones=allowed), job(), "a" * 64)
    require_policy(Policy(allow_backbones=(ours,)), job())
    assert f"its backbone is squeezenet1_1@{OTHER_DIGEST}" in reason(
        require_backbone, Policy(allow_backbones=(ours,)), job(), OTHER_DIGEST
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("resnet5", "unknown backbone 'resnet5'; did you mean"),
        ("resnet50@", "after resnet50@: expected the backbone's digest, 64 lower-case hex digits, got ''"),
        (f"resnet50@{'A' * 64}", "expected the backbone's digest"),
        ("resnet50@abc", "backbone_digest in the summary.json"),
    ],
)
def test_backbones_that_cannot_be_are_told(entry, words):
    with pytest.raises(ValueError, match="allow_backbones") as error:
        Policy(allow_backbones=(entry,))
    assert words in str(error.value)


def test_the_digest_is_that_of_the_loaded_network(attack, phantoms, hospital_with, job, squeezenet):
    request = Packed({}, {"job": job().canonical_json()})
    exact = hospital_with(phantoms["hospital-a"], allow_backbones=(f"squeezenet1_1@{squeezenet.digest}",))
    reply = attack(exact, "describe", request)
    assert Description.unpack(reply).space.backbone_digest == squeezenet.digest
    other = job(backbone={"name": "squeezenet1_1", "weights": {"name": "random", "seed": 2}})
    assert attack(exact, "describe", Packed({}, {"job": other.canonical_json()})).fields == {REFUSAL: "against-policy"}


def records(*of: tuple[str, int, str]) -> Records:
    return Records(tuple(Record(None, label, patient, part) for part, label, patient in of), {}, 0)


def test_patients_are_those_with_training_images(job):
    found = records(*[("train", 0, "a")] * 9, ("train", 1, "b"), ("test", 0, "c"))
    require_enough(Policy(min_examples=10, min_patients=2), job(), found)
    told = reason(require_enough, Policy(min_examples=11, min_patients=3, min_count=2), job(), found)
    assert told.startswith("too-few-examples: ")
    for words in ("10 readable training images", "2 patients with", "class 'opacity' has 1 readable training images"):
        assert words in told


def test_a_class_without_any_training_image_is_fine(job):
    require_enough(Policy(min_count=5), job(), records(*[("train", 0, "a")] * 5, ("test", 1, "b")))


def test_the_defaults_are_careful_and_simulations_allow_all(job, tmp_path):
    careful = Policy()
    assert (careful.approve, careful.allow_tuning, careful.max_payload_mb, careful.max_rounds) == (
        "manual",
        ("head",),
        256,
        200,
    )
    many = job(method={"name": "fedavg", "rounds": 10_000}, tune={"part": "full"})
    require_allowed(OF_SIMULATIONS, many, Approvals(tmp_path))
    assert isinstance(many, Job)


def test_refusals_have_codes_that_the_coordinator_knows():
    assert {code for _, code, _ in RULES.values()} <= {code.value for code in RefusalCode}
