"""What the guard lets through and what not: sums, pretrained arrays, tuned arrays, the weight of steps."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FederationError
from common.head import Standardisation
from common.job import parse_job
from common.messages import Description
from common.sums import Sums
from common.wire import STATISTICS_DTYPE, Packed
from server.guard import Expected, screen
from server.rounds import Hooks, run_job

TUNED = {"b.weight": np.arange(6, dtype=np.float32).reshape(3, 2), "a.bias": np.ones(3, np.float32)}
DEEP = {"method": {"name": "fedavg", "rounds": 1}, "tune": "last-blocks"}


def small(**changes):
    """A job of 24 features and three classes."""
    return parse_job(
        {
            "name": "j",
            "classes": ["a", "b", "c"],
            "backbone": {"name": "mobilenet_v2", "weights": "random"},
            "features": {"stages": ["features.3"], "pool": ["mean"], **changes.pop("features", {})},
            **changes,
        }
    )


def described(job, features, labels):
    """What a hospital with these training examples says of itself."""
    images = np.zeros((3, job.num_classes), np.int64)
    images[0] = np.bincount(labels, minlength=job.num_classes) // job.examples_per_image
    wide = features.astype(np.float64)
    return Description(
        **{"job_id": job.job_id, "fingerprint": "a" * 64, "backbone_digest": "b" * 64, "tuned_digest": "c" * 64},
        **{
            "images": images,
            "patients": images.sum(axis=1),
            "sums": wide.sum(axis=0),
            "squares": (wide**2).sum(axis=0),
        },
        **{"examples": len(labels), "other_labels": 0, "unreadable": 0, "decoded": 0, "cached": 0},
    )


def spread(rng, n, scales, centres):
    """Features of very unlike size, some of them constant and some nought."""
    features = (scales * rng.normal(size=(n, 24)) + centres).astype(np.float32)
    features[:, 0], features[:, 1] = 0.0, centres[1]
    return features


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None)
def test_true_sums_are_let_through_however_unlike_the_features_and_the_hospitals(seed, n, copies):
    """copies: 2 where each image is seen with its mirror image, which need not be alike."""
    rng = np.random.default_rng(seed)
    job = small(modality="chest-xray", features={"mirror": copies == 2})
    scales, centres = 10 ** rng.uniform(-3, 3, 24), rng.normal(size=24) * 10 ** rng.uniform(-3, 3, 24)
    ours, labels = spread(rng, n * copies, scales, centres), np.repeat(rng.integers(0, 3, n), copies)
    others = spread(rng, 200, scales * 3, centres + scales * rng.normal(size=24) * 5).astype(np.float64)
    told = described(job, ours, labels)
    standardisation = Standardisation.from_sums(
        len(labels) + 200, told.sums + others.sum(axis=0), told.squares + (others**2).sum(axis=0)
    )
    sums = Sums.of(standardisation.apply(ours), labels, 3)
    reply = Packed(
        {"gram": sums.triangle(STATISTICS_DTYPE), "class-sums": sums.class_sums.astype(STATISTICS_DTYPE)},
        {"job-id": job.job_id, "fingerprint": "a" * 64, "examples": len(labels)},
    )
    expected = Expected("statistics", job, described=told, standardisation=standardisation)
    assert screen([reply], expected) is reply
    # Twice the squares of a feature that varies are not those of the examples that were described.
    gram = sums.gram.copy()
    gram[5, 5] = 2 * gram[5, 5] + 0.1 * len(labels) + 1e-4 * len(labels) * (centres[5] / scales[5]) ** 2
    wrong = {**reply.arrays, "gram": Sums(gram, sums.class_sums).triangle(STATISTICS_DTYPE)}
    found = screen([Packed(wrong, reply.fields)], expected)
    assert found == "the sums contradict the sums of features it described"


@pytest.mark.parametrize("mirror", [False, True])
def test_a_description_has_an_example_for_each_view_of_an_image(mirror):
    job = small(modality="chest-xray", features={"mirror": mirror, "views": 3})
    features, labels = (
        np.ones((30 * job.examples_per_image, 24), np.float32),
        np.arange(30).repeat(job.examples_per_image) % 3,
    )
    told = described(job, features, labels)
    assert job.examples_per_image == (6 if mirror else 3)
    packed = told.pack()
    assert screen([packed], Expected("describe", job)) is packed
    fewer = described(job, features[1:], labels[1:])
    assert "examples do not fit" in screen([fewer.pack()], Expected("describe", job))


@pytest.mark.parametrize("digest", ["", "c" * 63, "C" * 64, "g" * 64, "c" * 65])
def test_a_digest_that_is_none_is_refused(digest):
    job = small()
    told = described(job, np.ones((30, 24), np.float32), np.arange(30) % 3).pack()
    wrong = Packed(told.arrays, {**told.fields, "tuned-digest": digest})
    assert screen([wrong], Expected("describe", job)) == "field 'tuned-digest': expected 64 hex digits"


def arrays(change):
    """Tamper with the arrays of a reply, as a dict of numpy arrays."""

    def tamper(_kind, records):
        found = change({name: array.numpy() for name, array in records["arrays"].items()})
        given = {name: Array(np.ascontiguousarray(array)) for name, array in found.items()}
        return RecordDict({"arrays": ArrayRecord(given), "config": records["config"]})

    return tamper


def fields(**changes):
    return lambda _kind, records: RecordDict(
        {"arrays": records["arrays"], "config": ConfigRecord({**records["config"], **changes})}
    )


def without(name):
    return lambda found: {other: array for other, array in found.items() if other != name}


OTHER_INITIAL = {
    "another value": arrays(lambda found: {**found, "tuned.a.bias": found["tuned.a.bias"] + np.float32(1e-6)}),
    "another shape": arrays(lambda found: {**found, "tuned.b.weight": found["tuned.b.weight"].ravel()}),
    "another name": arrays(lambda found: {**without("tuned.a.bias")(found), "tuned.c": found["tuned.a.bias"]}),
    "one missing": arrays(without("tuned.a.bias")),
    "none": arrays(lambda _: {}),
    "one more": arrays(lambda found: {**found, "tuned.z": np.ones(4, np.float32)}),
    "features": arrays(lambda found: {**found, "features": np.ones((4, 24), np.float32)}),
    "float64": arrays(lambda found: {**found, "tuned.a.bias": found["tuned.a.bias"].astype(np.float64)}),
    "NaN": arrays(lambda found: {**found, "tuned.a.bias": found["tuned.a.bias"] * np.float32("nan")}),
    "an exception": lambda _kind, _records: 1 / 0,
}


@pytest.mark.parametrize("name", OTHER_INITIAL)
def test_pretrained_arrays_with_another_digest_are_refused_and_the_next_hospital_is_asked(
    name, small_job, scripted, exchange_with
):
    hospitals = {
        "alpha": scripted(tuned=TUNED, tamper=OTHER_INITIAL[name], kinds=("initial",)),
        "beta": scripted(tuned=TUNED),
        "gamma": scripted(tuned=TUNED),
    }
    outcome = run_job(small_job(**DEEP), exchange_with(hospitals))
    assert [one.asked.count("initial") for one in hospitals.values()] == [1, 1, 0]
    for key, array in TUNED.items():
        np.testing.assert_array_equal(hospitals["beta"].requests[2].arrays[f"tuned.{key}"], array)
        np.testing.assert_allclose(outcome.model.tuned[key], array + np.float32(0.1))
    assert hospitals["alpha"].asked.count("fit") == 1


@pytest.mark.parametrize("name", OTHER_INITIAL)
def test_without_any_pretrained_arrays_there_is_no_run(name, small_job, scripted, exchange_with):
    hospitals = {"alpha": scripted(tuned=TUNED, tamper=OTHER_INITIAL[name], kinds=("initial",))}
    with pytest.raises(FederationError, match="no hospital sent the pretrained arrays that the job tunes: alpha: "):
        run_job(small_job(**DEEP), exchange_with(hospitals))


def test_hospitals_with_other_pretrained_arrays_do_not_take_part(small_job, scripted, exchange_with):
    other = {**TUNED, "a.bias": TUNED["a.bias"] * 2}
    hospitals = {"a": scripted(tuned=TUNED), "b": scripted(tuned=other), "c": scripted(tuned=TUNED)}
    outcome = run_job(small_job(**DEEP), exchange_with(hospitals))
    assert [member.name for member in outcome.members.members] == ["a", "c"]
    assert "another feature space" in outcome.members.dropped["b"]


WRONG_TUNED = {
    "one missing": (arrays(without("tuned.a.bias")), "missing array 'tuned.a.bias'"),
    "one more": (arrays(lambda found: {**found, "tuned.c": np.ones(1, np.float32)}), "unexpected array"),
    "another shape": (
        arrays(lambda found: {**found, "tuned.b.weight": found["tuned.b.weight"].T}),
        "array 'tuned.b.weight': expected shape (3, 2), got (2, 3)",
    ),
    "float64": (
        arrays(lambda found: {**found, "tuned.b.weight": found["tuned.b.weight"].astype(np.float64)}),
        "array 'tuned.b.weight': expected dtype float32",
    ),
    "NaN": (
        arrays(lambda found: {**found, "tuned.a.bias": found["tuned.a.bias"] * np.float32("nan")}),
        "array 'tuned.a.bias': expected finite numbers",
    ),
    "far away": (
        arrays(lambda found: {**found, "tuned.a.bias": found["tuned.a.bias"] + np.float32(100)}),
        "the change has norm 174; guard.max_update_norm is 100",
    ),
    "a control variate": (
        arrays(lambda found: {**found, "control.bias": found["bias"]}),
        "unexpected array",
    ),
}


@pytest.mark.parametrize("name", WRONG_TUNED)
def test_a_deep_update_has_exactly_the_tuned_arrays(name, small_job, scripted, exchange_with):
    tamper, reason = WRONG_TUNED[name]
    rounds = []
    hospitals = {"a": scripted(tuned=TUNED, step=0.5, tamper=tamper), "b": scripted(tuned=TUNED, step=0.25)}
    outcome = run_job(small_job(**DEEP), exchange_with(hospitals), Hooks(judged=[rounds.append]))
    assert rounds[0].dropped.keys() == {"a"}
    assert rounds[0].dropped["a"].startswith(reason)
    for key, array in TUNED.items():
        np.testing.assert_array_equal(outcome.model.tuned[key], array + np.float32(0.25))


def test_an_update_of_the_head_alone_has_no_tuned_arrays(small_job, scripted, exchange_with):
    rounds = []
    tamper = arrays(lambda found: {**found, "tuned.a.bias": np.ones(3, np.float32)})
    hospitals = {"a": scripted(tamper=tamper), "b": scripted()}
    run_job(small_job(method={"name": "fedavg", "rounds": 1}), exchange_with(hospitals), Hooks(judged=[rounds.append]))
    assert rounds[0].dropped["a"].startswith("unexpected array")


def run_with(method, tamper, small_job, scripted, exchange_with, **more):
    rounds = []
    hospitals = {"a": scripted(step=0.5, tamper=tamper, **more), "b": scripted(step=0.25, **more)}
    outcome = run_job(small_job(method=method), exchange_with(hospitals), Hooks(judged=[rounds.append]))
    return outcome, rounds[0].dropped


WRONG_CONTROL = {
    "none": (
        arrays(lambda found: without("control.weight")(without("control.bias")(found))),
        "missing array 'control.bias'",
    ),
    "NaN": (
        arrays(lambda found: {**found, "control.bias": found["bias"] * np.float32("nan")}),
        "array 'control.bias': expected finite numbers",
    ),
    "wrong shape": (
        arrays(lambda found: {**found, "control.weight": found["weight"].T}),
        "array 'control.weight': expected shape (2, 24)",
    ),
}


@pytest.mark.parametrize("name", WRONG_CONTROL)
def test_a_scaffold_update_has_its_control_variate(name, small_job, scripted, exchange_with):
    tamper, reason = WRONG_CONTROL[name]
    outcome, dropped = run_with({"name": "scaffold", "rounds": 1}, tamper, small_job, scripted, exchange_with)
    assert dropped.keys() == {"a"}
    assert dropped["a"].startswith(reason)
    np.testing.assert_array_equal(outcome.model.head.bias, np.float32(0.25))


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.1e3, 1e18, float("nan"), float("inf"), -1.0])
def test_a_fednova_update_weighs_its_steps_as_they_can_be(norm, small_job, scripted, exchange_with):
    """50 examples in batches of 1 with momentum 0.95 make at most 50 / (1 - 0.95) = 1000 plain steps, and at least one."""
    method = {"name": "fednova", "rounds": 1, "batch_size": 1, "momentum": 0.95}
    tamper = fields(**{"local-norm": norm})
    outcome, dropped = run_with(method, tamper, small_job, scripted, exchange_with, local_norm=1000.0)
    assert dropped.keys() == {"a"}
    assert "field 'local-norm': expected " in dropped["a"]
    np.testing.assert_array_equal(outcome.model.head.bias, np.float32(0.25))


@pytest.mark.parametrize("norm", [1.0, 1000.0])
def test_the_least_and_the_most_steps_are_let_through(norm, small_job, scripted, exchange_with):
    method = {"name": "fednova", "rounds": 1, "batch_size": 1, "momentum": 0.95}
    _, dropped = run_with(method, None, small_job, scripted, exchange_with, local_norm=norm)
    assert dropped == {}


def test_a_fednova_update_without_the_weight_of_its_steps_is_refused(small_job, scripted, exchange_with):
    def tamper(_kind, records):
        kept = {name: value for name, value in records["config"].items() if name != "local-norm"}
        return RecordDict({"arrays": records["arrays"], "config": ConfigRecord(kept)})

    _, dropped = run_with({"name": "fednova", "rounds": 1}, tamper, small_job, scripted, exchange_with)
    assert dropped == {"a": "missing field 'local-norm'"}
