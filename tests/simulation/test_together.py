"""Simulated hospitals that train side by side, through the real ClientApp and Grid."""

from types import SimpleNamespace

import numpy as np
import pytest

from client.app import app, settings_of
from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile
from client.participation import Participation
from client.policy import OF_SIMULATIONS
from client.preparation import Prepared
from client.records import Records
from client.training import Examples
from common.job import parse_job
from common.messages import Description, Space
from common.model import digest_of_arrays
from common.wire import PARTS
from server.exchange import Exchange
from server.rounds import run_job
from simulation import together
from simulation.grid import InProcessGrid
from simulation.together import LEAST, train_ahead

TRAINED = Participation._trained


def prepared(job, number):
    """Features drawn at random in place of images: hospital `number` has 20 + number training examples."""
    rng = np.random.default_rng(number)
    parts = {}
    for part, size in zip(PARTS, (20 + number, 6, 6), strict=True):
        labels = np.arange(size) % job.num_classes
        features = (rng.normal(size=(size, job.num_features)) + 0.3 * labels[:, None]).astype(np.float32)
        parts[part] = Examples(features, labels)
    train = parts["train"].features.astype(np.float64)
    images = np.array([np.bincount(parts[part].labels, minlength=job.num_classes) for part in PARTS])
    space = Space(job.job_id, "a" * 64, "b" * 64, digest_of_arrays({}))
    sums = train.sum(axis=0), (train**2).sum(axis=0)
    told = Description(space, images, images.sum(axis=1), *sums, len(train), 0, 0, 0, len(train))
    return Prepared(job, space.fingerprint, Records((), {}, 0), parts, told, {}, None, None, ())


@pytest.fixture
def run(monkeypatch):
    """Run a job with so many hospitals; ahead: as the Grid's."""

    def make(number, ahead, policy=OF_SIMULATIONS, **method):
        monkeypatch.setattr("client.app.hospitals", here := {})
        monkeypatch.setattr(together, "hospitals", here)
        job = parse_job(
            {
                "name": "together",
                "classes": ["normal", "opacity"],
                "backbone": {"name": "mobilenet_v2", "weights": "random"},
                "features": {"stages": ["features.3"], "pool": ["mean"], "mirror": False},
                "method": {"rounds": 3, "batch_size": 16, "lr": 0.05, **method},
                "quorum": {"min_hospitals": 2, "deadline_s": 30},
            }
        )
        nodes = {f"h-{place:02d}": {"hospital-dir": f"/nowhere/{place}"} for place in range(number)}
        for place, (name, node) in enumerate(nodes.items()):
            file = HospitalFile(name=name, data=Data(folder=f"/nowhere/{place}"), policy=policy(place))
            here[settings_of(node)] = Hospital(file, preparing=lambda job, _, place=place: prepared(job, place))
        trained = []
        monkeypatch.setattr(
            Participation, "_trained", lambda self, one: trained.append(self._ahead is not None) or TRAINED(self, one)
        )
        outcome = run_job(job, Exchange(InProcessGrid(app, nodes, ahead), poll_s=0.01))
        return SimpleNamespace(outcome=outcome, ahead=trained)

    return lambda number, ahead=None, policy=lambda _: OF_SIMULATIONS, **method: make(number, ahead, policy, **method)


@pytest.mark.parametrize(
    "method",
    [{"name": "fedavg"}, {"name": "fedprox", "proximal_mu": 0.3, "class_weights": "balanced"}, {"name": "fedadam"}],
)
def test_a_run_together_is_the_run_one_by_one_to_1e_5(run, method):
    alone, both = run(LEAST + 4, **method), run(LEAST + 4, train_ahead, **method)
    assert not any(alone.ahead)
    assert all(both.ahead)
    assert len(both.ahead) == 3 * (LEAST + 4)
    first, second = alone.outcome.model.head, both.outcome.model.head
    np.testing.assert_allclose(second.weight, first.weight, rtol=1e-5, atol=1e-5)
    assert both.outcome.bytes_up == alone.outcome.bytes_up


def test_few_hospitals_train_by_themselves_to_the_same_bits(run):
    alone, both = run(LEAST - 1, name="fedavg"), run(LEAST - 1, train_ahead, name="fedavg")
    assert not any(both.ahead)
    assert both.outcome.model.head.weight.tobytes() == alone.outcome.model.head.weight.tobytes()


@pytest.mark.parametrize("method", [{"name": "scaffold", "momentum": 0.0}, {"name": "fedavg", "optimizer": "adam"}])
def test_what_is_not_plain_each_trains_for_itself(run, method):
    assert not any(run(LEAST, train_ahead, **method).ahead)


def test_a_hospital_that_declines_is_left_out_though_its_head_was_trained(run, monkeypatch):
    real = Hospital._fit

    def declining(self, part, request):
        if self.name == "h-03":
            raise MemoryError
        return real(self, part, request)

    monkeypatch.setattr(Hospital, "_fit", declining)
    outcome = run(LEAST + 1, train_ahead, name="fedavg").outcome
    assert {(one.hospital, one.reason) for one in outcome.failures if one.phase == "fit"} == {
        ("h-03", "declined: out-of-memory")
    }


def test_an_exercise_that_was_trained_ahead_is_used_once_and_only_for_the_same(run, monkeypatch):
    """A hospital asked for another round than was looked at trains it itself."""
    real = together._exercises

    def other_round(request, nodes):
        request.fields["round"] = int(request.fields["round"]) + 1
        return real(request, nodes)

    alone = run(LEAST, name="fedavg")
    monkeypatch.setattr(together, "_exercises", other_round)
    both = run(LEAST, train_ahead, name="fedavg")
    assert all(both.ahead)
    assert both.outcome.model.head.weight.tobytes() == alone.outcome.model.head.weight.tobytes()
