"""Operating points: the rule by hand, what is promised to new patients, jobs with and without one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.job import Evaluation, job_from_json, parse_job
from common.metrics import count
from common.operating_point import OperatingPoint, OperatingRule, Unkept, operating_point

JOB = {"name": "j", "classes": ["well", "ill"], "backbone": {"name": "mobilenet_v2", "weights": "random"}}


def rule(**wish):
    return OperatingRule(**{"class": "ill", **wish})


def counts_of(ill, well):
    """Counts of patients with these probabilities of being ill."""
    p = np.concatenate([ill, well])
    labels = np.repeat([1, 0], [len(ill), len(well)])
    return count(np.stack([1 - p, p], 1), labels)


def test_sensitivity_by_hand():
    """Of 19 ill patients one may be below: (1 + 1) / 20 = 0.1."""
    ill = np.array([0.1, *np.linspace(0.5, 0.9, 18)])
    found = operating_point(rule(sensitivity=0.9), ["well", "ill"], counts_of(ill, np.linspace(0.01, 0.3, 9)))
    assert isinstance(found, OperatingPoint)
    assert 0.47 < found.threshold <= 0.5
    assert (found.sensitivity, found.found_sensitivity) == (pytest.approx(0.9), pytest.approx(18 / 19))
    assert (found.specificity, found.found_specificity) == (pytest.approx(0.9), 1.0)
    assert (found.positives, found.negatives, found.rule) == (19, 9, "sensitivity 0.9 for ill")


def test_specificity_by_hand():
    well = np.array([0.8, *np.linspace(0.05, 0.2, 18)])
    found = operating_point(rule(specificity=0.9), ["well", "ill"], counts_of(np.linspace(0.3, 0.9, 9), well))
    assert isinstance(found, OperatingPoint)
    assert 0.2 < found.threshold < 0.23
    assert (found.specificity, found.found_specificity) == (pytest.approx(0.9), pytest.approx(18 / 19))
    assert found.found_sensitivity == 1.0


@pytest.mark.parametrize(
    ("wish", "ill", "well", "words"),
    [
        ({"sensitivity": 0.95}, 0, 20, "no validation image shows ill"),
        ({"specificity": 0.95}, 20, 0, "no validation image shows anything but ill"),
        ({"sensitivity": 0.95}, 18, 20, "takes 19 validation images of ill or more, better told apart; there are 18"),
        ({"specificity": 0.9}, 20, 8, "takes 9 validation images without it or more, better told apart; there are 8"),
    ],
)
def test_what_too_few_patients_cannot_promise(wish, ill, well, words):
    found = operating_point(
        rule(**wish), ["well", "ill"], counts_of(np.linspace(0.6, 0.9, ill), np.linspace(0.1, 0.4, well))
    )
    assert isinstance(found, Unkept)
    assert words in found.reason


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0.8, 0.9, 0.95]))
def test_a_promise_is_kept_by_those_counted(seed, wish):
    rng = np.random.default_rng(seed)
    ill, well = 1 / (1 + np.exp(-rng.normal(1.5, 1, 80))), 1 / (1 + np.exp(-rng.normal(-1.5, 1, 80)))
    found = operating_point(rule(sensitivity=wish), ["well", "ill"], counts_of(ill, well))
    assert isinstance(found, OperatingPoint)
    assert found.found_sensitivity == pytest.approx(float((ill >= found.threshold).mean()))
    assert found.found_specificity == pytest.approx(float((well < found.threshold).mean()))
    assert found.found_sensitivity > found.sensitivity >= wish


def test_new_patients_are_missed_no_more_often_than_promised():
    """Over many draws of validation patients, as a mean: the promise is not broken."""
    rng = np.random.default_rng(0)
    missed, promised = [], []
    for _ in range(200):
        draw = lambda mean, size: 1 / (1 + np.exp(-rng.normal(mean, 1, size)))  # noqa: E731
        found = operating_point(rule(sensitivity=0.9), ["well", "ill"], counts_of(draw(1, 60), draw(-1, 60)))
        assert isinstance(found, OperatingPoint)
        missed.append(float((draw(1, 400) < found.threshold).mean()))
        promised.append(1 - found.sensitivity)
    assert np.mean(missed) <= np.mean(promised) + 0.005
    assert np.mean(missed) > 0.05


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"class": "ill"}, "either sensitivity or specificity"),
        ({"class": "ill", "sensitivity": 0.9, "specificity": 0.9}, "either sensitivity or specificity"),
        ({"class": "ill", "sensitivity": 1.0}, "less than 1"),
        ({"class": "il", "sensitivity": 0.9}, "did you mean 'ill'"),
    ],
)
def test_a_rule_that_says_nothing_clear_is_refused(wish, words):
    with pytest.raises(ConfigError, match=words):
        parse_job({**JOB, "evaluation": {"operating_point": wish}})


def test_a_job_with_a_rule_has_its_own_id_and_reads_back_and_one_without_keeps_its_text():
    with_rule = parse_job({**JOB, "evaluation": {"operating_point": {"class": "ill", "sensitivity": 0.95}}})
    plain = parse_job(JOB)
    assert with_rule.job_id != plain.job_id
    assert job_from_json(with_rule.canonical_json()) == with_rule
    assert '"operating_point":{"class":"ill","sensitivity":0.95}' in with_rule.canonical_json()
    assert "operating_point" not in plain.canonical_json()
    assert Evaluation().model_dump() == {
        "test_fraction": 0.2,
        "validation_fraction": 0.1,
        "select_by": "auroc",
        "cross_site": False,
        "groups": (),
    }


def test_a_private_job_has_none():
    private = {"secure_aggregation": True, "differential_privacy": {"epsilon": 3}}
    with pytest.raises(ConfigError, match="operating_point: it is chosen on validation patients"):
        parse_job({**JOB, "privacy": private, "evaluation": {"operating_point": {"class": "ill", "sensitivity": 0.95}}})
