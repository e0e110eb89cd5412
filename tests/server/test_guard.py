"""What the guard lets through and what not: sums, pretrained arrays, tuned arrays, the number of steps."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import FederationError
from common.head import Head, Standardisation
from common.job import parse_job
from common.messages import Description, Space, pack_counts
from common.metrics import count
from common.model import Model
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
        Space(job.job_id, "a" * 64, "b" * 64, "c" * 64),
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


COUNTED = {"rounds": 1, "batch_size": 8, "local_epochs": 2, "lr": 0.5}
"""50 examples make 2 x 7 = 14 steps, or 2 x 6 = 12 where the last two of each epoch join the batch before."""

CONTROL_ARRAYS = {
    "both": arrays(lambda found: {**found, **{f"control.{name}": found[name] for name in ("weight", "bias")}}),
    "what it was sent": arrays(lambda found: {**found, "correction.bias": found["bias"]}),
    "one": arrays(lambda found: {**found, "control.bias": found["bias"]}),
    "NaN": arrays(lambda found: {**found, "control.bias": found["bias"] * np.float32("nan")}),
}


@pytest.mark.parametrize("name", CONTROL_ARRAYS)
def test_a_scaffold_update_has_no_control_variate(name, small_job, scripted, exchange_with):
    """It is derived here, so a hospital cannot claim one."""
    method = {**COUNTED, "name": "scaffold"}
    outcome, dropped = run_with(method, CONTROL_ARRAYS[name], small_job, scripted, exchange_with)
    assert dropped.keys() == {"a"}
    assert dropped["a"].startswith("unexpected array")
    np.testing.assert_array_equal(outcome.model.head.bias, np.float32(0.25))


@pytest.mark.parametrize("method", ["scaffold", "fednova"])
@pytest.mark.parametrize("steps", [0, 1, 11, 15, 1000, 10**18, 2**63 - 1])
def test_an_update_has_as_many_steps_as_a_round_can_make(steps, method, small_job, scripted, exchange_with):
    tamper = fields(steps=steps)
    outcome, dropped = run_with({**COUNTED, "name": method}, tamper, small_job, scripted, exchange_with)
    assert dropped == {"a": "field 'steps': expected 12 to 14, got one outside"}
    np.testing.assert_array_equal(outcome.model.head.bias, np.float32(0.25))


@pytest.mark.parametrize("method", ["scaffold", "fednova"])
@pytest.mark.parametrize("steps", [-1, -(2**63), 1.0, 1.5, float("nan"), float("inf"), "1", b"1", True, [1], [1, 2]])
def test_steps_are_a_whole_number(steps, method, small_job, scripted, exchange_with):
    tamper = fields(steps=steps)
    outcome, dropped = run_with({**COUNTED, "name": method}, tamper, small_job, scripted, exchange_with)
    assert dropped.keys() == {"a"}
    assert dropped["a"].startswith("field 'steps': expected int")
    np.testing.assert_array_equal(outcome.model.head.bias, np.float32(0.25))


@pytest.mark.parametrize("method", ["scaffold", "fednova"])
@pytest.mark.parametrize("steps", [12, 13, 14])
def test_the_fewest_and_the_most_steps_are_let_through(steps, method, small_job, scripted, exchange_with):
    _, dropped = run_with({**COUNTED, "name": method}, None, small_job, scripted, exchange_with, steps=steps)
    assert dropped == {}


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "fednova"])
@pytest.mark.parametrize("examples", [1, 9, 49, 51])
def test_a_hospital_trains_on_all_the_examples_it_declared(examples, method, small_job, scripted, exchange_with):
    """With 9 of the 50 its 2 steps would be true to the batch size; the mean would be tilted all the same."""
    tamper = fields(examples=examples, **({} if method == "fedavg" else {"steps": 2 * -(-examples // 8)}))
    outcome, dropped = run_with({**COUNTED, "name": method}, tamper, small_job, scripted, exchange_with)
    assert dropped == {"a": f"{examples} examples; it declared 50"}
    np.testing.assert_array_equal(outcome.model.head.bias, np.float32(0.25))


@pytest.mark.parametrize("method", ["scaffold", "fednova"])
@pytest.mark.parametrize(
    ("batch_size", "accumulate", "batch_norm", "least", "most"),
    [
        (1, 1, "frozen", 50, 50),
        (1, 1, "local", 25, 50),  # pairs, or single images in a network without batch normalisation
        (2, 1, "local", 25, 25),
        (1, 3, "local", 16, 17),
        (7, 1, "local", 7, 8),
        (64, 1, "local", 1, 1),
        (8, 2, "frozen", 3, 4),
    ],
)
def test_batch_normalisation_of_its_own_takes_two_images_a_step_at_least(
    method, batch_size, accumulate, batch_norm, least, most, small_job, scripted, exchange_with
):
    """50 images in one epoch; whoever makes one step fewer or more than is possible is dropped."""
    job = small_job(
        method={"name": method, "rounds": 1, "local_epochs": 1, "batch_size": batch_size, "lr": 0.01},
        tune={"part": "last-blocks", "accumulate": accumulate, "batch_norm": batch_norm, "lr": 0.01},
    )
    told = {"few": least - 1, "least": least, "most": most, "many": most + 1}
    rounds = []
    hospitals = {name: scripted(tuned=TUNED, tamper=fields(steps=steps)) for name, steps in told.items()}
    run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append]))
    reason = f"field 'steps': expected {least} to {most}, got one outside"
    assert rounds[0].dropped == {"few": reason, "many": reason}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova_cannot_be_amplified_by_a_hospital_that_claims_one_step(momentum, small_job, scripted, exchange_with):
    """A change counts as much more as its steps are fewer. Let through, 1 of 14 steps would make 0.5 a change above 1.8."""
    method = {**COUNTED, "name": "fednova", "momentum": momentum}
    outcome, dropped = run_with(method, fields(steps=1), small_job, scripted, exchange_with)
    assert dropped == {"a": "field 'steps': expected 12 to 14, got one outside"}
    np.testing.assert_array_equal(outcome.model.head.bias, np.float32(0.25))
    honest, dropped = run_with(method, None, small_job, scripted, exchange_with)
    assert dropped == {}
    np.testing.assert_allclose(honest.model.head.bias, 0.375, rtol=1e-6)
    # One batch holds all 50 examples: one step an epoch is the truth, and nothing is gained by it.
    once, dropped = run_with({**method, "batch_size": 64}, fields(steps=2), small_job, scripted, exchange_with)
    assert dropped == {}
    np.testing.assert_allclose(once.model.head.bias, 0.375, rtol=1e-6)


def test_in_fednova_the_steps_a_hospital_may_claim_at_most_double_its_weight(small_job, scripted, exchange_with):
    """Against the true number of steps of its 50 examples."""
    job = small_job(method={**COUNTED, "name": "fednova", "momentum": 0.0})
    moved = {}
    for steps in range(1, 16):
        rounds = []
        hospitals = {"a": scripted(step=1.0, tamper=fields(steps=steps)), "b": scripted(step=0.0)}
        outcome = run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append]))
        if not rounds[0].dropped:
            moved[steps] = float(outcome.model.head.bias[0])
    true = 2 * -(-50 // 8)
    assert true in moved
    assert max(moved.values()) <= 2 * moved[true]
    assert min(moved.values()) == moved[max(moved)]


@pytest.mark.parametrize("method", ["fedavg", "fednova"])
@pytest.mark.parametrize(
    ("tune", "most"), [("head", 100), ("last-blocks", 50), ("full", 50)], ids=["head", "last-blocks", "full"]
)
def test_a_tuning_fit_counts_its_images_and_another_its_examples(
    tune, most, method, small_job, scripted, exchange_with
):
    """50 images, each seen with its mirror image: 100 examples of features, but a tuning epoch trains on each image once."""
    mirrored = {"features": {"stages": ["features.3"], "pool": ["mean"], "mirror": True}, "modality": "chest-xray"}
    job = small_job(method={"name": method, "rounds": 1, "batch_size": 512}, tune=tune, **mirrored)
    assert job.examples_per_image == 2
    rounds = []
    claims = {"one": 1, "less": most - 1, "all": most, "more": most + 1, "twice": 2 * most}
    hospitals = {name: scripted(tuned=TUNED, tamper=fields(examples=claim)) for name, claim in claims.items()}
    run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append]))
    assert rounds[0].answered == ["all"]
    assert rounds[0].dropped == {
        name: f"{claims[name]} examples; it declared {most}" for name in ("one", "less", "more", "twice")
    }


def no_steps(_kind, records):
    kept = {name: value for name, value in records["config"].items() if name != "steps"}
    return RecordDict({"arrays": records["arrays"], "config": ConfigRecord(kept)})


@pytest.mark.parametrize("method", ["scaffold", "fednova"])
def test_an_update_without_its_steps_is_refused(method, small_job, scripted, exchange_with):
    _, dropped = run_with({**COUNTED, "name": method}, no_steps, small_job, scripted, exchange_with)
    assert dropped == {"a": "missing field 'steps'"}


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedadam", "krum"])
@pytest.mark.parametrize("field", ["steps", "local-norm"])
def test_other_methods_are_told_no_steps(field, method, small_job, scripted, exchange_with):
    rounds = []
    hospitals = {name: scripted() for name in "bcd"}
    hospitals["a"] = scripted(tamper=fields(**{field: 1}))
    run_job(small_job(method={"name": method, "rounds": 1}), exchange_with(hospitals), Hooks(judged=[rounds.append]))
    assert rounds[0].dropped.keys() == {"a"}
    assert rounds[0].dropped["a"].startswith("unexpected field")


@pytest.mark.parametrize("field", ["local-norm", "control"])
def test_nothing_about_the_steps_can_be_claimed_but_their_number(field, small_job, scripted, exchange_with):
    for method in ("scaffold", "fednova"):
        tamper = fields(**{field: 1.0})
        _, dropped = run_with({**COUNTED, "name": method}, tamper, small_job, scripted, exchange_with)
        assert dropped["a"].startswith("unexpected field")


HOSTILE_STEPS = {"none": no_steps, **{str(steps): fields(steps=steps) for steps in (0, -1, 15, 2**62, 1e-9)}}


def control_of(job, hospitals, exchange_with):
    """The hospitals' control variates after each round, and who was dropped in any."""
    states, rounds = [], []
    run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append], checkpoint=[states.append]))
    return [state.strategy for state in states], {name for one in rounds for name in one.dropped}


@pytest.mark.parametrize("name", HOSTILE_STEPS)
def test_hostile_steps_do_not_reach_the_control_variates(name, small_job, scripted, exchange_with):
    """Beside b, a hospital with such steps is one that sent nothing: half of the members' examples, without a word."""
    job = small_job(method={**COUNTED, "name": "scaffold", "rounds": 3})
    hostile = {"a": scripted(step=0.5, tamper=HOSTILE_STEPS[name]), "b": scripted(step=0.25)}
    found, dropped = control_of(job, hostile, exchange_with)
    assert dropped == {"a"}
    for control in found:
        # Of b: 0.25 in 14 steps of 0.5, the same in each round.
        assert set(control) == {"control/b/weight", "control/b/bias"}
        for array in control.values():
            np.testing.assert_allclose(array, -0.25 / 7, rtol=1e-5)


@pytest.mark.parametrize("steps", [12, 14])
@pytest.mark.parametrize(("share", "turns"), [(0.999, -1), (0.4, 1)])
def test_a_huge_update_within_the_norm_moves_its_control_variate_no_further_than_the_norm_allows(
    steps, share, turns, small_job, scripted, exchange_with
):
    """|c_a| <= max_update_norm / (steps lr) + |c - c_a|; b has no gradient and follows what it is sent.

    share: of the norm that is moved; turns: -1 if to and fro.
    """
    bound, lr, rounds = 100.0, 0.5, 6
    job = small_job(
        method={**COUNTED, "name": "scaffold", "rounds": rounds, "lr": lr}, guard={"max_update_norm": bound}
    )
    turn = iter(range(rounds))

    def norm_of(control):
        return float(np.sqrt(sum((array**2).sum() for array in control.values())))

    def huge(_kind, records):
        start = hospital.requests[-1].arrays
        count = sum(start[name].size for name in ("weight", "bias"))
        step = np.float32(turns ** next(turn) * share * bound / np.sqrt(count))
        return arrays(lambda found: {**found, **{name: start[name] + step for name in ("weight", "bias")}})(
            _kind, records
        )

    hospital = scripted(tamper=huge, steps=steps)
    found, dropped = control_of(job, {"a": hospital, "b": scripted(step=0.0)}, exchange_with)
    assert dropped == set()
    before = 0.0
    for control in found:
        ours = norm_of({name: array for name, array in control.items() if name.startswith("control/a/")})
        theirs = norm_of({name: array for name, array in control.items() if name.startswith("control/b/")})
        # b has nought of its own, so half of what a has is what a was sent.
        assert 0 < ours <= (share * bound / (steps * lr) + before / 2) * (1 + 1e-5)
        assert theirs < 1e-4 * bound
        before = ours
    # Nor does it add up: half of it is taken away again in each round.
    assert before <= 2 * bound / (steps * lr)


def test_an_update_beyond_the_norm_does_not_reach_the_control_variates(small_job, scripted, exchange_with):
    job = small_job(method={**COUNTED, "name": "scaffold", "rounds": 2}, guard={"max_update_norm": 10.0})
    found, dropped = control_of(job, {"a": scripted(step=50.0), "b": scripted(step=0.25)}, exchange_with)
    assert dropped == {"a"}
    for control in found:
        assert set(control) == {"control/b/weight", "control/b/bias"}
        assert all(abs(array).max() == pytest.approx(0.25 / 7, rel=1e-5) for array in control.values())


SECRET = "patient-0815.Doe^Jane"
TOLD_IN_NAMES = {
    "one more": arrays(lambda found: {**found, SECRET: np.ones(2, np.float32)}),
    "one more tuned": arrays(lambda found: {**found, f"tuned.{SECRET}": np.ones(2, np.float32)}),
    "float64": arrays(lambda found: {**found, f"tuned.{SECRET}": np.ones(2)}),
    "NaN": arrays(lambda found: {**found, f"tuned.{SECRET}": np.full(2, np.nan, np.float32)}),
    "a text": arrays(lambda found: {**found, f"tuned.{SECRET}": np.array(["x"])}),
    "a field": fields(**{SECRET: 1}),
    "another job": fields(**{"job-id": SECRET}),
}


@pytest.mark.parametrize("name", TOLD_IN_NAMES)
def test_what_a_hospital_calls_its_pretrained_arrays_is_never_repeated(
    name, small_job, scripted, exchange_with, caplog
):
    """The coordinator has no network to hold the names to, so they could say anything."""
    told = {"alpha": scripted(tuned=TUNED, tamper=TOLD_IN_NAMES[name], kinds=("initial",))}
    with pytest.raises(FederationError) as caught:
        run_job(small_job(**DEEP), exchange_with(told))
    reason = str(caught.value).partition("alpha: ")[2]
    assert reason in (
        "its arrays or fields are not those of the contract",
        "the initial arrays do not have the digest that was declared",
    )
    assert "Doe" not in str(caught.value)
    assert "Doe" not in caplog.text


# ------------------------------------------------------------------------------------------- hospitals with noise of their own

NOISED = {
    "evaluation": {},
    "method": {"name": "fedavg"},
    "privacy": {"differential_privacy": {"epsilon": 3, "noise": "own"}},
}


def noised_reply(one, kind):
    identity = {"job-id": one.job_id, "fingerprint": "a" * 64}
    if kind == "describe":
        centre = np.zeros(one.num_features + 1)
        return Packed({"centre": centre}, {**identity, "backbone-digest": "b" * 64, "tuned-digest": "c" * 64})
    weight = np.zeros((one.num_classes, one.num_features), np.float32)
    return Packed({"weight": weight, "bias": np.zeros(one.num_classes, np.float32)}, {**identity, "round": 1})


@pytest.mark.parametrize("kind", ["describe", "fit"])
def test_noised_answers_pass_and_exact_numbers_among_them_do_not(job, kind):
    one = job(**NOISED)
    good, expected = noised_reply(one, kind), Expected(kind, one)
    assert screen([good], expected) is good
    for extra in ({"examples": 40}, {"loss-sum": 1.0}, {"decoded": 3}):
        assert isinstance(screen([Packed(good.arrays, {**good.fields, **extra})], expected), str)
    for name, array in good.arrays.items():
        broken = {**good.arrays, name: np.full_like(array, np.nan)}
        assert isinstance(screen([Packed(broken, good.fields)], expected), str)


def test_a_noised_head_is_held_to_the_norm(job):
    one = job(**NOISED, guard={"max_update_norm": 1.0})
    good = noised_reply(one, "fit")
    start = Model(Head(np.full_like(good.arrays["weight"], 0.5), np.zeros(2, np.float32)))
    assert "guard.max_update_norm is 1" in str(screen([good], Expected("fit", one, start=start)))


def test_counts_of_a_hospital_with_noise_of_its_own_may_not_contradict_themselves(job):
    one = job(**NOISED)
    counts = count(np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([1, 0]))
    fields = {"job-id": one.job_id, "fingerprint": "a" * 64, "part": "test", "round": 1}
    good = Packed(pack_counts([counts]), fields)
    assert screen([good], Expected("evaluate", one, part="test")) is good
    wrong = {**good.arrays, "confusion": good.arrays["confusion"] + 1}
    assert "counts:" in str(screen([Packed(wrong, fields)], Expected("evaluate", one, part="test")))


@pytest.mark.parametrize("name", ["confusion", "histograms", "calibration", "losses"])
@pytest.mark.parametrize("head", [0, 1, 2])
def test_one_wrong_head_of_three_is_enough(job, name, head):
    one = job(**NOISED)
    probabilities = np.array([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]])
    arrays = pack_counts([count(probabilities, np.array(labels)) for labels in ([1, 0, 1], [0, 0, 1], [1, 1, 1])])
    fields = {"job-id": one.job_id, "fingerprint": "a" * 64, "part": "test", "round": 1}
    good = Packed(arrays, fields)
    assert screen([good], Expected("evaluate", one, heads=3, part="test")) is good
    wrong = arrays[name].copy()
    wrong[head] += np.array(1 << 40 if name == "losses" else 1, wrong.dtype)
    assert "counts:" in str(
        screen([Packed({**arrays, name: wrong}, fields)], Expected("evaluate", one, heads=3, part="test"))
    )
