"""The round loop: what it asks, keeps, loses and takes up again."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from common.errors import ArtifactError, FederationError
from common.metrics import derive
from server.checkpoint import load_checkpoint, save_checkpoint
from server.members import missing_classes
from server.rounds import Hooks, run_job
from simulation.grid import InProcessGrid

IMAGES = np.array([[30, 20], [6, 4], [9, 7]])
"""Of a scripted hospital by default: training, validation and test patients of each class."""
FEW = np.array([[10, 5], [6, 4], [9, 7]])


def test_one_hospital_moves_the_head_by_its_own_steps(server_job, scripted, exchange_with):
    rounds = []
    job = server_job(method={"name": "fedavg", "rounds": 3})
    outcome = run_job(job, exchange_with({"alpha": scripted(step=0.25)}), Hooks(judged=[rounds.append]))
    assert [one.number for one in rounds] == [1, 2, 3]
    assert outcome.rounds == 3
    # The scripted hospital declares mean 0 and deviation 1: folding the standardisation changes nothing.
    np.testing.assert_allclose(outcome.model.head.weight, 0.25 * outcome.best_round)
    assert outcome.test["alpha"].support.tolist() == [9, 7]


def test_every_round_is_judged_and_every_byte_counted(server_job, scripted, exchange_with):
    rounds, states, told = [], [], []
    job = server_job(method={"name": "fedavg", "rounds": 3})
    hooks = Hooks(described=[told.append], judged=[rounds.append], checkpoint=[states.append])
    outcome = run_job(job, exchange_with({"alpha": scripted(), "beta": scripted()}), hooks)
    assert all(one.validation is not None and one.validation.n == 20 for one in rounds)
    assert all(one.answered == ["alpha", "beta"] and set(one.update_norms) == {"alpha", "beta"} for one in rounds)
    assert [state.last.number for state in states] == [1, 2, 3]
    assert [member.name for member in told[0].members] == ["alpha", "beta"]
    assert outcome.bytes_up > sum(one.bytes_up for one in rounds) > 3 * 2 * outcome.model.nbytes
    assert set(outcome.seconds) == {"describe", "fit", "evaluate", "calibrate", "total"}


def test_validation_metrics_are_those_of_the_counts(server_job, scripted, exchange_with):
    rounds = []
    outcome = run_job(server_job(), exchange_with({"alpha": scripted()}), Hooks(judged=[rounds.append]))
    assert derive(outcome.test["alpha"]).n == 16
    assert rounds[0].validation.n == 10


class Late(InProcessGrid):
    """Nobody answers a fit request in the rounds of `quiet`."""

    quiet: tuple[str, ...] = ()

    def _deliver(self, message):
        if message.metadata.message_type == "train" and message.metadata.group_id in self.quiet:
            return []
        return super()._deliver(message)


def quiet_in(*rounds):
    return type("Quiet", (Late,), {"quiet": tuple(map(str, rounds))})


def test_a_round_without_a_quorum_changes_nothing(server_job, scripted, exchange_with):
    rounds, states = [], []
    job = server_job(method={"name": "fedavg", "rounds": 3}, quorum={"min_hospitals": 1, "deadline_s": 0.05})
    hooks = Hooks(judged=[rounds.append], checkpoint=[states.append])
    run_job(job, exchange_with({"alpha": scripted(step=0.5)}, quiet_in(2)), hooks)
    assert [one.lost for one in rounds] == [False, True, False]
    assert [one.answered for one in rounds] == [["alpha"], [], ["alpha"]]
    np.testing.assert_array_equal(states[-1].model.head.bias, np.float32(1.0))


def test_the_last_good_model_stands_when_the_quorum_stays_away(server_job, scripted, exchange_with):
    rounds = []
    job = server_job(method={"name": "fedavg", "rounds": 50}, quorum={"min_hospitals": 1, "deadline_s": 0.05})
    exchange = exchange_with({"alpha": scripted(step=0.5)}, quiet_in(2, 3, 4))
    outcome = run_job(job, exchange, Hooks(judged=[rounds.append]))
    assert [one.lost for one in rounds] == [False, True, True, True]
    assert outcome.best_round == 1
    np.testing.assert_array_equal(outcome.model.head.bias, np.float32(0.5))


def test_without_any_good_round_there_is_no_model(server_job, scripted, exchange_with):
    job = server_job(method={"name": "fedavg", "rounds": 50}, quorum={"min_hospitals": 1, "deadline_s": 0.05})
    with pytest.raises(FederationError, match="alpha: no answer before the deadline"):
        run_job(job, exchange_with({"alpha": scripted()}, quiet_in(1, 2, 3)))


def test_patience_ends_the_training(server_job, scripted, exchange_with):
    rounds = []
    job = server_job(method={"name": "fedavg", "rounds": 50, "patience": 2})
    # The scripted validation counts never change, so no round is better than the first.
    outcome = run_job(job, exchange_with({"alpha": scripted()}), Hooks(judged=[rounds.append]))
    assert [one.number for one in rounds] == [1, 2, 3]
    assert outcome.best_round == 1


def test_missing_classes_are_named(server_job, scripted, exchange_with):
    one_class = np.array([[50, 0], [10, 0], [16, 0]])
    outcome = run_job(server_job(), exchange_with({"alpha": scripted(), "beta": scripted(images=one_class)}))
    assert missing_classes(outcome.described, ["normal", "opacity"]) == {"beta": ["opacity"]}
    assert derive(outcome.test["beta"]).auroc is None


@pytest.mark.parametrize("method", ["fedavg", "fedadam", "fedavgm", "fedyogi", "scaffold", "fednova"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(method, server_job, scripted, exchange_with, tmp_path):
    job = server_job(method={"name": method, "rounds": 6, "batch_size": 8})
    # In batches of 8 alpha's 50 images make 7 steps, beta's 15 make 2.
    hospitals = {"alpha": scripted(step=0.3), "beta": scripted(step=-0.1, images=FEW)}
    rounds, resumed_rounds, states, later = [], [], [], []
    whole = run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append], checkpoint=[states.append]))
    path = tmp_path / "last.safetensors"

    def crash(state):
        save_checkpoint(path, state)
        if state.last.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, exchange_with(hospitals), Hooks(checkpoint=[crash]))
    hooks = Hooks(judged=[resumed_rounds.append], checkpoint=[later.append])
    resumed = run_job(job, exchange_with(hospitals), hooks, load_checkpoint(path))
    assert resumed.model.head.weight.tobytes() == whole.model.head.weight.tobytes()
    assert resumed.best_round == whole.best_round
    assert later[-1].model.head.weight.tobytes() == states[-1].model.head.weight.tobytes()
    assert {name: array.tobytes() for name, array in later[-1].strategy.items()} == {
        name: array.tobytes() for name, array in states[-1].strategy.items()
    }
    assert not any(one.dropped for one in [*rounds, *resumed_rounds])
    assert [one.validation for one in resumed_rounds] == [one.validation for one in rounds[2:]]


def control_after(job, hospitals, exchange_with):
    """The one number in each array of the hospitals' control variates, after each round."""
    states = []
    run_job(job, exchange_with(hospitals), Hooks(checkpoint=[states.append]))
    found = [{name: set(array.ravel().tolist()) for name, array in state.strategy.items()} for state in states]
    assert all(len(numbers) == 1 for one in found for numbers in one.values())
    return [{name: numbers.pop() for name, numbers in one.items()} for one in found]


def both(hospital, number):
    """A control variate of one number in weight and bias."""
    return {f"control/{hospital}/weight": number, f"control/{hospital}/bias": number}


def sent_in(hospital, number):
    """What a hospital was sent to correct its gradients in a round: the one number of its arrays."""
    fits = [request for kind, request in zip(hospital.asked, hospital.requests, strict=True) if kind == "fit"]
    arrays = {name: array for name, array in fits[number - 1].arrays.items() if name.startswith("correction.")}
    assert {name: array.dtype for name, array in arrays.items()} == dict.fromkeys(
        ("correction.weight", "correction.bias"), np.dtype("float32")
    )
    [only] = {one for array in arrays.values() for one in array.ravel().tolist()}
    return only


def test_scaffold_s_control_variates_are_derived_from_models_and_steps(server_job, scripted, exchange_with):
    """150 and 50 examples, steps of 0.5. alpha moves by 3 in three, beta by -0.25 in one: gradients -2 and 0.5.

    Their mean is -1.5 + 0.125 = -1.375: alpha is sent 0.625 and beta -1.875. Their gradients stay the same, whatever they
    are sent, so the next round changes nothing.
    """
    job = server_job(method={"name": "scaffold", "rounds": 3, "lr": 0.5, "batch_size": 50})
    hospitals = {"alpha": scripted(step=3.0, images=IMAGES * 3), "beta": scripted(step=-0.25)}
    states = control_after(job, hospitals, exchange_with)
    assert states == [both("alpha", -2.0) | both("beta", 0.5)] * 3
    assert [sent_in(hospitals["alpha"], number) for number in (1, 2, 3)] == [0.0, 0.625, 0.625]
    assert [sent_in(hospitals["beta"], number) for number in (1, 2, 3)] == [0.0, -1.875, -1.875]


def test_each_hospital_steps_along_what_it_alone_is_sent(server_job, scripted, exchange_with):
    """As above, in round 2: alpha 3 - 1.5 x 0.625 = 2.0625, beta -0.25 + 0.5 x 1.875 = 0.6875; shares 3/4 and 1/4."""
    states = []
    job = server_job(method={"name": "scaffold", "rounds": 2, "lr": 0.5, "batch_size": 50})
    hospitals = {"alpha": scripted(step=3.0, images=IMAGES * 3), "beta": scripted(step=-0.25)}
    run_job(job, exchange_with(hospitals), Hooks(checkpoint=[states.append]))
    first = 0.75 * 3 - 0.25 * 0.25
    found = [set(state.model.head.bias.tolist()) for state in states]
    assert found == [{first}, {first + 0.75 * 2.0625 + 0.25 * 0.6875}]


def test_a_hospital_whose_answers_are_dropped_counts_in_the_mean_and_nothing_is_kept_of_it(
    server_job, scripted, exchange_with
):
    """The same, and beta's steps are impossible: alpha's gradient of -2 is that of three quarters of the examples."""
    job = server_job(method={"name": "scaffold", "rounds": 2, "lr": 0.5, "batch_size": 50})
    hospitals = {"alpha": scripted(step=3.0, images=IMAGES * 3), "beta": scripted(step=-0.25, steps=2)}
    assert control_after(job, hospitals, exchange_with) == [both("alpha", -2.0)] * 2
    assert sent_in(hospitals["alpha"], 2) == 0.5
    assert sent_in(hospitals["beta"], 2) == -1.5


def test_a_hospital_that_is_dropped_in_one_round_is_sent_what_belongs_to_its_last_good_answer(
    server_job, scripted, exchange_with
):
    """beta's second answer is refused, whatever it moved: its gradient stays the one of round 1, and the third one counts."""
    told = iter(range(1, 4))

    def second_is_refused(_kind, records):
        config = {**records["config"], **({"steps": 9} if next(told) == 2 else {})}
        return RecordDict({"arrays": records["arrays"], "config": ConfigRecord(config)})

    job = server_job(method={"name": "scaffold", "rounds": 3, "lr": 0.5, "batch_size": 50})
    beta = scripted(step=-0.25, tamper=second_is_refused)
    hospitals = {"alpha": scripted(step=3.0, images=IMAGES * 3), "beta": beta}
    rounds, states = [], []
    run_job(job, exchange_with(hospitals), Hooks(judged=[rounds.append], checkpoint=[states.append]))
    assert [sorted(one.dropped) for one in rounds] == [[], ["beta"], []]
    assert [sent_in(beta, number) for number in (1, 2, 3)] == [0.0, -1.875, -1.875]
    assert [set(state.strategy["control/beta/bias"].tolist()) for state in states] == [{0.5}] * 3


def test_a_tuning_fit_counts_images_and_the_control_variates_know_the_rates(server_job, scripted, exchange_with):
    """Mirrored: two examples an image for the sums, but one in a fit: one step. alpha's gradient is 1 / lr of each part.

    Round 2 of 2 by cosine: half the rate of the backbone, so its gradient is twice that. Alone it has nothing to correct.
    """
    job = server_job(
        modality="chest-xray",
        features={"stages": "last", "mirror": True},
        method={"name": "scaffold", "rounds": 2, "lr": 0.5, "batch_size": 50},
        tune={"part": "last-blocks", "lr": 0.5},
    )
    assert job.examples_per_image == 2
    hospital = scripted(step=-1.0, tuned={"a": np.zeros(3, np.float32)})
    first, second = control_after(job, {"alpha": hospital}, exchange_with)
    assert first == both("alpha", 2.0) | {"control/alpha/tuned.a": 2.0}
    assert second == both("alpha", 2.0) | {"control/alpha/tuned.a": pytest.approx(4.0)}
    fits = [request for kind, request in zip(hospital.asked, hospital.requests, strict=True) if kind == "fit"]
    for request in fits:
        assert not any(request.arrays[f"correction.{name}"].any() for name in ("weight", "bias", "tuned.a"))


def test_in_a_tuning_fit_the_shares_are_those_of_images(server_job, scripted, exchange_with):
    """150 and 50 images, each with its mirror image: shares 3/4 and 1/4 all the same; gradients 2 / 3 in 3 steps, and -2."""
    job = server_job(
        modality="chest-xray",
        features={"stages": "last", "mirror": True},
        method={"name": "scaffold", "rounds": 2, "lr": 0.5, "batch_size": 50},
        tune={"part": "last-blocks", "lr": 0.5, "schedule": "constant"},
    )
    tuned = {"a": np.zeros(3, np.float32)}
    beta = scripted(step=1.0, tuned=tuned)
    run_job(job, exchange_with({"alpha": scripted(step=-1.0, images=IMAGES * 3, tuned=tuned), "beta": beta}))
    fits = [request for kind, request in zip(beta.asked, beta.requests, strict=True) if kind == "fit"]
    for name in ("weight", "bias", "tuned.a"):
        np.testing.assert_allclose(fits[1].arrays[f"correction.{name}"], 0.75 * 2 / 3 - 0.25 * 2 + 2, rtol=1e-6)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "last.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ArtifactError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "last.safetensors")
