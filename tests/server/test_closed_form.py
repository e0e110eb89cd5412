"""The closed-form head over hospitals with true examples: one round, the pooled head, and what hostile sums cost."""

import json
import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.candidates import TEMPERATURES, candidates, divided
from common.errors import FederationError
from common.head import Head, Standardisation
from common.methods import RIDGE
from common.metrics import count, derive
from common.projection import projection_of
from common.ridge import Ridge
from common.sums import Sums
from common.wire import PARTS
from server.checkpoint import load_checkpoint, save_checkpoint
from server.members import missing_classes
from server.recorder import Recorder
from server.rounds import Hooks, run_job
from server.training import LOST_ROUNDS_IN_A_ROW

THREE = ["a", "b", "c"]
ECE = ("ece_before", "ece_after")
ALL = [[60, 50, 40], [20, 20, 20], [15, 15, 15]]
"""Training, validation and test examples of each class, of all hospitals together."""


@pytest.fixture
def pooled(examples):
    """All examples, in one place."""
    return examples(1, ALL)


def parted(pooled, of_label_and_row):
    """The same examples by hospital: a function from label and row to the hospital's number."""
    found = {}
    for part in PARTS:
        features, labels = pooled[part]
        where = np.array([of_label_and_row(int(label), row) for row, label in enumerate(labels)])
        for hospital in range(4):
            found.setdefault(hospital, {})[part] = (features[where == hospital], labels[where == hospital])
    return [one for one in found.values() if len(one["train"][1])]


SPLITS = {
    "random": lambda _label, row: row * 7919 % 3,
    "one class each": lambda label, _row: label,
    "one example": lambda _label, row: int(row > 0),
    "in halves": lambda _label, row: row % 2,
}


def named(scripted, parts):
    return {f"h{at}": scripted(examples=one) for at, one in enumerate(parts)}


FINALLY = ["distances", "evaluate"]
"""What is asked in the end where the closed-form head, which has its temperature, is the best: the last is the test."""


def standardisation_of(pooled):
    wide = pooled["train"][0].astype(np.float64)
    return Standardisation.from_sums(len(wide), wide.sum(axis=0), (wide**2).sum(axis=0))


def pooled_sums(pooled, classes=3):
    features, labels = pooled["train"]
    return Sums.of(standardisation_of(pooled).apply(features), labels, classes)


def differ(one: Head, other: Head) -> float:
    """The largest difference of two heads, relative to the largest number."""
    both = [np.concatenate([head.weight.ravel(), head.bias]) for head in (one, other)]
    return float(np.abs(both[0] - both[1]).max() / np.abs(both[1]).max())


@pytest.mark.parametrize("how", SPLITS)
def test_any_split_gives_the_pooled_head_in_one_round_of_training(how, small_job, scripted, exchange_with, pooled):
    rounds = []
    job = small_job(classes=THREE)
    hospitals = named(scripted, parted(pooled, SPLITS[how]))
    outcome = run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append]))
    choice = outcome.choice
    head = Ridge(pooled_sums(pooled)).logits(choice["ridge"], choice["class_weights"] == "balanced")
    expected = standardisation_of(pooled).fold(divided(head, choice["temperature"]))
    assert differ(outcome.model.head, expected) < 1e-5
    whole = run_job(job, exchange_with({"whole": scripted(examples=pooled)}))
    assert outcome.model.tuned == {}
    assert outcome.choice == {**whole.choice, **{key: pytest.approx(whole.choice[key], rel=1e-5) for key in ECE}}
    assert differ(outcome.model.head, whole.model.head) < 1e-5
    # Sums once; then the candidates, the temperatures, the distances, and the test: counts only.
    for hospital in hospitals.values():
        assert hospital.asked == ["describe", "statistics", "evaluate", "evaluate", "distances", "evaluate"]
    assert [(one.number, one.lost, one.train_loss, one.update_norms) for one in rounds] == [(1, False, None, {})]
    assert rounds[0].answered == sorted(hospitals)
    assert (outcome.rounds, outcome.best_round) == (1, 1)


def test_where_each_hospital_has_one_class_only_the_head_is_the_same(small_job, scripted, exchange_with, pooled):
    job = small_job(classes=THREE)
    alone = run_job(job, exchange_with(named(scripted, parted(pooled, SPLITS["one class each"]))))
    mixed = run_job(job, exchange_with(named(scripted, parted(pooled, SPLITS["random"]))))
    assert differ(alone.model.head, mixed.model.head) < 1e-5
    assert set(missing_classes(alone.described, THREE)) == {"h0", "h1", "h2"}


def test_the_candidate_and_the_temperature_are_the_best_on_the_validation_patients(
    small_job, scripted, exchange_with, pooled
):
    rounds = []
    job = small_job(classes=THREE, evaluation={"select_by": "f1"})
    hospitals = named(scripted, parted(pooled, SPLITS["random"]))
    outcome = run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append]))
    features = standardisation_of(pooled).apply(pooled["validation"][0])

    def judged(head):
        return derive(count(head.probabilities(features), pooled["validation"][1]))

    found = candidates(job, pooled_sums(pooled))
    assert outcome.choice["candidates"] == len(found) == 16
    best = max(found, key=lambda one: (judged(one.head).f1, -judged(one.head).log_loss))
    chosen = (outcome.choice["stages"], outcome.choice["ridge"], outcome.choice["class_weights"] == "balanced")
    assert chosen == (best.stages, best.strength, best.balanced)
    losses = [judged(divided(best.head, temperature)).log_loss for temperature in TEMPERATURES]
    assert outcome.choice["temperature"] == TEMPERATURES[int(np.argmin(losses))]
    calibrated = divided(best.head, outcome.choice["temperature"])
    errors = [judged(head).ece for head in (best.head, calibrated)]
    assert [outcome.choice[key] for key in ECE] == pytest.approx(errors, rel=1e-4)
    assert 0 < int(np.argmin(losses)) < len(TEMPERATURES) - 1
    assert rounds[0].validation.log_loss == pytest.approx(min(losses), rel=1e-4)
    assert rounds[0].validation.n == 60


def test_what_was_chosen_is_in_the_summary(small_job, scripted, exchange_with, pooled, tmp_path):
    job = small_job(classes=THREE)
    recorder = Recorder(tmp_path / "run", job, "test")
    outcome = run_job(job, exchange_with({"a": scripted(examples=pooled)}), Hooks(judged=[recorder.judged]))
    recorder.finish(outcome)
    summary = json.loads((recorder.folder / "summary.json").read_text())
    assert summary["closed_form"] == outcome.choice
    assert set(outcome.choice) == {"candidates", "stages", "ridge", "class_weights", "temperature", *ECE}


def test_a_projected_job_sends_less_and_gives_the_head_of_projected_features(
    small_job, scripted, exchange_with, pooled
):
    method = {"name": "analytic", "stage_subsets": False, "projection": 8, "ridge": [0.1], "class_weights": "none"}
    job = small_job(classes=THREE, method=method)
    rounds, hospitals = [], named(scripted, parted(pooled, SPLITS["random"]))
    outcome = run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append]))
    standardised = standardisation_of(pooled).apply(pooled["train"][0])
    matrix = projection_of(job)
    sums = Sums.of((standardised @ matrix).astype(np.float32), pooled["train"][1], 3)
    head = divided(Ridge(sums).logits(0.1), outcome.choice["temperature"])
    unprojected = Head((head.weight.astype(np.float64) @ matrix.T).astype(np.float32), head.bias)
    assert differ(outcome.model.head, standardisation_of(pooled).fold(unprojected)) < 1e-5
    assert rounds[0].dropped == {}


@pytest.mark.parametrize(("classes", "hospitals"), [(2, 1), (3, 2)])
def test_the_round_of_sums_costs_half_of_the_matrix_and_little_more(
    classes, hospitals, server_job, scripted, exchange_with
):
    """At D = 512 as float32: at most 1.05 x (T + S C) x 4 bytes from each hospital."""
    rounds = []
    images = np.array([[30] * classes, [6] * classes, [9] * classes])
    job = server_job(
        classes=THREE[:classes],
        features={"stages": "last"},
        method={"name": "analytic", "ridge": [0.1], "class_weights": "none"},
    )
    assert job.num_features == 512
    asked = {f"h{at}": scripted(images=images) for at in range(hospitals)}
    run_job(job, exchange_with(asked), Hooks(judged=[rounds.append]))
    width = 513
    needed = hospitals * (width * (width + 1) // 2 + width * classes) * 4
    assert needed <= rounds[0].bytes_up <= 1.05 * needed
    assert rounds[0].bytes_down < 0.05 * needed


def arrays(change):
    """Tamper with the arrays of a reply, as a dict of numpy arrays."""

    def tamper(_kind, records):
        changed = change({name: array.numpy() for name, array in records["arrays"].items()})
        return RecordDict(
            {
                "arrays": ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in changed.items()}),
                "config": records["config"],
            }
        )

    return tamper


def sums_of(change):
    """Tamper with the sums: gram (S, S) and class_sums (S, C), changed in place."""

    def changed(found):
        sums = Sums.from_triangle(found["gram"], found["class-sums"])
        gram, class_sums = sums.gram.copy(), sums.class_sums.copy()
        change(gram, class_sums)
        tampered = Sums(gram, class_sums)
        return {"gram": tampered.triangle("float32"), "class-sums": class_sums.astype(np.float32)}

    return arrays(changed)


def fields(**changes):
    return lambda _kind, records: RecordDict(
        {"arrays": records["arrays"], "config": ConfigRecord({**records["config"], **changes})}
    )


def refused(code):
    return lambda _kind, _records: RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"refused": code})})


def raising(_kind, _records):
    raise RuntimeError("cannot open /data/doe-john.dcm")


def with_one(found, name, value):
    array = found[name].copy()
    array.flat[3] = value
    return {**found, name: array}


def indefinite(gram, _class_sums):
    """Squares and sums as they are, products that no examples have."""
    gram[0, 1:-1] = gram[1:-1, 0] = 0.9 * np.sqrt(gram[0, 0] * np.diag(gram)[1:-1]) * np.resize([1, -1], len(gram) - 2)


def more_of_a_class(_gram, class_sums):
    class_sums[-1] += [5, -5, 0]


def another_scale(gram, class_sums):
    """The sums of features twice as large: examples have them, but not those that were described."""
    gram[:-1] *= 2
    gram[:, :-1] *= 2
    class_sums[:-1] *= 2


def shifted(gram, class_sums):
    """The sums of features one deviation further on."""
    n = gram[-1, -1]
    sums = gram[:-1, -1].copy()
    gram[:-1, :-1] += sums[:, None] + sums + n
    gram[:-1, -1] += n
    gram[-1, :-1] += n
    class_sums[:-1] += class_sums[-1]


def classes_that_do_not_add_up(_gram, class_sums):
    class_sums[:-1, 0] += 20


def a_class_mean_beyond_all(_gram, class_sums):
    class_sums[2, 0] += 900
    class_sums[2, 1] -= 900


HOSTILE = {
    "NaN": (arrays(lambda found: with_one(found, "gram", np.nan)), "array 'gram': expected finite numbers"),
    "infinity": (arrays(lambda found: with_one(found, "class-sums", np.inf)), "array 'class-sums': expected finite"),
    "wrong shape": (arrays(lambda found: {**found, "gram": found["gram"][:-1]}), "array 'gram': expected shape (325,)"),
    "the whole matrix": (
        arrays(lambda found: {**found, "gram": Sums.from_triangle(found["gram"], found["class-sums"]).gram}),
        "array 'gram': expected dtype float32",
    ),
    "float64": (
        arrays(lambda found: {**found, "class-sums": found["class-sums"].astype(np.float64)}),
        "array 'class-sums': expected dtype float32",
    ),
    "no class sums": (arrays(lambda found: {"gram": found["gram"]}), "missing array 'class-sums'"),
    "features of patients": (
        arrays(lambda found: {**found, "features": np.ones((5, 24), np.float32)}),
        "unexpected array",
    ),
    "wrong class counts": (
        sums_of(more_of_a_class),
        "the sums do not have the declared number of examples of each class",
    ),
    "one example more": (
        sums_of(lambda gram, _: gram.__setitem__((-1, -1), gram[-1, -1] + 1)),
        "the sums do not have the declared number of examples of each class",
    ),
    "indefinite": (sums_of(indefinite), "no examples have such sums of products"),
    "class mean beyond all": (sums_of(a_class_mean_beyond_all), "no examples have such sums of products"),
    "classes that do not add up": (sums_of(classes_that_do_not_add_up), "the sums of the classes do not add up"),
    "another scale than described": (sums_of(another_scale), "the sums contradict the sums of features it described"),
    "another mean than described": (sums_of(shifted), "the sums contradict the sums of features it described"),
    "negative squares": (
        sums_of(lambda gram, _: gram.__setitem__((0, 0), -1.0)),
        "the sums contradict the sums of features it described",
    ),
    "another number of examples": (fields(examples=49), "another number of examples than the 50 it declared"),
    "negative examples": (fields(examples=-1), "field 'examples': expected int from 0"),
    "another job": (fields(**{"job-id": "0" * 64}), "field 'job-id' is not the one of this request"),
    "a refusal": (refused("too-few-examples"), "declined: too-few-examples"),
    "a refusal with free text": (refused("doe-john"), "declined without a known code"),
    "an exception": (raising, "the hospital's app failed (Flower error code 2)"),
}


@pytest.fixture
def three(examples, scripted):
    """Two good hospitals and beta, whose sums are tampered with."""

    def make(tamper):
        parts = {
            name: examples(at, [[25, 15, 10], [8, 8, 8], [5, 5, 5]])
            for at, name in enumerate(("alpha", "beta", "gamma"))
        }
        found = {name: scripted(examples=one) for name, one in parts.items()}
        found["beta"].tamper, found["beta"].kinds = tamper, ("statistics",)
        return found

    return make


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sums_cost_only_their_own_hospital(name, small_job, exchange_with, three, caplog):
    tamper, reason = HOSTILE[name]
    job, rounds = small_job(classes=THREE), []
    with caplog.at_level(logging.INFO):
        outcome = run_job(job, exchange_with(three(tamper)), Hooks(judged=[rounds.append]))
    without = run_job(job, exchange_with(three(refused("internal-error"))))
    assert list(rounds[0].dropped) == ["beta"]
    assert rounds[0].dropped["beta"].startswith(reason)
    assert rounds[0].answered == ["alpha", "gamma"]
    assert outcome.model.head.weight.tobytes() == without.model.head.weight.tobytes()
    assert outcome.model.head.bias.tobytes() == without.model.head.bias.tobytes()
    assert "doe-john" not in caplog.text + repr(rounds)


@pytest.mark.parametrize("name", ["NaN", "indefinite", "an exception"])
def test_too_few_usable_sums_make_no_model_and_it_is_said_why(name, small_job, exchange_with, three):
    tamper, reason = HOSTILE[name]
    hospitals = three(tamper)
    job = small_job(classes=THREE, quorum={"min_hospitals": 3, "deadline_s": 5})
    with pytest.raises(FederationError, match="no round had a quorum, so there is no model: beta: ") as caught:
        run_job(job, exchange_with(hospitals))
    assert reason in str(caught.value)
    assert hospitals["alpha"].asked == ["describe", *["statistics"] * LOST_ROUNDS_IN_A_ROW]


def test_sums_that_come_at_the_second_asking_will_do(small_job, exchange_with, three):
    times = []

    def once(kind, records):
        times.append(kind)
        return refused("out-of-memory")(kind, records) if len(times) == 1 else records

    rounds = []
    job = small_job(classes=THREE, quorum={"min_hospitals": 3, "deadline_s": 5})
    outcome = run_job(job, exchange_with(three(once)), Hooks(judged=[rounds.append]))
    assert (rounds[0].dropped, outcome.rounds, len(times)) == ({}, 1, 2)


def test_without_validation_patients_the_sums_alone_choose_and_it_is_said(
    small_job, scripted, exchange_with, examples, caplog
):
    rounds = []
    given = examples(1, [[30, 30], [0, 0], [10, 10]])
    with caplog.at_level(logging.WARNING):
        outcome = run_job(small_job(), exchange_with({"a": scripted(examples=given)}), Hooks(judged=[rounds.append]))
    assert "no hospital has validation patients: the head is chosen and calibrated from the sums alone" in caplog.text
    ridge = Ridge(pooled_sums(given, 2))
    best = min(RIDGE, key=ridge.error_left_out)
    assert RIDGE[0] < best < RIDGE[-1]
    choice = {"candidates": 16, "stages": "all", "ridge": best, "class_weights": "none", "temperature": 1.0}
    assert outcome.choice == {**choice, **dict.fromkeys(ECE)}
    assert rounds[0].validation is None
    expected = standardisation_of(given).fold(ridge.logits(best))
    assert differ(outcome.model.head, expected) < 1e-5
    assert outcome.best_round == 1


def test_a_hospital_without_validation_patients_beside_one_with(small_job, scripted, exchange_with, examples):
    rounds = []
    hospitals = {
        "a": scripted(examples=examples(1, [[30, 30], [0, 0], [10, 10]])),
        "b": scripted(examples=examples(2, [[30, 30], [9, 9], [0, 0]])),
    }
    run_job(small_job(), exchange_with(hospitals), Hooks(judged=[rounds.append]))
    assert rounds[0].validation.n == 18


WARM = {"name": "fedavg", "warm_start": "analytic", "rounds": 4}


def test_a_warm_start_is_round_0_and_n_rounds_follow(small_job, scripted, exchange_with, pooled):
    rounds, states = [], []
    job = small_job(classes=THREE, method=WARM)
    hospitals = named(scripted, parted(pooled, SPLITS["random"]))
    for hospital in hospitals.values():
        hospital.step = 0.25
    hooks = Hooks(judged=[rounds.append], checkpoint=[states.append])
    outcome = run_job(job, exchange_with(hospitals), hooks)
    assert [one.number for one in rounds] == [state.last.number for state in states] == [0, 1, 2, 3, 4]
    assert outcome.rounds == 4
    kinds = ["describe", "statistics", "evaluate", "evaluate", *["fit"] * 4, "evaluate"]
    kinds += FINALLY if outcome.best_round == 0 else ["evaluate", *FINALLY]
    assert all(hospital.asked == kinds for hospital in hospitals.values())
    expected = divided(Ridge(pooled_sums(pooled)).logits(outcome.choice["ridge"]), outcome.choice["temperature"])
    assert differ(states[0].model.head, expected) < 1e-5
    # Every scripted round moves everything by 0.25, whatever it started from.
    np.testing.assert_allclose(states[4].model.head.weight, states[0].model.head.weight + 1.0, rtol=1e-5)


def test_rounds_that_are_better_than_the_warm_start_take_its_place(small_job, scripted, exchange_with, pooled):
    """The round's head was made from the validation patients themselves."""
    job, rounds = small_job(classes=THREE, method={**WARM, "rounds": 1}), []
    features, labels = pooled["validation"]
    right = Ridge(Sums.of(standardisation_of(pooled).apply(features), labels, 3)).logits(0.001)

    def to_the_right(_kind, records):
        found = {name: array for name, array in records["arrays"].items()}
        found |= {"weight": Array(right.weight), "bias": Array(right.bias)}
        return RecordDict({"arrays": ArrayRecord(found), "config": records["config"]})

    hospital = scripted(examples=pooled, tamper=to_the_right)
    outcome = run_job(job, exchange_with({"a": hospital}), Hooks(judged=[rounds.append]))
    first, second = (one.validation for one in rounds)
    assert second.auroc > first.auroc
    assert outcome.best_round == 1
    calibrated = divided(right, outcome.bedside.calibration.temperature)
    assert differ(outcome.model.head, standardisation_of(pooled).fold(calibrated)) < 1e-6


@pytest.mark.parametrize("method", ["fedavg", "fedadam", "scaffold", "fednova"])
@pytest.mark.parametrize("crash_after", [0, 2])
def test_a_warm_run_that_was_cut_off_goes_on_to_the_same_bits(
    method, crash_after, small_job, scripted, exchange_with, pooled, tmp_path
):
    job = small_job(classes=THREE, method={**WARM, "name": method, "batch_size": 4})

    def hospitals():
        found = named(scripted, parted(pooled, SPLITS["random"]))
        for at, one in enumerate(found.values()):
            one.step = 0.1 - 0.07 * at
        return found

    def recorded(folder):
        lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    through = Recorder(tmp_path / "through", job, "test")
    states = []
    hooks = Hooks(judged=[through.judged], checkpoint=[through.save, states.append])
    whole = run_job(job, exchange_with(hospitals()), hooks)
    through.finish(whole)

    cut = Recorder(tmp_path / "cut", job, "test")

    def crash(state):
        if state.last.number == crash_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, exchange_with(hospitals()), Hooks(judged=[cut.judged], checkpoint=[cut.save, crash]))
    cut.close()
    again, after, later = Recorder(tmp_path / "cut", job, "test", resume=True), hospitals(), []
    hooks = Hooks(judged=[again.judged], checkpoint=[again.save, later.append])
    resumed = run_job(job, exchange_with(after), hooks, again.checkpoint)
    again.finish(resumed)
    assert resumed.model.head.weight.tobytes() == whole.model.head.weight.tobytes()
    assert later[-1].model.head.weight.tobytes() == states[-1].model.head.weight.tobytes()
    assert {name: array.tobytes() for name, array in later[-1].strategy.items()} == {
        name: array.tobytes() for name, array in states[-1].strategy.items()
    }
    assert (resumed.best_round, resumed.choice) == (whole.best_round, whole.choice)
    # Each round is in the file once, also the one that was judged before the run was cut off.
    assert [line["round"] for line in recorded(cut.folder)] == [0, 1, 2, 3, 4]
    assert recorded(cut.folder) == recorded(through.folder)
    assert all("statistics" not in one.asked for one in after.values())


def test_a_closed_form_run_that_was_cut_off_goes_on_with_its_head(small_job, scripted, exchange_with, pooled, tmp_path):
    job, path = small_job(classes=THREE), tmp_path / "last.safetensors"
    whole = run_job(job, exchange_with({"a": scripted(examples=pooled)}))

    def crash(state):
        save_checkpoint(path, state)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, exchange_with({"a": scripted(examples=pooled)}), Hooks(checkpoint=[crash]))
    state = load_checkpoint(path)
    assert (state.judged, state.best_round, state.last.number, state.choice) == (True, 1, 1, whole.choice)
    hospital, rounds = scripted(examples=pooled), []
    resumed = run_job(job, exchange_with({"a": hospital}), Hooks(judged=[rounds.append]), state)
    assert hospital.asked == ["describe", "distances", "evaluate"]
    assert rounds == []
    assert resumed.model.head.weight.tobytes() == whole.model.head.weight.tobytes()
    assert (resumed.choice, resumed.rounds, resumed.best_round) == (whole.choice, 1, 1)


def test_a_closed_form_without_validation_can_be_gone_on_with_too(small_job, scripted, exchange_with, examples):
    """It has no validation metrics, and is judged all the same."""
    given = examples(1, [[30, 30], [0, 0], [10, 10]])
    states, rounds = [], []
    job = small_job(method={**WARM, "rounds": 1})
    run_job(job, exchange_with({"a": scripted(examples=given)}), Hooks(checkpoint=[states.append]))
    assert states[0].judged
    assert not states[1].judged
    run_job(job, exchange_with({"a": scripted(examples=given)}), Hooks(judged=[rounds.append]), states[0])
    assert [one.number for one in rounds] == [1]


def test_patience_counts_from_the_warm_start(small_job, scripted, exchange_with):
    """The scripted counts never change, so no round is better than the closed form."""
    rounds = []
    job = small_job(method={**WARM, "rounds": 50, "patience": 2})
    outcome = run_job(job, exchange_with({"a": scripted()}), Hooks(judged=[rounds.append]))
    assert [one.number for one in rounds] == [0, 1, 2]
    assert outcome.best_round == 0


def test_the_heads_of_a_deep_job_are_counted_on_the_pretrained_backbone(small_job, scripted, exchange_with, pooled):
    tuned = {"features.18.0.weight": np.arange(6, dtype=np.float32).reshape(3, 2, 1)}
    job = small_job(classes=THREE, method={**WARM, "rounds": 2}, tune="last-blocks")
    hospital, rounds = scripted(examples=pooled, tuned=tuned, step=0.5), []
    outcome = run_job(job, exchange_with({"a": hospital}), Hooks(judged=[rounds.append]))
    kinds = ["describe", "initial", "statistics", "evaluate", "evaluate", "fit", "fit", "evaluate", *FINALLY]
    assert hospital.asked == kinds
    sent = [request.arrays["tuned.features.18.0.weight"] for request in hospital.requests[3:8]]
    for array, moved in zip(sent, [0, 0, 0, 0.5, 1.0], strict=True):
        np.testing.assert_array_equal(array, tuned["features.18.0.weight"] + np.float32(moved))
    assert [request.fields["round"] for request in hospital.requests[3:5]] == [0, 0]
    assert [one.number for one in rounds] == [0, 1, 2]
    assert outcome.choice is not None
    np.testing.assert_array_equal(
        outcome.model.tuned["features.18.0.weight"],
        tuned["features.18.0.weight"] + np.float32(0.5 * outcome.best_round),
    )
