"""One hospital's part in a job, round by round: what it keeps between rounds, and what each kind of question gives."""

import numpy as np
import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity

from client.images import load_image, to_input
from client.local_state import load_kept
from client.participation import BATCH_NORM_STATE, PERSONAL_STATE
from client.weights import load_backbone
from common.head import Head, Standardisation
from common.messages import unpack_counts, unpack_model
from common.model import TUNED, Model, digest_of_arrays
from common.wire import CORRECTION, PERSONALISED, Packed, dimensions, problem_with, reply_schema
from server.strategies import Aggregator, Update

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


def fit(hospital, job, described, model: Model, number: int, correction=None) -> Packed:
    added = {f"{CORRECTION}{name}": array for name, array in (correction or {}).items()}
    arrays = {**model.arrays(), **standard(job), **added}
    return hospital.answer("fit", Packed(arrays, request(job, described, round=number)))


def alike(model: Model, value: float) -> dict[str, np.ndarray]:
    """A correction of one number in every array."""
    return {name: np.full_like(array, value) for name, array in model.arrays().items()}


SCAFFOLD = {"name": "scaffold", "rounds": 3, "lr": 0.01, "weight_decay": 0.0, "batch_size": 512}
"""One step a round."""


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_the_correction_is_added_to_the_gradients(hospital, job, value):
    """One step: y = x - lr (g + correction), with its own number for each entry."""
    scaffold = job(method=SCAFFOLD)
    described = describe(hospital, scaffold)
    start = Model(Head.zeros(2, scaffold.num_features))
    plain = fit(hospital, scaffold, described, start, 1, alike(start, 0.0))
    correction = {
        name: array + value * np.random.default_rng(1).normal(size=array.shape).astype(np.float32)
        for name, array in alike(start, value).items()
    }
    corrected = fit(hospital, scaffold, described, start, 1, correction)
    assert plain.fields["steps"] == corrected.fields["steps"] == 1
    for name in ("weight", "bias"):
        expected = plain.arrays[name] - 0.01 * correction[name]
        np.testing.assert_allclose(corrected.arrays[name], expected, rtol=1e-5, atol=1e-7)


def test_each_step_of_a_round_is_corrected_by_the_same(hospital, job):
    """At a rate so small that the gradients stay the same, many steps are as many corrections."""
    scaffold = job(method={**SCAFFOLD, "lr": 1e-6, "batch_size": 4, "local_epochs": 2})
    described = describe(hospital, scaffold)
    start = Model(Head.zeros(2, scaffold.num_features))
    plain, corrected = (fit(hospital, scaffold, described, start, 1, alike(start, value)) for value in (0.0, 0.5))
    steps = int(corrected.fields["steps"])
    assert steps == 2 * -(-int(corrected.fields["examples"]) // 4)
    np.testing.assert_allclose(corrected.arrays["bias"] - plain.arrays["bias"], -1e-6 * steps * 0.5, rtol=1e-3)


def test_a_scaffold_request_without_its_corrections_is_refused_and_one_with_them_in_another_method(hospital, job):
    for method, correction in (("scaffold", False), ("fedavg", True)):
        one = job(method={"name": method, "rounds": 3})
        described = describe(hospital, one)
        start = Model(Head.zeros(2, one.num_features))
        reply = fit(hospital, one, described, start, 1, alike(start, 0.0) if correction else None)
        assert dict(reply.fields) == {"refused": "bad-request"}


def test_scaffold_keeps_nothing_at_the_hospital_and_a_round_asked_again_gives_the_same_bits(hospital, job):
    """A coordinator that was cut off asks for its last round once more; what it does not use has changed nothing."""
    scaffold = job(method={**SCAFFOLD, "batch_size": 8})
    described = describe(hospital, scaffold)
    start = Model(Head.zeros(2, scaffold.num_features))
    first = fit(hospital, scaffold, described, start, 1, alike(start, 0.1))
    second = fit(hospital, scaffold, described, start, 2, alike(start, 0.1))
    again = fit(hospital, scaffold, described, start, 1, alike(start, 0.1))
    assert all(array.tobytes() == again.arrays[name].tobytes() for name, array in first.arrays.items())
    assert second.arrays["weight"].tobytes() != first.arrays["weight"].tobytes()
    assert not any(name.startswith(CORRECTION) or "control" in name for name in first.arrays)
    # But for what every request carries, the mean and the deviation of all hospitals' features.
    assert [path.name for path in hospital._part._state.folder.iterdir()] == ["federation-00000.safetensors"]


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
    kept = hospital._part._state.load_latest(BATCH_NORM_STATE, 1)
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


def test_a_hospital_that_missed_rounds_goes_on_with_the_batch_normalisation_of_its_last_one(hospital, job):
    """As if no round had been in between: not from the pretrained one, and not with an error."""
    tune = {"part": "last-blocks", "blocks": 2, "batch_norm": "local", "views": 1}
    tuning = job(backbone=SMALL, method={"name": "fedavg", "rounds": 9}, tune=tune)
    described = describe(hospital, tuning)
    start = initial_model(hospital, tuning, described)
    state = hospital._part._state

    def after(number: int) -> dict[str, np.ndarray]:
        return state.load_latest(BATCH_NORM_STATE, number)

    def bits(arrays) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in arrays.items()}

    fit(hospital, tuning, described, start, 1)
    first = after(1)
    assert first
    assert bits(after(4)) == bits(first)
    missed = fit(hospital, tuning, described, start, 5)
    there, given = bits(after(5)), bits(missed.arrays)
    assert not state.path(BATCH_NORM_STATE, 4).exists()
    # The same round again, after rounds 2 to 4 that changed nothing of it.
    for number in (2, 3, 4):
        state.save(BATCH_NORM_STATE, number, first)
    again = fit(hospital, tuning, described, start, 5)
    assert (bits(after(5)), bits(again.arrays)) == (there, given)
    # From the pretrained one it would come elsewhere.
    for path in state.folder.glob(f"{BATCH_NORM_STATE}-*"):
        path.unlink()
    fresh = fit(hospital, tuning, described, start, 5)
    assert bits(after(5)) != there
    assert bits(fresh.arrays) != given


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
    kept = load_kept(hospital._part._state.path(PERSONAL_STATE, 1))
    assert {name: array.shape for name, array in kept.arrays.items()} == {
        "weight": (2, personal.num_features),
        "bias": (2,),
    }
    assert (kept.job_id, kept.number, kept.model) == (personal.job_id, 1, digest_of_arrays(model.arrays()))


def test_a_personalised_head_is_made_anew_for_another_model_and_only_then(hospital, job):
    personal = job(method="analytic", personalisation={"epochs": 2})
    described = describe(hospital, personal)
    rng = np.random.default_rng(0)
    one = Model(Head.zeros(2, personal.num_features))
    other = Model(Head(rng.normal(size=one.head.weight.shape).astype(np.float32), np.zeros(2, np.float32)))
    path = hospital._part._state.path(PERSONAL_STATE, 1)
    digests, made = [], []
    for model, part in ((one, "validation"), (one, "test"), (other, "test"), (one, "test")):
        arrays = {**model.arrays(), **standard(personal)}
        hospital.answer("personalise", Packed(arrays, request(personal, described, part=part, round=1)))
        digests.append(load_kept(path).model)
        made.append(path.stat().st_mtime_ns)
    a, b = (digest_of_arrays(model.arrays()) for model in (one, other))
    assert digests == [a, a, b, a]
    assert made[0] == made[1] < made[2] < made[3]


def batch_statistics(hospital, job, model: Model, own) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of what enters each batch normalisation: all training images as one batch, by torch alone."""
    backbone = load_backbone(SMALL["name"], job.backbone.weights)
    state = {**model.tuned, **own}
    backbone.network.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=False)
    norms, seen = backbone.batch_norms_from(0), {}

    def watch(name):
        def hook(_module, entering):
            x = entering[0].double().transpose(0, 1).flatten(1)
            seen[name] = (x.mean(1).numpy(), x.var(1, unbiased=True).numpy())

        return hook

    for name, norm in norms.items():
        norm.register_forward_pre_hook(watch(name))
        norm.train()
    images = [record.path for record in hospital._part.prepared.records.of("train")]
    pixels = np.stack([to_input(load_image(path), job.size_px, job.image.fit) for path in images])
    with torch.no_grad():
        backbone.features(torch.from_numpy(pixels).float() / 255, job.feature_blocks)
    return seen


def test_fedbn_by_hand_with_two_hospitals(phantoms, hospital_with, job, tmp_path):
    """Each running mean is (1 - m) of the one before and m of its own batch's, m = 0.01; it never leaves its hospital."""
    fedbn = job(
        backbone=SMALL,
        method={"name": "fedavg", "rounds": 2, "local_epochs": 1, "batch_size": 512, "momentum": 0.0, "lr": 1e-4},
        tune={"part": "full", "batch_norm": "local", "views": 1, "lr": 1e-4},
    )
    hospitals = {
        name: hospital_with(phantoms[folder], name=name, cache=tmp_path / name, allow_tuning=("full",))
        for name, folder in (("a", "hospital-a"), ("b", "hospital-b"))
    }
    described = {name: describe(hospital, fedbn) for name, hospital in hospitals.items()}
    start = initial_model(hospitals["a"], fedbn, described["a"])
    network = load_backbone(SMALL["name"], fedbn.backbone.weights)
    pretrained = {name: tensor.numpy().copy() for name, tensor in network.network.state_dict().items()}
    kinds = ("weight", "bias", "running_mean", "running_var")
    names = {f"{norm}.{kind}" for norm in network.batch_norms_from(0) for kind in kinds}
    before: dict[str, dict[str, np.ndarray]] = {name: {one: pretrained[one] for one in names} for name in hospitals}
    aggregator = Aggregator(fedbn.method)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    for number in (1, 2):
        updates = []
        for name, hospital in hospitals.items():
            reply = fit(hospital, fedbn, described[name], start, number)
            assert reply.fields["examples"] <= 512
            assert not names & {one.removeprefix(TUNED) for one in reply.arrays}
            kept = hospital._part._state.load_latest(BATCH_NORM_STATE, number)
            assert kept.keys() == names
            for norm, (mean, variance) in batch_statistics(hospital, fedbn, start, before[name]).items():
                for kind, batch in (("running_mean", mean), ("running_var", variance)):
                    one = f"{norm}.{kind}"
                    expected = 0.99 * before[name][one] + 0.01 * batch
                    np.testing.assert_allclose(kept[one], expected, rtol=1e-4, atol=1e-5, err_msg=one)
            before[name] = kept
            updates.append(Update(name, unpack_model(reply.arrays), int(reply.fields["examples"])))
        # Unlike at the two, and the same again whatever the coordinator makes of the arrays it has.
        for one in sorted(names):
            if one.endswith("running_mean"):
                assert not np.array_equal(before["a"][one], before["b"][one]), one
        start = aggregator.combine(number, start, updates)
        assert not names & set(start.tuned)
        for name, hospital in hospitals.items():
            after = hospital._part._state.load_latest(BATCH_NORM_STATE, number)
            assert all(np.array_equal(after[one], before[name][one]) for one in names)


def test_personalising_without_being_agreed_on_is_refused(hospital, job):
    described = describe(hospital, job())
    arrays = {**Model(Head.zeros(2, 512)).arrays(), **standard(job())}
    reply = hospital.answer("personalise", Packed(arrays, request(job(), described, part="test", round=1)))
    assert dict(reply.fields) == {"refused": "bad-request"}
