"""A coordinator that lies to hospitals in a session of secure aggregation: refused in neutral words, the reason in the log."""

from dataclasses import replace

import numpy as np
import pytest

from client.agent import KeptLedger
from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile
from client.ledger import Ledger
from client.ledger_reading import read_ledger
from client.policy import OF_SIMULATIONS
from common.head import Standardisation
from common.messages import pack_standardisation
from common.packed import REFUSAL, Packed
from common.secure_sum.combiner import Combiner
from common.secure_sum.roster import parse_roster
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Phase
from common.summed import Question, layout_of
from simulation.kits import make_kits

NAMES = ("hospital-a", "hospital-b", "hospital-c")
SECURE = {"secure_aggregation": True}


@pytest.fixture
def hospitals(phantoms, cache_dir, tmp_path):
    """Three hospitals with keys and a roster; call it with a policy, and with books."""
    kits = make_kits(tmp_path, NAMES)

    def make(books=None, without_kit=False, **policy):
        return {
            name: Hospital(
                HospitalFile(
                    name=name,
                    data=Data(folder=phantoms[name]),
                    cache=cache_dir,
                    state=tmp_path / name / "state",
                    device="cpu",
                    node_key=None if without_kit else kits[name]["node-key"],
                    roster=None if without_kit else kits[name]["roster"],
                    policy=OF_SIMULATIONS.model_copy(update=policy),
                ),
                (books or {}).get(name),
            )
            for name in NAMES
        }

    return make


class Coordinator:
    """Asks as an honest one does; a test changes what it asks."""

    def __init__(self, job, hospitals, folder):
        self.job, self.hospitals = job, hospitals
        self.roster = parse_roster((folder / "roster.txt").read_text())
        self.fingerprint = str(self._answer("hospital-a", "describe", Packed({}, self._job())).fields["fingerprint"])

    def _job(self):
        return {"job": self.job.canonical_json()}

    def _answer(self, name, kind, request):
        return self.hospitals[name].answer(kind, request)

    def question(self, kind, arrays=None, **fields):
        features = self.job.num_features
        standard = Standardisation(np.zeros(features, np.float16), np.ones(features, np.float16))
        given = {} if kind in ("holdings", "centre") else pack_standardisation(standard)
        return Packed({**given, **(arrays or {})}, {**self._job(), "fingerprint": self.fingerprint, **fields})

    def head(self, value=0.0):
        shape = (self.job.num_classes, self.job.num_features)
        return {"weight": np.full(shape, value, np.float32), "bias": np.zeros(shape[0], np.float32)}

    def session(self, kind, question, change=lambda phase, name, request: request, **terms):
        """The total of a session, or the refusals of the first phase that had any."""
        about = Question.of(kind, question)
        layout = layout_of(about, self.job, {})
        subject = Subject(self.job.job_id, terms.pop("purpose", about.purpose), layout, about.digest)
        agreed = replace(subject.terms(self.roster, 3), **terms)
        combiner = Combiner(agreed if not terms else subject.terms(self.roster, 3), layout, self.roster, NAMES)
        while (phase := combiner.phase) is not None:
            replies = {}
            for name, one in combiner.requests().items():
                asked = agreed.pack() if phase is Phase.KEYS else one
                inner = question.arrays if phase is Phase.MASKED else {}
                fields = question.fields if phase is Phase.MASKED else {**self._job(), "fingerprint": self.fingerprint}
                request = change(phase, name, Packed({**asked.arrays, **inner}, {**asked.fields, **fields}))
                replies[name] = self._answer(name, phase.value, request)
            if refused := {one.fields[REFUSAL] for one in replies.values() if REFUSAL in one.fields}:
                return phase, refused
            combiner.take(replies)
        return combiner.total


@pytest.fixture
def coordinator(job, hospitals, tmp_path):
    def make(changes=None, books=None, **policy):
        one = job(**{"method": {"name": "fedavg", "rounds": 2}, "privacy": SECURE, **(changes or {})})
        return Coordinator(one, hospitals(books, **policy), tmp_path)

    return make


def test_an_honest_session_opens(coordinator, caplog):
    one = coordinator()
    total = one.session("fit", one.question("fit", one.head(), round=1))
    assert total.hospitals == NAMES
    assert total.arrays["examples"] > 0


def test_a_second_sum_for_one_purpose_is_refused(coordinator, caplog):
    one = coordinator()
    one.session("fit", one.question("fit", one.head(), round=1))
    assert one.session("fit", one.question("fit", one.head(), round=1)) == (Phase.KEYS, {"secure-sum"})
    # Not with another model either: a round is one purpose.
    assert one.session("fit", one.question("fit", one.head(0.1), round=1)) == (Phase.KEYS, {"secure-sum"})
    assert "helped to open a sum for 'fit:1'" in caplog.text


def test_another_model_for_one_hospital_is_refused(coordinator, caplog):
    one = coordinator()

    def singled_out(phase, name, request):
        if phase is Phase.MASKED and name != "hospital-a":
            return Packed({**request.arrays, **one.head(1e6)}, request.fields)
        return request

    assert one.session("fit", one.question("fit", one.head(), round=1), singled_out) == (Phase.MASKED, {"secure-sum"})
    assert "the question is not the one that all hospitals of the session have signed" in caplog.text


@pytest.mark.parametrize(
    ("terms", "code", "why"),
    [
        ({"purpose": "fit:3"}, "bad-request", "of a round that it does not have"),
        ({"purpose": "fit:0"}, "bad-request", "of a round that it does not have"),
        ({"purpose": "gradient:1"}, "bad-request", "no sum that this job asks for"),
        ({"purpose": "evaluate:train:1:1:" + "0" * 16}, "bad-request", "not one of this job's sums"),
        ({"purpose": "fit:01"}, "bad-request", "not one of this job's sums"),
        ({"job_id": "f" * 64}, "secure-sum", "of another job"),
        ({"roster": "f" * 64}, "secure-sum", "another roster"),
        ({"layout": "f" * 64}, "secure-sum", "other arrays"),
        ({"threshold": 1}, "secure-sum", "threshold"),
        ({"hospitals": 256}, "secure-sum", "hospitals: expected 2 to 255"),
    ],
)
def test_terms_that_are_not_this_hospital_s_are_refused(coordinator, caplog, terms, code, why):
    one = coordinator()
    assert one.session("fit", one.question("fit", one.head(), round=1), **terms) == (Phase.KEYS, {code})
    assert why in caplog.text


def test_a_policy_says_how_many_are_in_a_sum_at_least(coordinator, caplog):
    one = coordinator(min_hospitals_in_sum=3)
    assert one.session("fit", one.question("fit", one.head(), round=1)) == (Phase.KEYS, {"secure-sum"})
    assert "policy is at least 3 hospitals in a sum, got 2" in caplog.text


def test_a_hospital_without_its_kit_takes_no_part(coordinator, caplog):
    one = coordinator(without_kit=True)
    assert one.session("fit", one.question("fit", one.head(), round=1)) == (Phase.KEYS, {"secure-sum"})
    assert "node_key and roster.txt" in caplog.text


@pytest.mark.parametrize("kind", ["shares", "masked", "confirm", "unmask"])
def test_a_session_that_nobody_began_is_refused(coordinator, caplog, kind):
    one = coordinator()
    request = Packed({}, {**one._job(), "fingerprint": one.fingerprint, "session": "a" * 64})
    assert one.hospitals["hospital-a"].answer(kind, request).fields[REFUSAL] in ("secure-sum", "bad-request")


@pytest.mark.parametrize("kind", ["statistics", "fit", "evaluate"])
def test_nothing_is_answered_in_plain(coordinator, kind):
    one = coordinator({"method": {"name": "fedavg", "rounds": 2, "warm_start": "analytic"}})
    request = one.question(kind, {} if kind == "statistics" else one.head(), **({"round": 1} if kind == "fit" else {}))
    assert one.hospitals["hospital-a"].answer(kind, request).fields == {REFUSAL: "bad-request"}


def test_an_update_that_is_too_large_stays_here(coordinator, caplog):
    one = coordinator({"guard": {"max_update_norm": 1e-9}})
    assert one.session("fit", one.question("fit", one.head(), round=1)) == (Phase.MASKED, {"secure-sum"})
    assert "the norm is above 1e-09" in caplog.text


PRIVATE = {
    "method": {"name": "dp-gd", "rounds": 2},
    "privacy": {**SECURE, "differential_privacy": {"epsilon": 3.0}},
    "evaluation": {"test_fraction": 0.25, "validation_fraction": 0},
}


def test_the_first_noised_answer_spends_the_job_s_epsilon(coordinator, tmp_path):
    ledgers = {name: Ledger(tmp_path / name / "state", name) for name in NAMES}
    one = coordinator(PRIVATE, {name: KeptLedger(ledger) for name, ledger in ledgers.items()}, max_epsilon_total=4.0)
    one.session("centre", one.question("centre"))
    one.session("gradient", one.question("gradient", one.head(), round=1))
    assert ledgers["hospital-a"].spent() == ledgers["hospital-a"].spent(one.job.job_id) == 3.0
    entries = [entry for entry in read_ledger(tmp_path / "hospital-a" / "state").entries if entry.kind == "masked"]
    assert [(entry.masked, entry.epsilon, entry.fields["purpose"]) for entry in entries] == [
        (True, 3.0, "centre"),
        (True, 0.0, "gradient:1"),
    ]
    # Another job would spend 3 more, and 4 are allowed.
    second = one.job.model_copy(update={"name": "second"})
    asked = Packed({}, {"job": second.canonical_json()})
    assert one.hospitals["hospital-a"].answer("describe", asked).fields == {REFUSAL: "budget-spent"}
    assert REFUSAL not in one.hospitals["hospital-a"].answer("describe", Packed({}, one._job())).fields
    for ledger in ledgers.values():
        ledger.close()


@pytest.mark.parametrize(("weight", "scale"), [(1e30, 1.0), (0.0, 1e-6)])
def test_numbers_that_could_overflow_for_one_patient_are_refused_for_all(coordinator, weight, scale):
    one = coordinator(PRIVATE)
    question = one.question("gradient", one.head(weight), round=1)
    arrays = {**question.arrays, "scale": np.full(one.job.num_features, scale, np.float16)}
    assert one.session("gradient", Packed(arrays, question.fields)) == (Phase.MASKED, {"bad-request"})
