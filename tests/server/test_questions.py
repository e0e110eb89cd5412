"""Questions to all members: many heads in several messages, some nodes, and pooled counts."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common.head import Head, Standardisation
from common.metrics import ClassificationCounts, count
from common.wire import MAX_HEADS
from server.beginning import describe
from server.failures import Failures
from server.meter import Meter
from server.questions import Questions, listed, pooled


@pytest.fixture
def questions(small_job, exchange_with):
    """Questions to scripted hospitals that have described themselves."""

    def make(hospitals):
        job, exchange = small_job(), exchange_with(hospitals)
        meter, failures = Meter(), Failures()
        membership = describe(job, exchange, meter, failures)
        return Questions(job, exchange, membership, meter, failures, Standardisation.identity(job.num_features))

    return make


def heads(number):
    rng = np.random.default_rng(0)
    return [Head(rng.normal(size=(2, 24)).astype(np.float32), np.zeros(2, np.float32)) for _ in range(number)]


def right(head, given):
    features, labels = given["validation"]
    return count(head.probabilities(features), labels).confusion.tolist()


@pytest.mark.parametrize(
    ("number", "messages"), [(0, 0), (1, 1), (MAX_HEADS, 1), (MAX_HEADS + 1, 2), (3 * MAX_HEADS, 3)]
)
def test_many_heads_are_counted_in_order_over_several_messages(number, messages, questions, scripted, examples):
    given = examples(1, [[9, 9], [6, 6], [3, 3]])
    hospital = scripted(examples=given)
    asking = questions({"a": hospital, "b": scripted(examples=given)})
    some = heads(number)
    found, dropped = asking.count_heads(some, "validation", 3)
    assert dropped == {}
    assert hospital.asked[1:] == ["evaluate"] * messages
    for name in found:
        assert [counts.confusion.tolist() for counts in found[name]] == [right(head, given) for head in some]
    assert list(found) == (["a", "b"] if number else [])
    assert all(request.fields["round"] == 3 for request in hospital.requests[1:])
    assert all(len(request.arrays["weight"]) <= MAX_HEADS for request in hospital.requests[1:])


def test_whoever_leaves_out_one_message_is_left_out_of_all_heads(questions, scripted):
    answered = []

    def second_declined(_kind, records):
        answered.append(1)
        if len(answered) == 2:
            return RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"refused": "out-of-memory"})})
        return records

    hospitals = {"a": scripted(tamper=second_declined, kinds=("evaluate",)), "b": scripted()}
    found, dropped = questions(hospitals).count_heads(heads(2 * MAX_HEADS + 1), "test")
    assert list(found) == ["b"]
    assert len(found["b"]) == 2 * MAX_HEADS + 1
    assert dropped == {"a": "declined: out-of-memory"}
    assert len(answered) == 3


def test_a_question_to_some_nodes_reaches_them_alone_and_is_paid_for(questions, scripted):
    hospitals = {"a": scripted(), "b": scripted()}
    asking = questions(hospitals)
    up, down = asking.meter.bytes_up, asking.meter.bytes_down
    (node,) = (member.node for member in asking.members.members if member.name == "b")
    answers = asking.ask("statistics", nodes={node: "b"})
    assert (list(answers.good), answers.dropped) == (["b"], {})
    assert ([one.asked for one in hospitals.values()]) == [["describe"], ["describe", "statistics"]]
    assert asking.meter.bytes_up - up == answers.asked.bytes_up > 0
    assert asking.meter.bytes_down - down == answers.asked.bytes_down > 0


def test_every_request_says_the_job_the_feature_space_and_the_standardisation(questions, scripted):
    hospital = scripted()
    asking = questions({"a": hospital})
    for kind in ("initial", "statistics", "own"):
        asking.ask(kind)
    assert hospital.asked[1:] == ["initial", "statistics", "own"]
    for kind, request in zip(hospital.asked[1:], hospital.requests[1:], strict=True):
        assert dict(request.fields) == {"job": asking.job.canonical_json(), "fingerprint": "a" * 64}
        assert set(request.arrays) == (set() if kind == "initial" else {"mean", "scale"})


def test_pooled_counts_are_the_sum():
    one, other = (count(np.full((n, 2), 0.5), np.zeros(n, np.int64)) for n in (3, 4))
    assert pooled([]) is None
    assert pooled([one]) is one
    found = pooled([one, other, ClassificationCounts.zeros(2)])
    assert found is not None
    assert found.support.tolist() == [7, 0]


def test_reasons_are_listed_by_hospital():
    assert listed({"a": "declined: internal-error", "b": "no answer"}) == "a: declined: internal-error; b: no answer"
    assert listed({}) == ""


def test_each_hospital_may_be_sent_arrays_of_its_own_and_its_bytes_are_counted(questions, scripted):
    """b is sent a thousand numbers more than a; what is common to both comes with it."""
    hospitals = {name: scripted() for name in "ab"}
    asking = questions(hospitals)
    common = {
        name: array[None]
        for name, array in zip(("weight", "bias"), (heads(1)[0].weight, heads(1)[0].bias), strict=True)
    }
    own = {"a": {"mine": np.zeros(4, np.float32)}, "b": {"mine": np.ones(1004, np.float32)}}
    fields = {"part": "test", "round": 0}
    told = asking.ask("evaluate", common, fields, part="test", own=own)
    for name, hospital in hospitals.items():
        request = hospital.requests[-1]
        np.testing.assert_array_equal(request.arrays["mine"], own[name]["mine"])
        assert set(request.arrays) == {"weight", "bias", "mean", "scale", "mine"}
        assert request.fields == {**request.fields, **fields}
    assert list(told.good) == ["a", "b"]
    same = asking.ask("evaluate", {**common, "mine": own["a"]["mine"]}, fields, part="test")
    assert same.asked.bytes_down < told.asked.bytes_down
    assert told.asked.bytes_down - same.asked.bytes_down == pytest.approx(4000, abs=20)


def test_own_arrays_go_to_the_nodes_that_are_asked_only(questions, scripted):
    hospitals = {name: scripted() for name in "ab"}
    asking = questions(hospitals)
    [node] = [node for node, member in asking.members.by_node().items() if member.name == "b"]
    head = {"weight": heads(1)[0].weight[None], "bias": heads(1)[0].bias[None]}
    own = {name: {"mine": np.full(2, at, np.float32)} for at, name in enumerate("ab")}
    told = asking.ask("evaluate", head, {"part": "test", "round": 0}, part="test", nodes={node: "b"}, own=own)
    assert list(told.good) == ["b"]
    assert hospitals["a"].asked == ["describe"]
    assert hospitals["b"].requests[-1].arrays["mine"].tolist() == [1.0, 1.0]
