"""Hostile replies: alone they make no model, beside good ones they change nothing, and no text of theirs comes through."""

import io
import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from common.errors import FederationError
from server.rounds import Hooks, run_job
from simulation.grid import InProcessGrid

SECRET = "/data/patients/doe-john-1961.dcm"


def arrays(change):
    """Tamper with the arrays of the reply, given and returned as a dict of numpy arrays."""

    def tamper(_kind, records):
        decoded = {name: array.numpy() for name, array in records["arrays"].items()}
        changed = {name: value if isinstance(value, Array) else Array(value) for name, value in change(decoded).items()}
        return RecordDict({"arrays": ArrayRecord(changed), "config": records["config"]})

    return tamper


def fields(**changes):
    """Tamper with the plain fields of the reply."""
    return lambda _kind, records: RecordDict(
        {"arrays": records["arrays"], "config": ConfigRecord({**records["config"], **changes})}
    )


def of_objects(array):
    """An array of pickled objects, as numpy would save it."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(array, dtype=object), allow_pickle=True)
    return Array(dtype="object", shape=tuple(array.shape), stype="numpy.ndarray", data=buffer.getvalue())


def poisoned(array, value):
    changed = array.copy()
    changed.flat[-1] = value
    return changed


def raising(_kind, _records):
    raise RuntimeError(f"cannot open {SECRET}")


HOSTILE = {
    "NaN": arrays(lambda found: {**found, "weight": poisoned(found["weight"], np.nan)}),
    "Inf": arrays(lambda found: {**found, "bias": poisoned(found["bias"], np.inf)}),
    "wrong shape": arrays(lambda found: {**found, "weight": found["weight"][:, :-1].copy()}),
    "transposed": arrays(lambda found: {**found, "weight": np.ascontiguousarray(found["weight"].T)}),
    "broadcastable (1,)": arrays(lambda found: {**found, "weight": np.ones(1, np.float32)}),
    "missing key": arrays(lambda found: {name: value for name, value in found.items() if name != "bias"}),
    "extra key": arrays(lambda found: {**found, SECRET: np.ones(1, np.float32)}),
    "extra field": fields(**{SECRET: SECRET}),
    "extra record": lambda _kind, records: RecordDict({**records, "more": ConfigRecord({"text": SECRET})}),
    "float64": arrays(lambda found: {**found, "weight": found["weight"].astype(np.float64)}),
    "objects": arrays(lambda found: {**found, "weight": of_objects(found["weight"])}),
    "garbage bytes": arrays(
        lambda found: {
            **found,
            "weight": Array(dtype="float32", shape=(2, 512), stype="numpy.ndarray", data=b"\x93NUMPY!"),
        }
    ),
    "negative examples": fields(examples=-5),
    "no examples": fields(examples=0),
    "more examples than declared": fields(examples=10**9),
    "fractional examples": fields(examples=12.5),
    "huge norm": arrays(lambda found: {**found, "weight": found["weight"] + np.float32(1e6)}),
    "another round": fields(round=7),
    "another job": fields(**{"job-id": "0" * 64}),
    "another feature space": fields(fingerprint="c" * 64),
    "invented validation counts": arrays(lambda found: {**found, "confusion": found["confusion"] * 3}),
    "infinite loss": fields(**{"loss-sum": float("inf")}),
    "refusal with free text": lambda _kind, _records: RecordDict(
        {"arrays": ArrayRecord(), "config": ConfigRecord({"refused": SECRET})}
    ),
    "an exception": raising,
}


@pytest.fixture(params=HOSTILE, ids=str)
def tamper(request):
    return HOSTILE[request.param]


def test_beside_good_replies_it_costs_only_its_own_update(tamper, server_job, scripted, exchange_with, caplog):
    good = {"alpha": scripted(step=0.1), "gamma": scripted(step=0.4)}
    bad = {"beta": scripted(step=99.0, tamper=tamper)}
    rounds, heads, expected = [], [], []
    job = server_job(method={"name": "fedavg", "rounds": 2})
    with caplog.at_level(logging.INFO):
        outcome = run_job(job, exchange_with({**good, **bad}), Hooks(judged=[rounds.append], checkpoint=[heads.append]))
    run_job(job, exchange_with(good), Hooks(checkpoint=[expected.append]))
    for ours, theirs in zip(heads, expected, strict=True):
        np.testing.assert_array_equal(ours.model.head.weight, theirs.model.head.weight)
        np.testing.assert_array_equal(ours.model.head.bias, theirs.model.head.bias)
    assert [set(one.dropped) for one in rounds] == [{"beta"}, {"beta"}]
    assert SECRET not in caplog.text + repr(rounds) + repr(outcome.failures)


def test_alone_it_makes_no_model(tamper, server_job, scripted, exchange_with, caplog):
    with pytest.raises(FederationError, match="no round had a quorum") as caught, caplog.at_level(logging.INFO):
        run_job(server_job(), exchange_with({"beta": scripted(tamper=tamper)}))
    assert "beta" in str(caught.value)
    assert SECRET not in caplog.text + str(caught.value)


class Doubling(InProcessGrid):
    """Delivers the replies to fit twice: the second one changed by `second`."""

    second = staticmethod(lambda records: records)

    def _deliver(self, message):
        replies = super()._deliver(message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 2:
            again = Message(self.second(replies[0].content), reply_to=message)
            again.metadata.__dict__["_src_node_id"] = 2
            replies.append(again)
        return replies


class Differing(Doubling):
    second = staticmethod(lambda records: HOSTILE["huge norm"]("fit", records))


def test_two_different_replies_are_both_dropped(server_job, scripted, exchange_with):
    rounds = []
    hospitals = {"alpha": scripted(step=0.4), "beta": scripted(step=0.1)}
    outcome = run_job(server_job(), exchange_with(hospitals, Differing), Hooks(judged=[rounds.append]))
    assert rounds[0].dropped == {"alpha": "several answers that differ"}
    np.testing.assert_allclose(outcome.model.head.weight, 0.1, rtol=1e-6)


def test_the_same_reply_delivered_twice_counts_once(server_job, scripted, exchange_with):
    rounds = []
    hospitals = {"alpha": scripted(step=0.4), "beta": scripted(step=0.1)}
    outcome = run_job(server_job(), exchange_with(hospitals, Doubling), Hooks(judged=[rounds.append]))
    assert rounds[0].dropped == {}
    np.testing.assert_allclose(outcome.model.head.weight, 0.25, rtol=1e-6)


class FromElsewhere(InProcessGrid):
    """The first hospital's replies claim to come from the second one's node."""

    def _deliver(self, message):
        replies = super()._deliver(message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 2:
            replies[0].metadata.__dict__["_src_node_id"] = 3
        return replies


def test_a_reply_from_another_node_is_dropped(server_job, scripted, exchange_with):
    rounds = []
    hospitals = {"alpha": scripted(step=0.4), "beta": scripted(step=0.1)}
    outcome = run_job(server_job(), exchange_with(hospitals, FromElsewhere), Hooks(judged=[rounds.append]))
    assert set(rounds[0].dropped) == {"alpha"}
    np.testing.assert_allclose(outcome.model.head.weight, 0.1, rtol=1e-6)


class Silent(InProcessGrid):
    """The first hospital never answers a fit request."""

    def _deliver(self, message):
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 2:
            return []
        return super()._deliver(message)


def test_a_silent_hospital_costs_its_own_update_after_the_deadline(server_job, scripted, exchange_with):
    rounds = []
    hospitals = {"alpha": scripted(step=0.4), "beta": scripted(step=0.1)}
    job = server_job(quorum={"min_hospitals": 1, "deadline_s": 0.2})
    outcome = run_job(job, exchange_with(hospitals, Silent), Hooks(judged=[rounds.append]))
    assert rounds[0].dropped == {"alpha": "no answer before the deadline"}
    assert rounds[0].seconds < 5
    np.testing.assert_allclose(outcome.model.head.weight, 0.1, rtol=1e-6)
