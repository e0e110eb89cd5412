"""What is asked once the model is there: every head at every hospital, and each hospital's personalised model."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.head import Standardisation
from common.metrics import count, derive
from common.ridge import Ridge
from common.sums import Sums
from common.wire import PERSONALISED
from server.afterwards import GLOBAL
from server.recorder import Recorder
from server.rounds import Hooks, run_job
from server.summary import personalisation

IMAGES = {"alpha": [[30, 20], [6, 5], [9, 7]], "beta": [[10, 40], [4, 6], [5, 8]], "gamma": [[25, 25], [0, 0], [3, 4]]}
BOTH = {"evaluation": {"cross_site": True}, "personalisation": {}}


@pytest.fixture
def hospitals(scripted, examples):
    """Three hospitals with true examples; gamma has no validation patients."""
    return lambda: {name: scripted(examples=examples(at, row)) for at, (name, row) in enumerate(IMAGES.items())}


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


def standardised(hospitals):
    every = np.concatenate([one.examples["train"][0] for one in hospitals.values()]).astype(np.float64)
    return Standardisation.from_sums(len(every), every.sum(axis=0), (every**2).sum(axis=0)).apply


def test_without_being_asked_for_nothing_more_leaves_a_hospital(small_job, hospitals, exchange_with):
    asked = hospitals()
    outcome = run_job(small_job(), exchange_with(asked))
    assert (outcome.after.cross_site, outcome.after.personal, outcome.after.dropped) == ({}, {}, {})
    assert all(not {"own", "personalise"} & set(one.asked) for one in asked.values())
    assert not {"cross-site", "personalise"} & set(outcome.seconds)


def test_every_head_is_counted_at_every_hospital(small_job, hospitals, exchange_with):
    asked = hospitals()
    outcome = run_job(small_job(evaluation={"cross_site": True}), exchange_with(asked))
    matrix = outcome.after.cross_site
    assert list(matrix) == [GLOBAL, "alpha", "beta", "gamma"]
    apply = standardised(asked)
    for trained, row in matrix.items():
        assert list(row) == ["alpha", "beta", "gamma"]
        for where, counts in row.items():
            features, labels = asked[where].examples["test"]
            assert counts.support.tolist() == IMAGES[where][2]
            if trained == GLOBAL:
                assert same(counts, outcome.test[where])
                continue
            train, truth = asked[trained].examples["train"]
            head = Ridge(Sums.of(apply(train), truth, 2)).logits(0.1)
            assert same(counts, count(head.probabilities(apply(features)), labels))
    assert "cross-site" in outcome.seconds
    assert outcome.after.personal == {}


def test_personalised_counts_come_by_part_and_model(small_job, hospitals, exchange_with):
    asked = hospitals()
    outcome = run_job(small_job(personalisation={}), exchange_with(asked))
    personal = outcome.after.personal
    assert list(personal) == ["alpha", "beta", "gamma"]
    for name, parts in personal.items():
        assert list(parts) == ["validation", "test"]
        for row, (part, models) in enumerate(parts.items(), start=1):
            assert tuple(models) == PERSONALISED == ("global", "personalised", "own")
            assert all(counts.support.tolist() == IMAGES[name][row] for counts in models.values()), part
        assert same(parts["test"]["global"], outcome.test[name])
    assert outcome.after.cross_site == {}
    assert [one.asked.count("personalise") for one in asked.values()] == [2, 2, 2]


def test_the_round_of_the_best_model_is_said_with_it(small_job, scripted, exchange_with):
    """The scripted counts never change, so the first round is the best of three."""
    hospital = scripted()
    run_job(small_job(method={"name": "fedavg", "rounds": 3}, **BOTH), exchange_with({"a": hospital}))
    told = list(zip(hospital.asked, hospital.requests, strict=True))[-5:]
    assert [(kind, request.fields.get("part"), request.fields.get("round")) for kind, request in told] == [
        ("evaluate", "test", 1),
        ("own", None, None),
        ("evaluate", "test", 0),
        ("personalise", "validation", 1),
        ("personalise", "test", 1),
    ]


def test_in_a_deep_job_own_heads_read_the_pretrained_backbone(small_job, scripted, exchange_with):
    tuned = {"a.weight": np.arange(3, dtype=np.float32)}
    hospital = scripted(tuned=tuned, step=0.5)
    job = small_job(method={"name": "fedavg", "rounds": 1}, tune="last-blocks", **BOTH)
    outcome = run_job(job, exchange_with({"a": hospital}))
    told = list(zip(hospital.asked, hospital.requests, strict=True))[-5:]
    assert [kind for kind, _ in told] == ["evaluate", "own", "evaluate", "personalise", "personalise"]
    sent = [request.arrays.get("tuned.a.weight") for _, request in told]
    moved = tuned["a.weight"] + np.float32(0.5)
    assert sent[1] is None
    for array, expected in zip(sent[:1] + sent[2:], [moved, tuned["a.weight"], moved, moved], strict=True):
        np.testing.assert_array_equal(array, expected)
    assert set(outcome.after.cross_site) == {GLOBAL, "a"}
    assert set(outcome.after.personal) == {"a"}


def declines(_kind, _records):
    return RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"refused": "against-policy"})})


def changed_arrays(change):
    def tamper(_kind, records):
        found = change({name: array.numpy() for name, array in records["arrays"].items()})
        arrays = ArrayRecord({name: Array(array) for name, array in found.items()})
        return RecordDict({"arrays": arrays, "config": records["config"]})

    return tamper


def fields(**changes):
    return lambda _kind, records: RecordDict(
        {"arrays": records["arrays"], "config": ConfigRecord({**records["config"], **changes})}
    )


def other_patients(found):
    """Counts of other patients than were declared: one of the first class is counted as the second."""
    confusion = found["confusion"].copy()
    confusion[0, 0, 0] -= 1
    confusion[0, 1, 0] += 1
    return {**found, "confusion": confusion}


WRONG_COUNTS = {
    "declines": declines,
    "other patients": changed_arrays(other_patients),
    "twice the patients": changed_arrays(lambda found: {**found, "confusion": found["confusion"] * 2}),
    "two models": changed_arrays(lambda found: {name: array[:2].copy() for name, array in found.items()}),
    "another part": fields(part="train"),
    "another round": fields(round=9),
    "another job": fields(**{"job-id": "0" * 64}),
    "a head": changed_arrays(lambda found: {**found, "weight": np.ones((2, 24), np.float32)}),
    "an exception": lambda _kind, _records: 1 / 0,
}


@pytest.mark.parametrize("name", WRONG_COUNTS)
def test_a_hospital_whose_personalised_counts_are_wrong_is_left_out(name, small_job, hospitals, exchange_with):
    asked = hospitals()
    asked["beta"].tamper, asked["beta"].kinds = WRONG_COUNTS[name], ("personalise",)
    outcome = run_job(small_job(**BOTH), exchange_with(asked))
    assert list(outcome.after.personal) == ["alpha", "gamma"]
    assert list(outcome.after.dropped) == ["beta"]
    assert outcome.after.dropped["beta"].startswith("personalisation: ")
    assert [list(row) for row in outcome.after.cross_site.values()] == [["alpha", "beta", "gamma"]] * 4
    assert list(outcome.test) == ["alpha", "beta", "gamma"]


def test_a_hospital_that_answers_for_one_part_only_is_left_out(small_job, hospitals, exchange_with):
    asked = hospitals()

    def only_validation(kind, records):
        return declines(kind, records) if records["config"]["part"] == "test" else records

    asked["gamma"].tamper, asked["gamma"].kinds = only_validation, ("personalise",)
    after = run_job(small_job(**BOTH), exchange_with(asked)).after
    assert list(after.personal) == ["alpha", "beta"]
    assert after.dropped == {"gamma": "personalisation: declined: against-policy"}


WRONG_HEADS = {
    "declines": declines,
    "NaN": changed_arrays(lambda found: {**found, "bias": found["bias"] * np.float32("nan")}),
    "wrong shape": changed_arrays(lambda found: {**found, "weight": found["weight"][:, 1:].copy()}),
    "features": changed_arrays(lambda found: {**found, "features": np.ones((4, 24), np.float32)}),
    "more examples than declared": fields(examples=51),
    "no examples": fields(examples=0),
}


@pytest.mark.parametrize("name", WRONG_HEADS)
def test_a_head_that_is_wrong_has_no_row_but_its_hospital_a_column(name, small_job, hospitals, exchange_with):
    asked = hospitals()
    asked["beta"].tamper, asked["beta"].kinds = WRONG_HEADS[name], ("own",)
    after = run_job(small_job(**BOTH), exchange_with(asked)).after
    matrix = after.cross_site
    assert list(matrix) == [GLOBAL, "alpha", "gamma"]
    assert list(after.dropped) == ["beta"]
    assert after.dropped["beta"].startswith("cross-site: ")
    assert [list(row) for row in matrix.values()] == [["alpha", "beta", "gamma"]] * 3


def test_where_all_decline_there_is_a_model_all_the_same(small_job, hospitals, exchange_with):
    asked = hospitals()
    for one in asked.values():
        one.tamper, one.kinds = declines, ("own", "personalise")
    outcome = run_job(small_job(**BOTH), exchange_with(asked))
    assert list(outcome.after.cross_site) == [GLOBAL]
    assert outcome.after.personal == {}
    assert list(outcome.test) == ["alpha", "beta", "gamma"]
    assert outcome.after.dropped == dict.fromkeys(asked, "personalisation: declined: against-policy")
    # Without a head there is nothing to count.
    assert all(one.asked[-3:] == ["own", "personalise", "personalise"] for one in asked.values())


def test_the_row_of_the_global_model_is_its_test_and_is_not_asked_for_again(small_job, hospitals, exchange_with):
    asked = hospitals()

    def declines_the_test(kind, records):
        return declines(kind, records) if records["config"]["part"] == "test" else records

    asked["gamma"].tamper, asked["gamma"].kinds = declines_the_test, ("evaluate",)
    outcome = run_job(small_job(evaluation={"cross_site": True}), exchange_with(asked))
    assert outcome.after.cross_site[GLOBAL] is outcome.test
    assert list(outcome.test) == ["alpha", "beta"]
    assert outcome.after.dropped == {"gamma": "cross-site: declined: against-policy"}
    assert [list(row) for row in outcome.after.cross_site.values()] == [["alpha", "beta"]] * 4
    assert [one.asked.count("own") for one in asked.values()] == [1, 1, 1]
    assert [
        [request.fields["part"] for kind, request in zip(one.asked, one.requests, strict=True) if kind == "evaluate"]
        for one in asked.values()
    ] == [["validation", "validation", "test", "test"]] * 3


def test_who_is_missing_is_said_in_the_log_and_in_the_summary(small_job, hospitals, exchange_with, tmp_path, caplog):
    asked = hospitals()
    asked["beta"].tamper, asked["beta"].kinds = declines, ("own",)
    job = small_job(**BOTH)
    recorder = Recorder(tmp_path / "run", job, "test")
    outcome = run_job(job, exchange_with(asked), Hooks(judged=[recorder.judged]))
    summary = recorder.finish(outcome)
    assert "beta is missing from a part of the figures: cross-site: declined: against-policy" in caplog.text
    assert summary["failures"] == [
        {"hospital": "beta", "phase": "cross-site", "rounds": [0], "reason": "declined: against-policy"}
    ]


def test_the_run_directory_has_them_in_plain_numbers(small_job, hospitals, exchange_with, tmp_path):
    job = small_job(**BOTH)
    recorder = Recorder(tmp_path / "run", job, "test")
    outcome = run_job(job, exchange_with(hospitals()), Hooks(judged=[recorder.judged]))
    recorder.finish(outcome)
    summary, counts = (json.loads((recorder.folder / f"{name}.json").read_text()) for name in ("summary", "counts"))
    assert list(summary["cross_site"]) == list(counts["cross_site"]) == [GLOBAL, "alpha", "beta", "gamma"]
    assert counts["cross_site"]["alpha"]["beta"]["confusion"] == (
        outcome.after.cross_site["alpha"]["beta"].confusion.tolist()
    )
    assert summary["cross_site"]["alpha"]["beta"]["auroc"] == derive(outcome.after.cross_site["alpha"]["beta"]).auroc
    assert set(summary["personalisation"]) == set(IMAGES)


def counts_of(confidence, images=(10, 10)):
    """Counts of a model that gives the right class this probability."""
    labels = np.repeat([0, 1], images)
    probabilities = np.where(np.eye(2)[labels] == 1, confidence, 1 - confidence)
    return count(probabilities, labels)


def test_the_validation_patients_alone_say_which_model_is_best():
    good, fair, bad = counts_of(0.9), counts_of(0.6), counts_of(0.2)
    personal = {
        "a": {
            "validation": dict(zip(PERSONALISED, (fair, good, bad), strict=True)),
            "test": dict.fromkeys(PERSONALISED, bad),
        },
        "b": {
            "validation": dict(zip(PERSONALISED, (good, good, bad), strict=True)),
            "test": dict.fromkeys(PERSONALISED, bad),
        },
        "c": {
            "validation": dict.fromkeys(PERSONALISED, counts_of(0.9, (0, 0))),
            "test": dict(zip(PERSONALISED, (bad, bad, good), strict=True)),
        },
    }
    found = personalisation(personal, "auroc")
    # A full tie stays with the global model; without validation patients nobody knows.
    assert {name: one["best"] for name, one in found.items()} == {"a": "personalised", "b": "global", "c": None}
    assert found["a"]["validation"]["own"]["n"] == 20
    assert found["c"]["test"]["own"]["accuracy"] == 1.0
