"""Hospitals that come, go, are approved late, restart with other data: in whole runs over a Grid like a deployment's."""

import time

import numpy as np
import pytest

from common.errors import FederationError
from common.flower_records import to_records
from common.wire import REFUSAL, Packed
from server.exchange import NOT_CONNECTED
from server.membership import NOT_DESCRIBED
from server.rounds import Hooks, run_job

FEW = np.array([[10, 5], [6, 4], [9, 7]])


@pytest.fixture
def run(server_job, deployed):
    """Run a job of some rounds; `before` is called with the number of each round before it begins, and the Grid."""

    def make(hospitals, before=None, away=(), rounds=4, min_hospitals=1, method=None, grid_set=None, **quorum):
        job = server_job(
            method={"name": "fedavg", "rounds": rounds, **(method or {})},
            quorum={"min_hospitals": min_hospitals, "deadline_s": 20, **quorum},
        )
        exchange, grid = deployed(hospitals, away)
        (grid_set or (lambda _: None))(grid)
        lines, states = [], []

        def described(_):
            (before or (lambda *_: None))(1, grid)

        def saved(state):
            states.append(state)
            # Long enough for a hospital to be asked again, and for what was posted to be answered.
            time.sleep(0.1)
            (before or (lambda *_: None))(state.last.number + 1, grid)

        outcome = run_job(job, exchange, Hooks(described=[described], judged=[lines.append], checkpoint=[saved]))
        return outcome, lines, states, grid

    return make


def approved_later(rest: list[int], code: str = "job-not-approved"):
    """A hospital that declines to describe itself until `rest` is empty."""

    def tamper(_kind, records):
        return to_records(Packed({}, {REFUSAL: code})) if rest and rest.pop() is not None else records

    return tamper


def test_in_a_run_where_nobody_comes_or_goes_each_hospital_describes_itself_once(run, scripted):
    hospitals = {"alpha": scripted(), "beta": scripted(step=0.3)}
    outcome, lines, _, _ = run(hospitals)
    assert [one.asked for one in hospitals.values()] == [
        ["describe", *["fit"] * 4, "evaluate", "evaluate", "distances", "evaluate"]
    ] * 2
    assert outcome.failures == ()
    assert all(line.answered == ["alpha", "beta"] and not line.outside for line in lines)


def test_a_newcomer_takes_part_from_the_round_after_it_described_itself(run, scripted):
    """Steps of 0.5 and, of 50 examples each, 1.0: 0.5, 1.0 and then 1.75 and 2.5."""

    def before(number, grid):
        if number == 2:
            grid.away.clear()

    hospitals = {"alpha": scripted(step=0.5), "beta": scripted(step=1.0)}
    outcome, lines, states, _ = run(hospitals, before, away=["beta"])
    assert [line.answered for line in lines] == [["alpha"], ["alpha"], ["alpha", "beta"], ["alpha", "beta"]]
    assert [line.outside for line in lines] == [{}, {"beta": NOT_DESCRIBED}, {}, {}]
    assert [state.model.head.bias.tolist() for state in states] == [[0.5] * 2, [1.0] * 2, [1.75] * 2, [2.5] * 2]
    assert [member.name for member in outcome.members.members] == ["alpha", "beta"]
    assert set(outcome.test) == {"alpha", "beta"}
    assert hospitals["beta"].asked == ["describe", "fit", "fit", "evaluate", "evaluate", "distances", "evaluate"]


def test_the_standardisation_stays_that_of_the_start(run, scripted, examples):
    """A newcomer with other features does not move it: updates of a run read the same features."""

    def before(number, grid):
        if number == 2:
            grid.away.clear()

    _, _, states, _ = run({"alpha": scripted(), "beta": scripted(images=FEW * 7)}, before, away=["beta"])
    assert len({state.standardisation.mean.tobytes() + state.standardisation.scale.tobytes() for state in states}) == 1


def test_a_hospital_of_another_feature_space_never_joins(run, scripted):
    def before(number, grid):
        if number == 2:
            grid.away.clear()

    other = scripted(fingerprint="f" * 64)
    outcome, lines, _, _ = run({"alpha": scripted(), "beta": other}, before, away=["beta"])
    assert all(line.answered == ["alpha"] for line in lines)
    assert "another feature space" in lines[-1].outside["beta"]
    assert "fit" not in other.asked
    assert [(one.hospital, one.phase, one.round) for one in outcome.failures] == [
        ("beta", "describe", number) for number in (2, 3, 4)
    ]


def test_a_member_that_is_gone_is_missed_and_back_again_without_a_new_description(run, scripted):
    def before(number, grid):
        grid.away = {"beta"} if number in (2, 3) else set()

    hospitals = {"alpha": scripted(), "beta": scripted()}
    outcome, lines, _, _ = run(hospitals, before)
    assert [line.dropped for line in lines] == [{}, {"beta": NOT_CONNECTED}, {"beta": NOT_CONNECTED}, {}]
    assert hospitals["beta"].asked == ["describe", "fit", "fit", "evaluate", "evaluate", "distances", "evaluate"]
    assert [(one.hospital, one.phase, one.round) for one in outcome.failures] == [
        ("beta", "fit", 2),
        ("beta", "fit", 3),
    ]


def test_a_hospital_that_comes_back_with_other_data_is_described_again(run, scripted):
    """Its answers contradict what it declared, and are dropped; then it declares 15 images in place of 50."""
    beta = scripted()

    def before(number, _):
        if number == 2:
            beta.images = FEW

    outcome, lines, _, _ = run({"alpha": scripted(), "beta": beta}, before, rounds=5)
    assert [list(line.dropped) for line in lines] == [[], ["beta"], ["beta"], [], []]
    assert lines[1].dropped["beta"] == "15 examples; it declared 50"
    assert beta.asked.count("describe") == 2
    assert {one.name: one.description.examples for one in outcome.members.members} == {"alpha": 50, "beta": 15}


def test_the_start_waits_for_a_hospital_to_be_approved(run, scripted):
    beta = scripted(tamper=approved_later([1, 1, 1]), kinds=("describe",))
    outcome, lines, _, _ = run({"alpha": scripted(), "beta": beta}, min_hospitals=2)
    assert beta.asked[:5] == ["describe"] * 4 + ["fit"]
    assert all(line.answered == ["alpha", "beta"] for line in lines)
    assert outcome.failures == ()


def test_the_start_waits_no_longer_than_the_deadline_and_says_why(run, scripted):
    beta = scripted(tamper=approved_later([1] * 10_000), kinds=("describe",))
    start = time.monotonic()
    with pytest.raises(FederationError, match=r"1 of 2 hospitals can take part, .* beta: declined: job-not-approved"):
        run({"alpha": scripted(), "beta": beta}, min_hospitals=2, deadline_s=0.5)
    assert 0.5 <= time.monotonic() - start < 15
    assert 3 <= beta.asked.count("describe") <= 11


def test_with_a_quorum_the_start_does_not_wait_for_who_declines(run, scripted):
    """It is asked at the start and before the rounds 2, 3 and 4, declines three times, and joins in round 5."""
    beta = scripted(tamper=approved_later([1, 1, 1]), kinds=("describe",))
    outcome, lines, _, _ = run({"alpha": scripted(), "beta": beta}, rounds=6)
    declined = {"beta": "declined: job-not-approved"}
    assert [line.outside for line in lines] == [declined, declined, declined, declined, {}, {}]
    assert [line.answered for line in lines][3:5] == [["alpha"], ["alpha", "beta"]]
    assert [one.round for one in outcome.failures] == [0, 1, 2, 3, 4]


def test_a_hospital_that_declines_is_not_asked_in_each_round(server_job, deployed, scripted):
    beta = scripted(tamper=approved_later([1] * 10_000), kinds=("describe",))
    exchange, _ = deployed({"alpha": scripted(), "beta": beta}, retry_s=3600)
    run_job(server_job(method={"name": "fedavg", "rounds": 20}), exchange)
    assert beta.asked == ["describe"]


def test_in_a_simulation_a_refusal_is_final(server_job, exchange_with, scripted):
    beta = scripted(tamper=approved_later([1] * 10_000), kinds=("describe",))
    start = time.monotonic()
    job = server_job(quorum={"min_hospitals": 2, "deadline_s": 60})
    with pytest.raises(FederationError, match="job-not-approved"):
        run_job(job, exchange_with({"alpha": scripted(), "beta": beta}))
    assert time.monotonic() - start < 30
    assert beta.asked == ["describe"]


def test_a_slow_description_is_not_lost_when_the_grace_period_is_over(run, scripted):
    """The start goes on without beta; when its description is there it joins, and is not asked for another."""
    hospitals = {"alpha": scripted(), "beta": scripted()}

    def slow(grid):
        grid.delays["beta", "describe"] = 0.3

    _, lines, _, grid = run(hospitals, rounds=8, grace_s=0.05, grid_set=slow)
    assert lines[0].answered == ["alpha"]
    assert lines[-1].answered == ["alpha", "beta"]
    assert [kind for name, kind, _ in grid.pushed if name == "beta"].count("describe") == 1


def test_the_start_waits_for_descriptions_without_a_grace_period(run, scripted):
    def slow(grid):
        grid.delays["beta", "describe"] = 0.4

    _, lines, _, _ = run({"alpha": scripted(), "beta": scripted()}, grid_set=slow)
    assert lines[0].answered == ["alpha", "beta"]


def test_two_nodes_of_one_name_are_two_hospitals(run, scripted, monkeypatch):
    def same(grid):
        nodes = grid.get_nodes
        grid.get_nodes = lambda: [type(one)(node_id=one.node_id, name="clinic") for one in nodes()]

    outcome, lines, _, _ = run({"alpha": scripted(), "beta": scripted()}, grid_set=same, rounds=1)
    assert lines[0].answered == ["node-2", "node-3"]
    assert outcome.failures == ()


def test_a_hospital_that_is_back_under_another_node_id_takes_its_place(run, scripted):
    """The same registered name, a new node: one hospital, not two."""

    def before(number, grid):
        grid.away = {"old": {"new"}, "new": {"old"}}["old" if number < 3 else "new"]

    def same_name(grid):
        nodes = grid.get_nodes
        grid.get_nodes = lambda: [
            type(one)(node_id=one.node_id, name="beta" if one.name in ("old", "new") else one.name) for one in nodes()
        ]

    hospitals = {"alpha": scripted(), "old": scripted(), "new": scripted(images=FEW)}
    outcome, lines, _, _ = run(hospitals, before, away=["new"], rounds=5, grid_set=same_name)
    assert [line.answered for line in lines] == [["alpha", "beta"]] * 2 + [["alpha"]] + [["alpha", "beta"]] * 2
    assert lines[2].dropped == {"beta": NOT_CONNECTED}
    assert {one.name: one.description.examples for one in outcome.members.members} == {"alpha": 50, "beta": 15}


def test_nobody_takes_the_name_of_a_connected_hospital(run, scripted):
    def before(number, grid):
        if number == 2:
            grid.away.clear()

    def same_name(grid):
        nodes = grid.get_nodes
        grid.get_nodes = lambda: [type(one)(node_id=one.node_id, name="alpha") for one in nodes()]

    outcome, lines, _, _ = run({"alpha": scripted(), "twin": scripted()}, before, away=["twin"], grid_set=same_name)
    assert all(line.answered == ["alpha"] for line in lines)
    assert lines[-1].outside == {"node-3": "another connected hospital has its name"}
    assert len(outcome.members.members) == 1


def test_scaffold_gives_a_newcomer_a_control_variate_of_zero_until_its_first_update(run, scripted):
    """Lr 0.5, one step. alpha's gradient is -2 (it moves by 1); beta joins in round 3 with as many examples.

    Then c = (-2 + 0) / 2 = -1: alpha is sent 1 and beta -1. beta moves by 0.5 + 0.5 = 1, so its gradient stays -1.
    """

    def before(number, grid):
        if number == 2:
            grid.away.clear()

    hospitals = {"alpha": scripted(step=1.0), "beta": scripted(step=0.5)}
    method = {"name": "scaffold", "lr": 0.5, "batch_size": 50}
    _, lines, states, _ = run(hospitals, before, away=["beta"], method=method, rounds=3)
    assert [line.answered for line in lines] == [["alpha"], ["alpha"], ["alpha", "beta"]]
    sent = [
        set(request.arrays["correction.bias"].tolist())
        for hospital in hospitals.values()
        for kind, request in zip(hospital.asked, hospital.requests, strict=True)
        if kind == "fit"
    ]
    assert sent == [{0.0}, {0.0}, {1.0}, {-1.0}]
    assert {name: set(array.ravel().tolist()) for name, array in states[-1].strategy.items()} == {
        **{f"control/alpha/{name}": {-2.0} for name in ("weight", "bias")},
        **{f"control/beta/{name}": {-1.0} for name in ("weight", "bias")},
    }
    assert set(states[1].strategy) == {"control/alpha/weight", "control/alpha/bias"}


@pytest.mark.parametrize("method", ["fednova", "fedavgm", "fedadam", "fedmedian"])
def test_a_newcomer_joins_whatever_the_method(method, run, scripted):
    def before(number, grid):
        if number == 2:
            grid.away.clear()

    hospitals = {"alpha": scripted(), "beta": scripted()}
    _, lines, states, _ = run(hospitals, before, away=["beta"], method={"name": method})
    assert lines[-1].answered == ["alpha", "beta"]
    assert np.isfinite(states[-1].model.head.weight).all()


def test_the_round_of_sums_has_a_grace_period_too(small_job, deployed, scripted, examples):
    given = {name: examples(seed, [[30, 30], [9, 9], [9, 9]]) for seed, name in enumerate(("a", "b", "c"))}
    job = small_job(quorum={"min_hospitals": 2, "deadline_s": 30, "grace_s": 0.2})
    exchange, grid = deployed({name: scripted(examples=one) for name, one in given.items()})
    grid.delays["c", "statistics"] = 60
    lines = []
    outcome = run_job(job, exchange, Hooks(judged=[lines.append]))
    assert lines[0].answered == ["a", "b"]
    assert lines[0].dropped == {"c": "no answer within the grace period"}
    # It is still at the sums when the test comes.
    assert set(outcome.test) == {"a", "b"}
    assert {(one.hospital, one.phase) for one in outcome.failures} == {
        ("c", "statistics"),
        ("c", "distances"),
        ("c", "validation"),
        ("c", "test"),
    }


def test_a_round_that_hospitals_are_too_late_for_is_lost_and_the_run_goes_on(run, scripted):
    def before(number, grid):
        grid.delays = {("alpha", "fit"): 60} if number == 2 else {}

    _, lines, states, _ = run({"alpha": scripted(step=0.5)}, before, rounds=3, deadline_s=0.3)
    assert [line.lost for line in lines] == [False, True, True]
    assert states[-1].model.head.bias.tolist() == [0.5, 0.5]
