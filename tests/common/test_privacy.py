"""What a job may ask for its protection, what that rules out, and that its noised answers spend its epsilon and no more."""

import math

import pytest

from common.dp.accounting import CENTRE_SHARE
from common.dp.gaussian import composed, epsilon_of
from common.dp.noise import sigma_with_rounding
from common.dp.noisy_sums import sensitivity_of
from common.errors import ConfigError
from common.job import job_from_json, parse_job
from common.privacy import DifferentialPrivacy
from common.private_release import noise_scale
from common.summed import Question, layout_of, released

SECURE = {"secure_aggregation": True}
PRIVATE = {**SECURE, "differential_privacy": {"epsilon": 3}}


def job(**changes):
    content = {"name": "j", "classes": ["a", "b"], "backbone": {"name": "mobilenet_v2", "weights": "random"}}
    return parse_job({**content, **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        *(({"privacy": SECURE, "method": name}, "must see single updates; choose one of: analytic") for name in
          ("fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan", "scaffold", "fednova")),
        ({"privacy": SECURE, "evaluation": {"cross_site": True}}, "sends each hospital's own head"),
        ({"privacy": SECURE, "personalisation": {}}, "sends each hospital's own counts"),
        ({"privacy": SECURE, "quorum": {"min_hospitals": 1}}, "expected 2 or more, got 1"),
        ({"privacy": {"differential_privacy": {"epsilon": 3}}}, "secure_aggregation: true as well"),
        ({"privacy": PRIVATE, "method": "fedavg"}, "method fedavg has no private form; choose one of: analytic, dp-gd"),
        ({"privacy": PRIVATE, "evaluation": {"validation_fraction": 0.1}}, "expected 0, got 0.1"),
        ({"privacy": PRIVATE, "method": {"stage_subsets": True, "projection": None}}, "write stage_subsets: false"),
        ({"privacy": {**SECURE, "differential_privacy": {"epsilon": 3, "colluding": 1}}}, "expected at most 0, got 1"),
        ({"privacy": {**SECURE, "differential_privacy": {"epsilon": 0}}}, "epsilon"),
        ({"privacy": {**SECURE, "differential_privacy": {"epsilon": 1, "delta": 1}}}, "delta"),
        ({"method": "dp-gd"}, "dp-gd is for privacy.differential_privacy"),
    ],
)  # fmt: skip
def test_what_cannot_hold_together_is_refused_with_the_reason(changes, why):
    with pytest.raises(ConfigError) as error:
        job(**changes)
    assert why in str(error.value)


def test_a_private_job_chooses_nothing_and_is_projected():
    one = job(privacy=PRIVATE)
    assert (one.evaluation.validation_fraction, one.method.projection, one.examples_per_image) == (0.0, 256, 1)
    assert job_from_json(one.canonical_json()) == one
    assert job().evaluation.validation_fraction == 0.1
    assert job(privacy=PRIVATE, method="dp-gd").method.rounds == 80


def test_who_makes_the_noise():
    assert [DifferentialPrivacy(epsilon=1).honest(threshold) for threshold in (2, 3, 4, 14)] == [1, 2, 3, 13]
    assert DifferentialPrivacy(epsilon=1, colluding=2).honest(14) == 11
    assert DifferentialPrivacy(epsilon=1, colluding=9).honest(3) == 1
    assert DifferentialPrivacy(epsilon=1, noise="own").honest(14) == 1


@pytest.mark.parametrize(
    "method", [{"name": "analytic"}, {"name": "dp-gd"}, {"name": "dp-gd", "rounds": 7, "clip": 2.0}]
)
@pytest.mark.parametrize("epsilon", [0.5, 3.0])
@pytest.mark.parametrize("threshold", [2, 4, 14])
def test_all_noised_answers_of_a_job_spend_its_epsilon(method, epsilon, threshold):
    one = job(method=method, privacy={**SECURE, "differential_privacy": {"epsilon": epsilon}})
    honest = one.privacy.differential_privacy.honest(threshold)
    rounds = [("centre", 1.0, 1)]
    rounds += (
        [("noised-statistics", sensitivity_of(2), 1)]
        if one.method.analytic
        else [("gradient", one.method.clip, one.method.rounds)]
    )
    mus = []
    for kind, sensitivity, steps in rounds:
        question = Question(kind, 1 if kind == "gradient" else 0)
        # The honest hospitals' noise alone, against the sensitivity of sums that were rounded to the grid.
        sigma = noise_scale(one, question, threshold) * math.sqrt(honest)
        unit = sigma / math.sqrt(honest) / 2**20
        mus += [(sensitivity + unit * math.sqrt(released(question, one))) / sigma] * steps
    assert mus[0] ** 2 == pytest.approx(CENTRE_SHARE * composed(mus) ** 2, rel=1e-6)
    assert epsilon_of(composed(mus), 1e-5) == pytest.approx(epsilon, rel=1e-5)
    assert epsilon_of(composed(mus), 1e-5) <= epsilon * (1 + 1e-9)


def test_a_job_without_privacy_has_no_noise():
    with pytest.raises(ConfigError, match="has no differential privacy"):
        noise_scale(job(), Question("centre"), 2)
    assert sigma_with_rounding(1.0, 1.0, 100, 1) > 1.0


@pytest.mark.parametrize("kind", ["holdings", "statistics", "fit", "evaluate"])
def test_a_purpose_is_read_back(kind):
    one = job(method={"name": "fedavg", "warm_start": "analytic", "rounds": 9}, privacy=SECURE)
    digest = "ab" * 32
    known = {"fit": Question(kind, 7, digest=digest), "evaluate": Question(kind, 7, "test", 5, digest)}
    question = known.get(kind, Question(kind, digest=digest))
    assert Question.read(one, question.purpose, question.digest) == question
    assert layout_of(question, one, {}).length > 0


def test_shared_noise_is_less_for_each():
    one, own = (
        job(privacy={**SECURE, "differential_privacy": {"epsilon": 1, "noise": noise}}) for noise in ("shared", "own")
    )
    question = Question("noised-statistics")
    assert noise_scale(one, question, 5) == pytest.approx(noise_scale(own, question, 5) / 2, rel=1e-3)
