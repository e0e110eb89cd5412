"""A hospital's own head, and the global one trained on for its patients."""

import numpy as np

from client.own_models import count_head, own_head, personal_head
from client.training import Examples
from common.head import Head
from common.job import Personalisation
from common.metrics import derive


def blobs(n: int, apart: float, seed: int, classes: int = 2) -> Examples:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    features = rng.normal(size=(n, 512))
    features[:, :20] += apart / 4 * labels[:, None]
    return Examples(features.astype(np.float32), labels)


def parts(apart: float = 3.0) -> dict[str, Examples]:
    return {"train": blobs(200, apart, 0), "validation": blobs(60, apart, 1), "test": blobs(200, apart, 2)}


def test_the_own_head_has_learnt_its_own_patients(job):
    own = own_head(job(), parts())
    assert derive(count_head(own, parts()["test"])).auroc > 0.9


def test_it_is_calibrated_on_the_hospital_s_own_validation_patients(job):
    found = parts()
    own = own_head(job(), found)
    loss = derive(count_head(own, found["validation"])).log_loss
    for factor in (0.5, 2.0):
        other = Head(own.weight * np.float32(factor), own.bias * np.float32(factor))
        assert derive(count_head(other, found["validation"])).log_loss > loss


def test_a_hospital_of_one_class_has_a_head_that_says_so(job):
    train = blobs(50, 0.0, 0)
    single = Examples(train.features, np.ones(50, np.int64))
    own = own_head(job(), {"train": single, "validation": Examples(train.features[:9], np.ones(9, np.int64))})
    assert np.isfinite(own.weight).all()
    assert (own.probabilities(train.features)[:, 1] > 0.9).all()


def test_without_validation_patients_there_is_a_head_all_the_same(job):
    nobody = Examples(np.zeros((0, 512), np.float32), np.zeros(0, np.int64))
    found = derive(count_head(own_head(job(), {**parts(), "validation": nobody}), parts()["test"]))
    assert found.auroc > 0.9
    # Calibrated from the sums alone: far from the loss of a head that trusts what it has fitted.
    assert found.log_loss < 0.5


def test_personalising_moves_the_head_towards_the_hospital(job):
    start, train = Head.zeros(2, 512), blobs(200, 3.0, 0)
    personal = personal_head(start, train, Personalisation(epochs=5, lr=0.01), seed=3)
    assert derive(count_head(personal, train)).log_loss < derive(count_head(start, train)).log_loss
    again = personal_head(start, train, Personalisation(epochs=5, lr=0.01), seed=3)
    assert personal.weight.tobytes() == again.weight.tobytes()


def test_no_examples_give_no_counts():
    nobody = Examples(np.zeros((0, 512), np.float32), np.zeros(0, np.int64))
    assert count_head(Head.zeros(3, 512), nobody).n == 0
