"""How a row changes a job: each as an exact job, because everything else of a comparison rests on it."""

import pytest

from common.errors import ConfigError
from common.job import parse_job
from common.methods import METHODS
from simulation.comparison.rows import DEFAULT_METHODS, FRAME, METHOD_ROWS, ROWS, as_compared, require_rows

CONTENT = {
    "name": "quick",
    "classes": ["no", "yes"],
    "modality": "chest-xray",
    "backbone": {"name": "squeezenet1_1", "weights": "IMAGENET1K_V1"},
    "method": {"name": "fedavg", "rounds": 7, "lr": 0.01, "momentum": 0.5},
}


def changed(name, content=None, rounds=3):
    return parse_job(ROWS[name].change(content or CONTENT, rounds))


@pytest.mark.parametrize("method", ["analytic", "fedavg", "scaffold", "krum", {"name": "fedadam", "optimizer": "adam"}])
@pytest.mark.parametrize("tune", ["head", "last-blocks"])
def test_every_row_makes_a_job_of_every_job(method, tune):
    if method == "analytic" and tune != "head":
        method = {"name": "fedavg", "warm_start": "analytic"}
    for name in ROWS:
        assert changed(name, {**CONTENT, "method": method, "tune": tune}).classes == ["no", "yes"]


def test_the_features_follow_the_method():
    assert changed("analytic").features.model_dump() == {
        "stages": "all",
        "pool": ["mean"],
        "mirror": True,
        "views": 1,
    }
    assert changed("analytic-last").features.stages == "last"
    assert changed("fedprox").features.model_dump()["mirror"] is False
    assert changed("fedavg-warm").features.stages == "all"


def test_features_that_are_written_stay_with_the_jobs_own_method():
    written = {**CONTENT, "features": {"stages": ["features.4", "output"]}}
    for own in ("job", "alone", "pooled", "random-backbone", "fedavg"):
        assert changed(own, written).features.stages == ["features.4", "output"]
    assert changed("fedprox", written).features.stages == "last"
    assert changed("fedavg-warm", written).features.stages == "all"


def test_iterative_rows_take_over_rounds_and_local_training():
    for name in ("fedavg", "fedprox", "fedadam", "fednova", "fedavg-warm"):
        method = changed(name).method
        assert (method.rounds, method.lr, method.momentum) == (7, 0.01, 0.5)
    scaffold = changed("scaffold").method
    assert (scaffold.rounds, scaffold.lr, scaffold.momentum) == (7, 0.02, 0.0)  # 0.01 / (1 - 0.5)
    assert changed("fedprox", {**CONTENT, "method": "analytic"}).method.rounds == 20


def test_plain_steps_do_not_take_over_adam():
    adam = {**CONTENT, "method": {"name": "fedavg", "rounds": 7, "optimizer": "adam", "lr": 0.5}}
    assert changed("fedprox", adam).method.optimizer == "adam"
    for name in ("scaffold", "fednova"):
        method = changed(name, adam).method
        assert (method.optimizer, method.lr, method.rounds) == ("sgd", 0.002, 7)


def test_the_jobs_own_method_keeps_its_own_options():
    own = {**CONTENT, "method": {"name": "fedprox", "proximal_mu": 0.7}}
    assert changed("fedprox", own).method.proximal_mu == 0.7
    assert parse_job(own) == changed("fedprox", own)
    assert changed("fedavg", own).method.proximal_mu is None


def test_a_single_hospital_trains_by_the_jobs_method_or_by_its_mean():
    alone = changed("alone")
    assert (alone.quorum.min_hospitals, alone.method) == (1, parse_job(CONTENT).method)
    krum = changed("alone", {**CONTENT, "method": {"name": "krum", "rounds": 5, "malicious_hospitals": 1}})
    assert (krum.method.name, krum.method.rounds) == ("fedavg", 5)


def test_random_weights():
    job = parse_job(CONTENT)
    backbone = changed("random-backbone")
    assert backbone.backbone.weights.random
    assert backbone.method == job.method
    scratch = changed("scratch", rounds=2)
    assert scratch.backbone.weights.random
    assert (scratch.tune.part, scratch.method.optimizer, scratch.method.rounds) == ("full", "adam", 2)


def test_deep_rows():
    assert changed("last-blocks").tune.part == "last-blocks"
    assert changed("full").tune.part == "full"
    assert changed("fedbn").tune.local_batch_norm
    assert all(changed(name).method.warm_start == "analytic" for name in ("last-blocks", "full", "fedbn"))
    assert changed("fedavg", {**CONTENT, "tune": "last-blocks"}).tune.part == "head"


def test_every_method_is_a_row():
    assert set(METHODS) - {"dp-gd"} <= set(METHOD_ROWS)  # a comparison has no private rows
    assert {*FRAME, *DEFAULT_METHODS} <= set(ROWS)
    assert "scratch" not in DEFAULT_METHODS


def test_an_unknown_row_lists_the_choices():
    with pytest.raises(
        ConfigError, match=r"unknown row 'fedprx'; did you mean 'fedprox'.*choose one of: alone, pooled"
    ):
        require_rows(["alone", "fedprx"])


def test_what_trains_nothing_is_left_out():
    content = {**CONTENT, "personalisation": {"epochs": 3}, "evaluation": {"cross_site": True, "test_fraction": 0.3}}
    job = parse_job(as_compared(content))
    assert job.personalisation is None
    assert (job.evaluation.cross_site, job.evaluation.test_fraction) == (False, 0.3)
    assert as_compared(CONTENT) == CONTENT
