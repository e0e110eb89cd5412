import numpy as np
import pytest

from client.label_noise import FEWEST, doubts, probabilities_left_out
from client.left_out import left_out_scores


def blobs(seed=0, n=120, width=6, apart=3.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    features = rng.normal(size=(n, width)).astype(np.float32)
    features[:, 0] += apart * labels
    return features, labels


@pytest.mark.parametrize("width", [3, 60])
def test_left_out_scores_are_those_of_heads_that_never_saw_the_patient(width):
    """Wide and narrow: the two ways of decomposing agree with solving anew for every patient."""
    rng = np.random.default_rng(width)
    n, strength = 40, 0.3
    features = rng.normal(2.0, 3.0, (n, width)).astype(np.float32)
    labels, patients = rng.integers(0, 3, n), [f"p{number}" for number in rng.integers(0, 15, n)]
    (found,) = left_out_scores(features, labels, patients, 3, [strength])
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    f = np.concatenate([x, np.ones((n, 1))], axis=1).astype(np.float64)
    penalty = np.diag([strength * n] * width + [0.0])
    for patient in set(patients):
        left = np.array([one != patient for one in patients])
        weights = np.linalg.solve(f[left].T @ f[left] + penalty, f[left].T @ np.eye(3)[labels[left]])
        np.testing.assert_allclose(found[~left], f[~left] @ weights, atol=1e-4)


def test_a_constant_feature_is_passed_over():
    features, labels = blobs()
    features[:, 3] = 7.0
    (scores,) = left_out_scores(features, labels, [str(i) for i in range(120)], 2, [0.1])
    assert np.isfinite(scores).all()


def test_flipped_labels_are_named_first():
    features, labels = blobs(apart=6.0)
    flipped = [4, 17, 58, 77]
    noisy = labels.copy()
    noisy[flipped] = 1 - noisy[flipped]
    found = doubts(probabilities_left_out(features, noisy, [str(i) for i in range(120)], 2), noisy)
    assert {doubt.image for doubt in found} >= set(flipped)
    assert len(found) <= len(flipped) + 1
    assert found[0].sure
    assert all(doubt.likely == 1 - doubt.label for doubt in found)
    clean = doubts(probabilities_left_out(features, labels, [str(i) for i in range(120)], 2), labels)
    assert len([doubt for doubt in clean if doubt.sure]) <= 1


def test_a_flipped_patient_does_not_speak_for_himself():
    """All images of a patient are flipped: in folds by image they would confirm each other."""
    features, labels = blobs(apart=2.0)
    features[:8] = features[0]
    labels[:8] = 1 - labels[0]
    together = ["same" if i < 8 else str(i) for i in range(120)]
    one_by_one = [str(i) for i in range(120)]
    own = [probabilities_left_out(features, labels, some, 2)[0, labels[0]] for some in (together, one_by_one)]
    assert own[0] < own[1]


def test_rules_by_hand():
    p = np.array([[0.9, 0.1]] * 6 + [[0.2, 0.8]] * 5 + [[0.45, 0.55], [0.05, 0.95]])
    labels = np.array([0] * 6 + [1] * 5 + [0, 0])
    found = doubts(p, labels)
    # Images labelled 1 have 0.8 on average: 0.95 is sure, 0.55 is not.
    assert [(doubt.image, doubt.likely, doubt.sure) for doubt in found] == [(12, 1, True), (11, 1, False)]
    assert found[0].given == pytest.approx(0.05)


def test_a_class_of_few_images_is_not_judged():
    p = np.tile([0.1, 0.9], (10, 1))
    labels = np.array([1] * (10 - FEWEST + 1) + [0] * (FEWEST - 1))
    assert doubts(p, labels) == []
