"""One hospital's part in a job, round by round: what it keeps between rounds, and what each kind of question gives."""

import numpy as np
import pytest

from client.participation import BATCH_NORM_STATE, CONTROL_STATE, PERSONAL_STATE
from common.head import Head, Standardisation
from common.messages import unpack_counts, unpack_model
from common.model import Model
from common.wire import CONTROL, PERSONALISED, TUNED, Packed, dimensions, problem_with, reply_schema

SMALL = {"name": "mobilenet_v3_small", "weights": {"name": "random", "seed": 1}}


@pytest.fixture
def hospital(phantoms, hospital_with, tmp_path):
    return hospital_with(phantoms["hospital-a"], cache=tmp_path / "cache", allow_tuning=("head", "last-blocks", "full"))


def request(job, described: Packed, **fields) -> dict:
    return {"job": job.canonical_json(), "fingerprint": described.fields["fingerprint"], **fields}


def describe(hospital, job) -> Packed:
    return hospital.answer("describe", Packed({}, {"job": job.canonical_json()}))


def standard(job) -> dict[str, np.ndarray]:
    one = Standardisation.identity(job.num_features)
    return {"mean": one.mean, "scale": one.scale}


def initial_model(hospital, job, described) -> Model:
    tuned = hospital.answer("initial", Packed({}, request(job, described))).arrays
    # Not of zeros: through those no gradient reaches the backbone.
    weight = np.random.default_rng(0).normal(0, 0.1, (job.num_classes, job.num_features)).astype(np.float32)
    head = Head(weight, np.zeros(job.num_classes, np.float32))
    return unpack_model({**Model(head).arrays(), **tuned})


def fit(hospital, job, described, model: Model, number: int, control=None) -> Packed:
    arrays = {**model.arrays(), **standard(job), **(control or {})}
    return hospital.answer("fit", Packed(arrays, request(job, described, round=number)))


def zeros_like(model: Model) -> dict[str, np.ndarray]:
    return {f"{CONTROL}{name}": np.zeros_like(array) for name, array in model.arrays().items()}


def test_scaffold_s_first_control_is_the_mean_gradient_and_is_kept(hospital, job):
    scaffold = job(method={"name": "scaffold", "rounds": 3, "lr": 0.01, "weight_decay": 0.0, "batch_size": 512})
    described = describe(hospital, scaffold)
    start = Model(Head.zeros(2, scaffold.num_features))
    first = fit(hospital, scaffold, described, start, 1, zeros_like(start))
    assert first.fields["steps"] == 1
    assert not any(name.startswith(CONTROL) for name in first.arrays)
    # One step: x - y = lr g, so the control is the gradient g.
    kept = hospital._part._state.load(CONTROL_STATE, 1)
    np.testing.assert_allclose(kept["bias"], -first.arrays["bias"] / 0.01, rtol=1e-5)


def test_scaffold_s_steps_follow_the_server_s_control_once_the_own_one_is_known(hospital, job):
    """A hospital whose own control is its gradient steps along the server's: y = x - lr c."""
    scaffold = job(method={"name": "scaffold", "rounds": 3, "lr": 1e-6, "weight_decay": 0.0, "batch_size": 512})
    described = describe(hospital, scaffold)
    start = Model(Head.zeros(2, scaffold.num_features))
    fit(hospital, scaffold, described, start, 1, zeros_like(start))
    control = {name: np.full_like(array, 0.25) for name, array in zeros_like(start).items()}
    second = fit(hospital, scaffold, described, start, 2, control)
    np.testing.assert_allclose(second.arrays["bias"], -1e-6 * 0.25, rtol=1e-3)


def test_a_round_asked_again_gives_the_same_bits(hospital, job):
    """A coordinator that was cut off asks for its last round once more; the state of the round before is still there."""
    scaffold = job(method={"name": "scaffold", "rounds": 3})
    described = describe(hospital, scaffold)
    start = Model(Head.zeros(2, scaffold.num_features))
    fit(hospital, scaffold, described, start, 1, zeros_like(start))
    second = fit(hospital, scaffold, described, start, 2, zeros_like(start))
    again = fit(hospital, scaffold, described, start, 2, zeros_like(start))
    assert all(array.tobytes() == again.arrays[name].tobytes() for name, array in second.arrays.items())


def test_fednova_tells_how_many_steps_were_made(hospital, job):
    nova = job(method={"name": "fednova", "rounds": 1, "momentum": 0.0, "batch_size": 8, "local_epochs": 2})
    described = describe(hospital, nova)
    reply = fit(hospital, nova, described, Model(Head.zeros(2, nova.num_features)), 1)
    steps = 2 * -(-int(reply.fields["examples"]) // 8)
    assert reply.fields["steps"] == steps


@pytest.mark.parametrize("norm", ["frozen", "local"])
def test_a_tuning_job_sends_the_tuned_arrays_and_nothing_of_batch_normalisation(hospital, job, norm):
    tuning = job(backbone=SMALL, tune={"part": "last-blocks", "blocks": 2, "batch_norm": norm, "views": 1})
    described = describe(hospital, tuning)
    start = initial_model(hospital, tuning, described)
    assert start.tuned
    reply = fit(hospital, tuning, described, start, 1)
    schema = reply_schema("fit", tuning, {name: array.shape for name, array in start.tuned.items()})
    assert problem_with(reply, schema, dimensions(tuning)) is None
    moved = unpack_model(reply.arrays)
    assert all(not np.array_equal(moved.tuned[name], array) for name, array in start.tuned.items())
    assert not any("running" in name for name in reply.arrays)
    kept = hospital._part._state.load(BATCH_NORM_STATE, 1)
    assert bool(kept) == (norm == "local")
    assert not {f"{TUNED}{name}" for name in kept} & set(reply.arrays)


def test_a_model_of_a_round_is_counted_with_the_batch_normalisation_of_that_round(hospital, job):
    tuning = job(backbone=SMALL, tune={"part": "last-blocks", "blocks": 2, "batch_norm": "local", "views": 1})
    described = describe(hospital, tuning)
    start = initial_model(hospital, tuning, described)
    head = start.head
    fit(hospital, tuning, described, start, 1)

    def losses(number: int) -> list[int]:
        arrays = {**Model(head, start.tuned).arrays(), **standard(tuning)}
        arrays |= {"weight": head.weight[None], "bias": head.bias[None]}
        fields = request(tuning, described, part="test", round=number)
        return hospital.answer("evaluate", Packed(arrays, fields)).arrays["losses"].tolist()

    assert losses(0) != losses(1)
    assert losses(1) == losses(1)


def test_personalised_models_are_counted_in_order_and_the_head_stays_here(hospital, job):
    personal = job(method="analytic", personalisation={"epochs": 3})
    described = describe(hospital, personal)
    model = Model(Head.zeros(2, personal.num_features))
    arrays = {**model.arrays(), **standard(personal)}
    reply = hospital.answer("personalise", Packed(arrays, request(personal, described, part="test", round=1)))
    assert set(reply.arrays) == {"confusion", "histograms", "calibration", "losses"}
    counts = dict(zip(PERSONALISED, unpack_counts(reply.arrays), strict=True))
    # The global head of zeros gives every class the same probability.
    assert counts["global"].losses[1] / counts["global"].n / 2**30 == pytest.approx(np.log(2), rel=1e-6)
    assert counts["personalised"].losses[1] != counts["global"].losses[1]
    kept = hospital._part._state.load(PERSONAL_STATE, 0)
    assert kept["weight"].shape == (2, personal.num_features)


def test_personalising_without_being_agreed_on_is_refused(hospital, job):
    described = describe(hospital, job())
    arrays = {**Model(Head.zeros(2, 512)).arrays(), **standard(job())}
    reply = hospital.answer("personalise", Packed(arrays, request(job(), described, part="test", round=1)))
    assert dict(reply.fields) == {"refused": "bad-request"}
