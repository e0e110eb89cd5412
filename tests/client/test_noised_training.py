"""A hospital that trains with noise of its own: what it tells, once and no more, and what that costs."""

import numpy as np
import pytest

pytest.importorskip("opacus")

from client.agent import KeptLedger
from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile
from client.ledger import Ledger
from client.ledger_reading import read_ledger
from client.policy import OF_SIMULATIONS
from common.dp.private_features import patients_of
from common.model import Model
from common.packed import REFUSAL, Packed
from common.wire import dimensions, problem_with, reply_schema

OWN = {"differential_privacy": {"epsilon": 3.0, "noise": "own"}}
SECTIONS = {
    "method": {"name": "fedavg", "rounds": 3},
    "privacy": OWN,
    "evaluation": {"test_fraction": 0.25},
}


@pytest.fixture
def private(job):
    def make(**changes):
        return job(**{**SECTIONS, **changes})

    return make


@pytest.fixture
def opened(phantoms, cache_dir, tmp_path):
    """A hospital with a ledger and a state folder of its own; call it again for one that was restarted."""
    ledgers = []

    def make(**policy):
        while ledgers:
            ledgers.pop().close()
        ledgers.append(Ledger(tmp_path / "state", "st-marys"))
        file = HospitalFile(
            name="st-marys",
            data=Data(folder=phantoms["hospital-a"]),
            cache=cache_dir,
            state=tmp_path / "state",
            device="cpu",
            policy=OF_SIMULATIONS.model_copy(update=policy),
        )
        return Hospital(file, KeptLedger(ledgers[-1]))

    yield make
    for one in ledgers:
        one.close()


def same(one, other):
    return dict(one.fields) == dict(other.fields) and all(
        (one.arrays[name] == other.arrays[name]).all() for name in one.arrays
    )


def spent(tmp_path):
    return [(entry.kind, entry.epsilon) for entry in read_ledger(tmp_path / "state").entries if entry.kind]


def test_it_tells_noised_numbers_and_nothing_else(private, opened, requests_of):
    one, hospital = private(), opened()
    asked = requests_of(one, hospital)
    described = hospital.answer("describe", asked.describe())
    assert set(described.arrays) == {"centre"}
    assert set(described.fields) == {"job-id", "fingerprint", "backbone-digest", "tuned-digest"}
    fitted = hospital.answer("fit", asked.fit())
    assert (set(fitted.arrays), set(fitted.fields)) == ({"weight", "bias"}, {"job-id", "fingerprint", "round"})
    for kind, reply in (("describe", described), ("fit", fitted)):
        assert problem_with(reply, reply_schema(kind, one, {}), dimensions(one)) is None
    for kind, request in (("statistics", asked.statistics()), ("own", asked.statistics())):
        assert hospital.answer(kind, request).fields == {REFUSAL: "bad-request"}
    counted = hospital.answer("evaluate", asked.evaluate(heads=1))
    assert counted.arrays["confusion"].sum() > 0


def test_the_whole_epsilon_is_charged_with_the_first_answer_before_it_leaves(private, opened, requests_of, tmp_path):
    hospital = opened(max_epsilon=3.0, max_epsilon_total=4.0)
    asked = requests_of(private(), hospital)
    hospital.answer("describe", asked.describe())
    for number in (1, 2, 3):
        assert REFUSAL not in hospital.answer("fit", asked.fit(number)).fields
    assert REFUSAL not in hospital.answer("evaluate", asked.evaluate(number=3)).fields
    assert spent(tmp_path) == [("describe", 3.0), ("describe", 0.0), *[("fit", 0.0)] * 3, ("evaluate", 0.0)]
    second = private(name="second").canonical_json()
    assert hospital.answer("describe", Packed({}, {"job": second})).fields == {REFUSAL: "budget-spent"}
    # Nothing was made for it, either.
    assert len(list((tmp_path / "state" / "noised-answers").iterdir())) == 4


def test_a_job_that_wants_more_than_any_may_is_against_the_policy(private, opened):
    request = Packed({}, {"job": private().canonical_json()})
    assert opened(max_epsilon=2.9).answer("describe", request).fields == {REFUSAL: "against-policy"}
    assert opened(max_delta=1e-6).answer("describe", request).fields == {REFUSAL: "against-policy"}


def test_where_the_ledger_cannot_be_written_nothing_leaves(private, opened, monkeypatch):
    hospital = opened()

    def full(*_, **__):
        raise OSError(28, "no space left")

    monkeypatch.setattr(hospital._books, "record", full)
    assert hospital.answer("describe", Packed({}, {"job": private().canonical_json()})).fields == {REFUSAL: "disk-full"}


@pytest.mark.parametrize("restarted", [False, True])
def test_the_same_question_gets_the_same_noise_and_another_one_none(private, opened, requests_of, restarted, tmp_path):
    hospital = opened()
    asked = requests_of(private(), hospital)
    described, fitted = hospital.answer("describe", asked.describe()), hospital.answer("fit", asked.fit(2))
    if restarted:
        hospital = opened()
    assert same(hospital.answer("describe", asked.describe()), described)
    assert same(hospital.answer("fit", asked.fit(2)), fitted)
    other = asked.fit(2)
    arrays = {**other.arrays, "bias": other.arrays["bias"] + np.float32(1e-3)}
    assert hospital.answer("fit", Packed(arrays, other.fields)).fields == {REFUSAL: "budget-spent"}
    # In another round it is a question like any other, up to the last.
    assert REFUSAL not in hospital.answer("fit", Packed(arrays, {**other.fields, "round": 3})).fields
    assert hospital.answer("fit", Packed(arrays, {**other.fields, "round": 4})).fields == {REFUSAL: "bad-request"}
    assert sum(epsilon for _, epsilon in spent(tmp_path)) == 3.0


def test_a_hospital_of_noise_alone_is_bounded_after_the_noise(private, opened, requests_of):
    """Else it would be dropped in every round, and whether it is would depend on its patients."""
    one = private(guard={"max_update_norm": 0.5})
    hospital = opened()
    asked = requests_of(one, hospital)
    found = Model.from_arrays(dict(hospital.answer("fit", asked.fit()).arrays))
    assert 0.49 < found.distance(Model(asked.head())) <= 0.5


def test_a_damaged_answer_is_not_made_anew(private, opened, requests_of, tmp_path):
    hospital = opened()
    requests_of(private(), hospital)
    (path,) = (tmp_path / "state" / "noised-answers").iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert opened().answer("describe", Packed({}, {"job": private().canonical_json()})).fields == {
        REFUSAL: "data-problem"
    }


def test_the_files_are_for_their_owner_only(private, opened, requests_of, tmp_path):
    requests_of(private(), opened())
    folder = tmp_path / "state" / "noised-answers"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_two_hospitals_of_the_same_patients_tell_other_numbers(private, hospital_with, phantoms, tmp_path):
    request = Packed({}, {"job": private().canonical_json()})
    found = [
        hospital_with(phantoms["hospital-a"], cache=tmp_path / name, max_delta=1e-5).answer("describe", request)
        for name in ("one", "two")
    ]
    assert np.abs(found[0].arrays["centre"] - found[1].arrays["centre"]).max() > 0.1
    assert all(patients_of(one.arrays["centre"]) >= 1 for one in found)


@pytest.mark.parametrize(("name", "value"), [("weight", 1e7), ("bias", -1e7), ("mean", 1.5), ("scale", 1e-4)])
def test_numbers_that_could_overflow_for_one_patient_are_refused_for_all(private, opened, requests_of, name, value):
    hospital = opened()
    request = requests_of(private(), hospital).fit()
    arrays = {**request.arrays, name: np.full_like(request.arrays[name], value)}
    assert hospital.answer("fit", Packed(arrays, request.fields)).fields == {REFUSAL: "bad-request"}


def test_without_opacus_nothing_is_charged(private, opened, monkeypatch, tmp_path):
    import sys

    from client import noised_training

    monkeypatch.setitem(sys.modules, "client.local_dp_sgd", None)
    noised_training._training.cache_clear()
    request = Packed({}, {"job": private().canonical_json()})
    assert REFUSAL in opened().answer("describe", request).fields
    assert sum(epsilon for _, epsilon in spent(tmp_path)) == 0.0


def test_a_limit_on_epsilon_refuses_noise_that_the_coordinator_adds(private, opened, tmp_path):
    central = private(privacy={"differential_privacy": {"epsilon": 1.0, "unit": "hospital", "hospitals": 100}})
    request = Packed({}, {"job": central.canonical_json()})
    for limit in ({"max_epsilon": 9.0}, {"max_epsilon_total": 9.0}):
        assert opened(**limit).answer("describe", request).fields == {REFUSAL: "against-policy"}
    assert REFUSAL not in opened().answer("describe", request).fields
    assert sum(epsilon for _, epsilon in spent(tmp_path)) == 0.0
