"""What a job may ask for its protection, what that rules out, and that its noised answers spend its epsilon and no more."""

import math

import pytest

from common.dp.accounting import CENTRE_SHARE
from common.dp.gaussian import composed, epsilon_of, mu_of
from common.dp.noise import sigma_with_rounding
from common.dp.noisy_sums import sensitivity_of
from common.errors import ConfigError
from common.job import job_from_json, parse_job
from common.privacy import DifferentialPrivacy
from common.private_release import noise_scale, spent_after, step_multiplier
from common.summed import Question, layout_of, released

SECURE = {"secure_aggregation": True}
PRIVATE = {**SECURE, "differential_privacy": {"epsilon": 3}}
HOSPITALS = {"unit": "hospital", "hospitals": 100}


def of(**budget):
    return {"differential_privacy": {"epsilon": 3, **budget}}


OWN = of(noise="own")


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
        ({"privacy": PRIVATE, "method": "fedavg"}, "noise: expected own, got shared"),
        *(({"privacy": OWN, "method": name}, "has no private form") for name in
          ("fedprox", "scaffold", "fednova", "fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan")),
        ({"privacy": OWN, "method": "analytic"}, "secure_aggregation: true as well"),
        ({"privacy": OWN, "method": {"name": "fedavg", "warm_start": "analytic"}}, "write warm_start: none"),
        ({"privacy": OWN, "method": {"name": "fedavg", "optimizer": "adam"}}, "expected sgd, got adam"),
        ({"privacy": OWN, "method": {"name": "fedavg", "weight_decay": 0.1}}, "weight_decay: expected 0, got 0.1"),
        ({"privacy": OWN, "method": {"name": "fedavg", "batch_size": 8}}, "leave method.batch_size out"),
        ({"privacy": OWN, "method": {"name": "fedavg", "class_weights": "balanced"}}, "class_weights"),
        ({"privacy": OWN, "method": {"name": "fedavg", "patience": 3}}, "method.patience"),
        ({"privacy": OWN, "method": "fedavg", "evaluation": {"cross_site": True}}, "head without noise"),
        ({"privacy": OWN, "method": "fedavg", "personalisation": {}}, "leave personalisation out"),
        *(({"privacy": one, "duplicates": "check", **how}, "write duplicates: ignore") for one, how in
          ((SECURE, {}), (OWN, {"method": "fedavg"}), (of(**HOSPITALS), {"method": "fedavg"}))),
        ({"privacy": OWN, "method": "fedavg", "evaluation": {"validation_fraction": 0.1}}, "expected 0, got 0.1"),
        ({"privacy": OWN, "method": "fedavg", "tune": {"part": "full"}}, "tune: expected head"),
        ({"privacy": of(noise="own", hospitals=9), "method": "fedavg"}, "for unit: hospital only"),
        ({"privacy": of(noise="own", sampling_rate=1.1), "method": "fedavg"}, "sampling_rate"),
        ({"privacy": of(noise="coordinator"), "method": "fedavg"}, "noise: expected own, got coordinator"),
        ({"privacy": {**PRIVATE, **of(clip=1.0)}, "method": "dp-gd"}, "its clip is method.clip"),
        ({"privacy": {**SECURE, **of(noise="coordinator")}}, "expected shared or own"),
        ({"privacy": of(unit="hospital"), "method": "fedavg"}, "hospitals: expected how many are registered"),
        ({"privacy": of(**HOSPITALS, noise="own"), "method": "fedavg"}, "noise: expected coordinator"),
        ({"privacy": {**SECURE, **of(**HOSPITALS)}, "method": "fedavg"}, "write secure_aggregation: false"),
        *(({"privacy": of(**HOSPITALS), "method": name}, f"not with method {name}") for name in
          ("analytic", "dp-gd", "scaffold", "fednova", "fedmedian", "trimmed-mean", "krum", "multikrum", "bulyan")),
        ({"privacy": of(**HOSPITALS), "method": "fedavg", "quorum": {"min_hospitals": 101}}, "at least quorum.min_hospitals"),
        ({"privacy": of(**HOSPITALS, sampling_rate=0.123), "method": "fedavg"}, "got 12.3 (0.123 x 100)"),
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


def test_what_a_job_with_noise_of_its_own_leaves_open():
    one = job(privacy=OWN, method="fedavg")
    budget, method = one.privacy.differential_privacy, one.method
    assert (one.noised_locally, one.hospitals_protected, one.examples_per_image) == (True, False, 1)
    assert (budget.clip, budget.sampling_rate, method.lr, method.local_epochs, method.rounds) == (0.7, 1.0, 2.0, 4, 20)
    assert job(privacy=OWN, method={"name": "fedavg", "lr": 0.5}).method.lr == 0.5
    assert job_from_json(one.canonical_json()) == one
    central = job(privacy=of(**HOSPITALS), method="fedavg")
    assert (central.noised_locally, central.hospitals_protected) == (False, True)
    assert (central.privacy.differential_privacy.noise, central.method.lr) == ("coordinator", 0.5)
    assert job_from_json(central.canonical_json()) == central
    assert not job(privacy=PRIVATE).noised_locally


@pytest.mark.parametrize(
    ("privacy", "method", "steps", "rate", "centre"),
    [
        (OWN, {"name": "fedavg", "rounds": 10}, 40, 1.0, CENTRE_SHARE),
        pytest.param(
            *(of(noise="own", sampling_rate=0.3), {"name": "fedadam", "rounds": 5, "local_epochs": 2}),
            *(35, 0.3, CENTRE_SHARE),
            marks=pytest.mark.slow,
        ),
        (of(**HOSPITALS), {"name": "fedavg", "rounds": 15}, 15, 1.0, 0.0),
        pytest.param(
            *(of(**HOSPITALS, sampling_rate=0.2), {"name": "fedprox", "rounds": 15}, 15, 0.2, 0.0),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_an_independent_accountant_agrees_to_one_percent(privacy, method, steps, rate, centre):
    """Rounds and centre together, by the distribution of the privacy loss in dp-accounting, from the job's noise alone."""
    library = pytest.importorskip("dp_accounting")
    one = job(privacy=privacy, method=method)
    account, event = library.pld.PLDAccountant(), library.GaussianDpEvent(step_multiplier(one))
    account.compose(event if rate == 1 else library.PoissonSampledDpEvent(rate, event), steps)
    if centre:
        # The centre's noise as the hospital adds it, over its sensitivity.
        account.compose(library.GaussianDpEvent(noise_scale(one, Question("centre"), 2)))
    assert account.get_epsilon(1e-5) == pytest.approx(3.0, rel=0.01)
    assert spent_after(one, one.method.rounds) == pytest.approx(account.get_epsilon(1e-5), rel=0.01)
    spent = [spent_after(one, rounds) for rounds in range(one.method.rounds + 1)]
    assert spent == sorted(spent)
    assert spent[-1] <= 3.0 * (1 + 1e-6)


def test_every_private_job_says_what_it_has_spent():
    one = job(method={"name": "dp-gd", "rounds": 8}, privacy=PRIVATE)
    assert spent_after(one, 8) == pytest.approx(3.0, rel=1e-6)
    assert spent_after(one, 0) == pytest.approx(epsilon_of(math.sqrt(CENTRE_SHARE) * mu_of(3.0, 1e-5), 1e-5))
    with pytest.raises(ConfigError, match="no differential privacy"):
        spent_after(job(), 1)
