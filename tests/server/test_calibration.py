"""What is settled after the last round, and what is said where it cannot be."""

import dataclasses

import numpy as np
import pytest

from common.artifact import load_artifact
from common.candidates import TEMPERATURES, divided
from common.head import Standardisation
from common.metrics import count, derive, score_edges
from common.unlike import Spread, distance_bins
from server.checkpoint import load_checkpoint, save_checkpoint
from server.hooks import Hooks
from server.recorder import Recorder
from server.rounds import run_job

RULE = {"operating_point": {"class": "b", "sensitivity": 0.8}}


@pytest.fixture
def run(server_job, scripted, exchange_with, tmp_path):
    """A run of a hospital with examples (N, D) of two classes that overlap; returns outcome, artifact and hospital."""

    def make(images=(60, 60), seed=0, **changes):
        job = server_job(classes=["a", "b"], **changes)
        rng = np.random.default_rng(seed)

        def drawn(number):
            labels = np.repeat([0, 1], number)
            features = rng.normal(size=(len(labels), job.num_features)).astype(np.float32) + 3
            features[:, :4] += labels[:, None] * 0.8
            return features, labels

        parts = {"train": drawn(80), "validation": drawn(images), "test": drawn(20)}
        hospital = scripted(examples=parts)
        with Recorder(tmp_path / "run", job, "test") as recorder:
            outcome = run_job(
                job, exchange_with({"h": hospital}), Hooks(judged=[recorder.judged], checkpoint=[recorder.save])
            )
            recorder.finish(outcome)
        return outcome, load_artifact(tmp_path / "run" / "model.safetensors"), hospital, parts

    return make


SMALL = {
    "backbone": {"name": "mobilenet_v2", "weights": "random"},
    "features": {"stages": ["features.3"], "pool": ["mean"]},
}
"""24 features."""


def test_the_head_of_rounds_is_calibrated_by_the_validation_counts(run):
    outcome, found, _, parts = run(method={"name": "fedavg", "rounds": 2}, evaluation=RULE, **SMALL)
    features, labels = parts["validation"]
    given = found.manifest.calibration
    probabilities = found.model.head.probabilities(features)
    assert given.images == 120
    assert given.ece == pytest.approx(derive(count(probabilities, labels)).ece, abs=1e-3)
    raw = divided(found.model.head, 1 / given.temperature)
    assert given.ece_before == pytest.approx(derive(count(raw.probabilities(features), labels)).ece, abs=1e-3)
    assert given.temperature in TEMPERATURES
    point = found.manifest.operating_point
    assert point.threshold in score_edges()
    assert point.found_sensitivity == pytest.approx((probabilities[labels == 1, 1] >= point.threshold).mean(), abs=0.02)
    assert found.manifest.missing == {}
    # No sums of products here: the length of the standardised vector.
    assert (found.manifest.unlike.directions, found.spread.axes.shape[0]) == (0, 0)
    assert outcome.bedside.unlike == found.manifest.unlike


def test_the_closed_form_gives_directions_and_the_limit_is_that_of_its_distances(run):
    _, found, hospital, parts = run(method="analytic", evaluation=RULE, **SMALL)
    wide = parts["train"][0].astype(np.float64)
    assert found.spread.axes.shape == (23, 24)
    distances = found.spread.squared_distances(parts["validation"][0])
    limit = found.manifest.unlike
    assert (distances > limit.distance).mean() <= limit.false_alarms <= 0.03
    assert found.spread.squared_distances(parts["train"][0]).mean() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(found.spread.mean, wide.mean(axis=0), rtol=1e-3)
    assert hospital.asked[-4:] == ["evaluate", "evaluate", "distances", "evaluate"]


def test_what_too_few_patients_cannot_settle_is_missing_with_the_reason(run):
    _, found, *_ = run(images=(3, 2), evaluation=RULE, **SMALL)
    assert found.manifest.operating_point is found.manifest.unlike is None
    assert set(found.manifest.missing) == {"operating_point", "unlike"}
    assert (
        "takes 4 validation images of b or more, better told apart; there are 2"
        in found.manifest.missing["operating_point"]
    )
    assert "takes 33 validation images, there are 5" in found.manifest.why_missing("unlike")
    assert found.spread is not None


def test_without_a_rule_there_is_no_operating_point_and_no_question_for_it(run):
    _, found, hospital, _ = run(method="analytic", **SMALL)
    assert "evaluation.operating_point" in found.manifest.missing["operating_point"]
    assert found.manifest.calibration.temperature in TEMPERATURES
    assert hospital.asked[-3:] == ["evaluate", "distances", "evaluate"]


def test_distances_that_are_not_of_the_declared_images_are_dropped(server_job, scripted, exchange_with):
    class Lying(scripted):
        def _distances(self, job, request):
            reply = super()._distances(job, request)
            reply.arrays["distances"][0, 0] += 1
            return reply

    outcome = run_job(server_job(), exchange_with({"a": Lying(), "b": scripted()}))
    assert [(one.hospital, one.phase) for one in outcome.failures] == [("a", "distances")]
    assert "not those of the validation images" in outcome.failures[0].reason


def test_the_spread_survives_in_the_checkpoint(run, tmp_path):
    run(method="analytic", **SMALL)
    path = tmp_path / "run" / "checkpoints" / "last.safetensors"
    state = load_checkpoint(path)
    assert state.spread.axes.shape == (23, 24)
    save_checkpoint(tmp_path / "without", dataclasses.replace(state, spread=None))
    assert load_checkpoint(tmp_path / "without").spread is None


def test_distances_are_those_of_raw_features():
    rng = np.random.default_rng(0)
    x = rng.normal(5, 3, (50, 6)).astype(np.float32)
    wide = x.astype(np.float64)
    spread = Spread.diagonal(50, wide.sum(0), (wide**2).sum(0))
    z = Standardisation.from_sums(50, wide.sum(0), (wide**2).sum(0)).apply(x)
    expected = distance_bins((z.astype(np.float64) ** 2).mean(axis=1))
    assert np.abs(distance_bins(spread.squared_distances(x)) - expected).max() <= 1
