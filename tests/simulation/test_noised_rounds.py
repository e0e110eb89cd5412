"""Whole jobs with noise by each hospital, or by the coordinator: without noise the plain ones, resumed with their accounting."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("opacus")

import client.noised_training
import server.central_dp
import server.noised_rounds
import simulation.run
from client.app import app as client_app
from client.hospital_file import Data, HospitalFile
from client.policy import OF_SIMULATIONS
from client.preparation import prepare
from client.records import read_rows
from client.training import Examples, seed_of, train_head
from common.dp.noise import unit_of
from common.errors import ConfigError, FederationError
from common.flower_records import MESSAGE_TYPES, from_records
from common.head import Head, Standardisation
from common.methods import LocalTraining
from common.packed import REFUSAL
from common.privacy import LOCAL_SPREAD
from common.private_release import spent_after
from common.wire import dimensions, problem_with, reply_schema
from server.central_dp import CentralDp
from server.recorder import Recorder
from simulation.run import simulate

KINDS = {kind: name for name, kind in MESSAGE_TYPES.items()}
FEDAVG = {"name": "fedavg", "rounds": 3, "local_epochs": 2}


def own(**more):
    return {"differential_privacy": {"epsilon": 3.0, "noise": "own", **more}}


def central(**more):
    return {"differential_privacy": {"epsilon": 3.0, "unit": "hospital", "hospitals": 3, **more}}


@pytest.fixture(scope="module")
def singles(phantoms, tmp_path_factory):
    """The phantom hospitals with every image another patient's: then a patient's gradient is an image's."""
    found = {}
    for name, folder in phantoms.items():
        found[name] = tmp_path_factory.mktemp(name)
        rows = [f"{row.path.resolve()},{row.label},{number}" for number, row in enumerate(read_rows(folder))]
        (found[name] / "manifest.csv").write_text("path,label,patient_id\n" + "\n".join(rows) + "\n")
    return found


@pytest.fixture
def run(job, phantoms, cache_dir, tmp_path, monkeypatch):
    def make(privacy, out="run", hospitals=None, method=FEDAVG, resume=False, report=False, **changes):
        if not report:  # its plots take longer than the run
            monkeypatch.setattr("server.app.write_report", lambda folder: folder)
        one = job(**{"features": {"stages": "last"}, "evaluation": {"test_fraction": 0.25}, "method": method, **changes},
                  privacy=privacy)  # fmt: skip
        return simulate(one, hospitals or phantoms, tmp_path / out, cache_dir=cache_dir, device="cpu", resume=resume)

    return make


@pytest.fixture
def replies(monkeypatch):
    """All replies of a run, with who gave them and what was asked."""
    found = []

    def answering(message, context):
        reply = client_app(message, context)
        name, kind = str(context.node_config["hospital-name"]), KINDS[message.metadata.message_type]
        found.append(SimpleNamespace(hospital=name, kind=kind, reply=from_records(reply.content)))
        return reply

    monkeypatch.setattr(simulation.run, "client_app", answering)
    return found


@pytest.fixture
def no_noise(monkeypatch):
    """What is noised is only rounded to its grid."""

    def rounded(values, scale, entropy=None):
        return np.rint(values / unit_of(scale)).astype(np.int64)

    monkeypatch.setattr(client.noised_training, "noised", rounded)
    monkeypatch.setattr(client.noised_training, "step_multiplier", lambda _: 0.0)
    monkeypatch.setattr(server.noised_rounds, "step_multiplier", lambda _: 0.0)


def trains_of(result, hospitals, cache_dir):
    """The training examples of each hospital as the job of a finished run reads them, not yet standardised."""
    found = {}
    for name, folder in hospitals.items():
        file = HospitalFile(name=name, data=Data(folder=folder), cache=cache_dir, device="cpu", policy=OF_SIMULATIONS)
        found[name] = prepare(result.manifest.job, file).parts["train"]
    return found


def standardised(standardisation, trains):
    return {name: Examples(standardisation.apply(one.features), one.labels) for name, one in trains.items()}


def mean(heads, weights):
    shares = np.array(weights) / np.sum(weights)
    return Head(
        np.tensordot(shares, np.stack([head.weight for head in heads]), 1).astype(np.float32),
        np.tensordot(shares, np.stack([head.bias for head in heads]), 1).astype(np.float32),
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------- noise of each hospital's own


def test_a_job_with_noise_of_its_own_tells_noised_numbers_only(run, replies, tmp_path, phantoms):
    result = run(own(), report=True)
    one = result.manifest.job
    assert {each.kind for each in replies} == {"describe", "fit", "evaluate"}
    for each in replies:
        assert REFUSAL not in each.reply.fields
        assert problem_with(each.reply, reply_schema(each.kind, one, {}), dimensions(one)) is None
    assert {name for each in replies if each.kind == "fit" for name in each.reply.arrays} == {"weight", "bias"}
    assert result.summary["hospitals"] == {}
    assert set(result.summary["metrics"]["hospitals"]) == set(phantoms)
    privacy = result.summary["privacy"]
    assert privacy["spent"] == pytest.approx(3.0, rel=1e-6)
    assert (privacy["unit"], privacy["noise"], privacy["releases"]) == ("patient", "own", 6)
    told = [line["epsilon"] for line in lines(result.folder)]
    assert told == [spent_after(one, number) for number in (1, 2, 3)]
    assert not [line for line in lines(result.folder) if line["validation"] or line["train_loss"]]
    page = (result.folder / "report.html").read_text()
    assert "epsilon 3, delta 1e-05, all of the noise from each hospital" in page


@pytest.mark.parametrize("secure", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_without_noise_and_clip_it_is_plain_fedavg(run, singles, cache_dir, no_noise, secure):
    method = {"name": "fedavg", "rounds": 3, "local_epochs": 4, "lr": 0.3}
    result = run({**own(clip=1e6), "secure_aggregation": secure}, hospitals=singles, method=method)
    trains = trains_of(result, singles, cache_dir)
    everything = np.concatenate([one.features for one in trains.values()])
    centre = Standardisation(
        everything.mean(axis=0, dtype=np.float64).astype(np.float16),
        np.full(everything.shape[1], LOCAL_SPREAD, np.float16),
    )
    head, sizes = Head.zeros(2, everything.shape[1]), [len(one) for one in trains.values()]
    for _ in range(3):
        heads = []
        for one in standardised(centre, trains).values():
            local = LocalTraining(4, 0.3, len(one), "sgd", 0.0, 0.0, "none", 0.0)
            heads.append(train_head(head, one, local, seed=1).head)
        head = mean(heads, sizes)
    assert result.model.head.distance(centre.fold(head)) < 1e-3 * np.linalg.norm(centre.fold(head).weight)
    assert np.linalg.norm(head.weight) > 0.05
    assert result.summary["patients"] == sum(sizes)


@pytest.mark.slow
def test_under_secure_aggregation_no_noised_number_is_seen_either(run, replies):
    result = run({**own(), "secure_aggregation": True})
    assert {each.kind for each in replies} == {"describe", "keys", "shares", "masked", "unmask"}
    purposes = [
        each.reply.fields["purpose"] for each in replies if each.kind == "masked" and each.hospital == "hospital-a"
    ]
    assert [one for one in purposes if not one.startswith("evaluate")] == [
        "centre",
        *(f"noised-fit:{number}" for number in (1, 2, 3)),
    ]
    assert not [one for one in purposes if "validation" in one]
    assert result.summary["metrics"]["hospitals"] == {}
    assert result.summary["privacy"]["spent"] == pytest.approx(3.0, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedadam", "fedavgm"])
def test_the_coordinator_may_do_with_noised_heads_what_it_likes(run, method):
    result = run(own(epsilon=1000.0), method={"name": method, "rounds": 2})
    assert np.isfinite(result.model.head.weight).all()
    assert result.summary["rounds"] == result.summary["best_round"] == 2


def test_ray_is_refused(job, phantoms, tmp_path):
    one = job(method=FEDAVG, evaluation={}, privacy=own())
    with pytest.raises(ConfigError, match="remembers what it told"):
        simulate(one, phantoms, tmp_path / "run", engine="ray")


# --------------------------------------------------------------------------------------------------- noise by the coordinator


def test_the_coordinator_clips_adds_noise_and_accounts_for_it(run, caplog):
    result = run(central(), method={"name": "fedavg", "rounds": 3}, report=True)
    privacy = result.summary["privacy"]
    assert privacy["spent"] == pytest.approx(3.0, rel=1e-6)
    assert (privacy["unit"], privacy["noise"], privacy["hospitals"]) == ("hospital", "coordinator", 3)
    assert [line["epsilon"] for line in lines(result.folder)] == [
        spent_after(result.manifest.job, number) for number in (1, 2, 3)
    ]
    # Three hospitals are far too few, and it says with how many it would do.
    assert privacy["signal"] < 0.1
    assert "times as far as the noise is long; expected 2 or more, for which about" in caplog.text
    page = (result.folder / "report.html").read_text()
    assert "for each hospital as a whole: epsilon 3 of 3" in page
    assert "hospitals were too few for this epsilon" in page
    assert "all but the coordinator, which saw every update" in page


def test_without_noise_and_clip_it_is_the_plain_mean_of_the_hospitals(run, phantoms, cache_dir, no_noise):
    result = run(central(clip=1e6), method={"name": "fedavg", "rounds": 2})
    one = result.manifest.job
    trains = trains_of(result, phantoms, cache_dir)
    constant = server.noised_rounds.uncentred(one)
    head = Head.zeros(2, one.num_features)
    for number in (1, 2):
        heads = [
            train_head(head, train, one.method.local, seed_of(one.seed, number, name)).head
            for name, train in standardised(constant, trains).items()
        ]
        head = mean(heads, [1, 1, 1])
    assert result.model.head.distance(constant.fold(head)) < 1e-4 * np.linalg.norm(constant.fold(head).weight)


def test_an_update_that_is_too_long_is_clipped_and_not_dropped(run):
    result = run(central(), method={"name": "fedavg", "rounds": 1}, guard={"max_update_norm": 1e-6})
    (line,) = lines(result.folder)
    assert line["answered"] == ["hospital-a", "hospital-b", "hospital-c"]


def test_a_hospital_that_is_not_registered_ends_the_run(run):
    with pytest.raises(FederationError, match=r"hospitals is 2, and 3 take part"):
        run(central(hospitals=2))


def test_hospitals_are_drawn_and_nobody_drawn_is_a_round_of_noise(run, replies, monkeypatch):
    drawn = iter([[0, 2], [], [1], [0, 1, 2]])

    def chosen(self):
        members = list(self._questions.members.by_node().items())
        return {members[k][0]: members[k][1].name for k in next(drawn)}

    monkeypatch.setattr(server.noised_rounds.NoisedRounds, "_drawn", chosen)
    monkeypatch.setattr(server.noised_rounds, "step_multiplier", lambda _: 0.5)
    monkeypatch.setattr(server.noised_rounds, "spent_after", lambda _, number: float(number))
    monkeypatch.setattr("server.summary.step_multiplier", lambda _: 0.5)
    monkeypatch.setattr("server.summary.spent_after", lambda _, number: float(number))
    result = run(central(sampling_rate=1 / 3), method={"name": "fedavg", "rounds": 4}, quorum={"min_hospitals": 2})
    found = lines(result.folder)
    assert [line["answered"] for line in found] == [
        ["hospital-a", "hospital-c"],
        [],
        ["hospital-b"],
        ["hospital-a", "hospital-b", "hospital-c"],
    ]
    assert not [line for line in found if line["lost"]]
    assert len([each for each in replies if each.kind == "fit"]) == 6
    assert result.summary["best_round"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("privacy", [own(sampling_rate=0.5), central(sampling_rate=1 / 3)])
def test_sampled_patients_and_sampled_hospitals_spend_the_budget_and_no_more(run, privacy):
    pytest.importorskip("dp_accounting")
    result = run(privacy, method={"name": "fedavg", "rounds": 2, "local_epochs": 1})
    assert 2.95 < result.summary["privacy"]["spent"] <= 3.0
    assert result.summary["privacy"]["releases"] == (4 if privacy == own(sampling_rate=0.5) else 2)
    assert result.summary["rounds"] == 2


def test_who_is_drawn_comes_from_the_secure_generator(run, monkeypatch):
    rounds = server.noised_rounds.NoisedRounds.__new__(server.noised_rounds.NoisedRounds)
    members = {node: SimpleNamespace(name=f"h{node}") for node in range(20_000)}
    rounds._questions = SimpleNamespace(members=SimpleNamespace(by_node=lambda: members))
    rounds._central = CentralDp(1.0, 1.0, 20_000, 5_000)
    rounds._entropy = np.random.default_rng(1).bytes
    monkeypatch.setattr(server.noised_rounds, "budget_of", lambda _: SimpleNamespace(sampling_rate=0.25))
    rounds._job = None
    found = [set(rounds._drawn()) for _ in range(2)]
    # Standard deviation of the number drawn: sqrt(20000 x 0.25 x 0.75) = 61.
    assert all(abs(len(one) - 5000) < 4 * 61 for one in found)
    assert abs(len(found[0] & found[1]) - 1250) < 4 * 35


# ---------------------------------------------------------------------------------------------------------------- resumed


@pytest.mark.parametrize(
    "privacy", [own(), central(), pytest.param({**own(), "secure_aggregation": True}, marks=pytest.mark.slow)]
)
def test_a_resumed_run_keeps_the_accounting(run, monkeypatch, tmp_path, privacy):
    kept = tmp_path / "kits"
    kept.mkdir()
    found = simulation.kits.make_kits(kept, ["hospital-a", "hospital-b", "hospital-c"])
    roster = (kept / "roster.txt").read_bytes()
    monkeypatch.setattr(
        simulation.run, "make_kits", lambda folder, _: ((folder / "roster.txt").write_bytes(roster), found)[1]
    )
    real = Recorder.save

    def dying(self, state):
        if state.last.number == 3:
            raise KeyboardInterrupt
        real(self, state)

    method = {"name": "fedavgm", "rounds": 4}
    monkeypatch.setattr(Recorder, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        run(privacy, method=method)
    monkeypatch.setattr(Recorder, "save", real)
    result = run(privacy, method=method, resume=True)
    assert result.summary["resumed_after_round"] == 2
    one = result.manifest.job
    assert [(line["round"], line["epsilon"]) for line in lines(result.folder)] == [
        (number, spent_after(one, number)) for number in (1, 2, 3, 4)
    ]
    assert result.summary["privacy"]["spent"] == pytest.approx(3.0, rel=1e-6)


def test_a_round_without_a_quorum_changes_nothing(run, monkeypatch):
    """And three in a row end the run."""

    def answering(message, context):
        if KINDS[message.metadata.message_type] == "fit" and context.node_config["hospital-name"] != "hospital-a":
            raise RuntimeError("this hospital has gone")
        return client_app(message, context)

    monkeypatch.setattr(simulation.run, "client_app", answering)
    with pytest.raises(FederationError, match="no round had a quorum"):
        run(own())
