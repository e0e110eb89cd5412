"""The sums that a hospital sends: what they are, and what an attacker reads from them."""

import numpy as np

from client.statistics import sums_of
from client.training import Examples
from common.projection import projection_of


def examples(labels: list[int], features: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(len(labels), features)).astype(np.float32), np.array(labels))


def test_sums_by_hand(job):
    found = sums_of(Examples(np.array([[1, 2], [3, -1], [0, 5]], np.float32), np.array([0, 1, 1])), job())
    assert found.gram.tolist() == [[10, -1, 4], [-1, 30, 6], [4, 6, 3]]
    assert found.class_sums.tolist() == [[1, 3], [2, 4], [1, 2]]


def test_sums_over_one_image_are_its_features(job):
    """An attack: whoever sees the sums of a class with one image has that image's features, to the last bit of float32."""
    attacked = examples([0, 0, 0, 1], 6)
    class_sums = sums_of(attacked, job()).class_sums.astype(np.float32)
    np.testing.assert_array_equal(class_sums[:-1, 1], attacked.features[3])


def test_the_gram_matrix_of_few_examples_spans_them(job):
    """An attack: with fewer examples than features every example lies in the space of the leading eigenvectors."""
    attacked = examples([0, 1, 0, 1], 40)
    gram = sums_of(attacked, job()).gram
    values, vectors = np.linalg.eigh(gram)
    space = vectors[:, values > 1e-6]
    assert space.shape[1] == 4
    rows = np.concatenate([attacked.features, np.ones((4, 1))], axis=1)
    np.testing.assert_allclose(rows @ space @ space.T, rows, atol=1e-5)


def test_projected_sums_are_those_of_projected_features(job):
    projected = job(method={"name": "analytic", "projection": 8, "stage_subsets": False}, features={"stages": "last"})
    whole = examples([0, 1, 1, 0, 1], 512)
    small = Examples((whole.features @ projection_of(projected)).astype(np.float32), whole.labels)
    found, expected = sums_of(whole, projected), sums_of(small, job())
    assert found.gram.shape == (9, 9)
    np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-6)
    np.testing.assert_allclose(found.class_sums, expected.class_sums, rtol=1e-6)
