"""Many heads at once against one by one."""

from dataclasses import replace

import numpy as np
import pytest

from client.training import Examples, train_head
from client.training_together import Exercise, can_train_together, train_together
from common.head import Head
from common.job import Method

SIZES = (1, 7, 16, 17, 30, 33, 90)
"""One example, one batch, a last batch of one, and sizes far apart."""

METHODS = {
    "plain": Method(name="fedavg", local_epochs=2, batch_size=16, lr=0.05, momentum=0.0, weight_decay=0.0),
    "momentum and weight decay": Method(name="fedavg", local_epochs=3, batch_size=16, lr=0.05),
    "proximal": Method(name="fedprox", proximal_mu=0.5, local_epochs=3, batch_size=16, lr=0.05),
    "class weights": Method(name="fedavg", class_weights="balanced", local_epochs=2, batch_size=16, lr=0.05),
    "large batches": Method(name="fedavgm", local_epochs=2, batch_size=64, lr=0.05),
}


def exercises(method: Method, features: int = 20, classes: int = 3, sizes=SIZES) -> list[Exercise]:
    rng = np.random.default_rng(0)
    start = Head(rng.normal(0, 0.1, (classes, features)).astype(np.float32), np.zeros(classes, np.float32))
    found = []
    for seed, size in enumerate(sizes):
        labels = rng.integers(0, classes, size)
        data = (rng.normal(size=(size, features)) + 0.4 * labels[:, None]).astype(np.float32)
        found.append(Exercise(start, Examples(data, labels), method.local, seed))
    return found


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_together_is_one_by_one_to_1e_5(method):
    some = exercises(method)
    for one, found in zip(some, train_together(some), strict=True):
        alone = train_head(one.start, one.examples, one.local, one.seed)
        np.testing.assert_allclose(found.head.weight, alone.head.weight, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.head.bias, alone.head.bias, rtol=1e-5, atol=1e-5)
        assert found.head.distance(one.start) > 1e-4
        assert found.loss_sum == pytest.approx(alone.loss_sum, rel=1e-5)
        assert found.steps == alone.steps


def test_equal_arguments_give_equal_bits_and_are_left_alone():
    some = exercises(METHODS["proximal"])
    before = some[0].start.weight.tobytes(), some[3].examples.features.tobytes()
    first, second = train_together(some), train_together(some)
    assert [one.head.weight.tobytes() for one in first] == [one.head.weight.tobytes() for one in second]
    assert (some[0].start.weight.tobytes(), some[3].examples.features.tobytes()) == before


def test_a_result_keeps_no_other_alive():
    """Each head has memory of its own: a hospital that keeps its head does not keep those of all the others."""
    assert all(one.head.weight.base is None for one in train_together(exercises(METHODS["plain"])))


def test_what_is_not_plain_is_not_taken():
    plain = exercises(METHODS["plain"])[0]
    adam = replace(plain, local=Method(name="fedavg", optimizer="adam").local)
    corrected = replace(plain, correction={"weight": plain.start.weight, "bias": plain.start.bias})
    empty = replace(plain, examples=Examples(np.zeros((0, 20), np.float32), np.zeros(0, np.int64)))
    assert [can_train_together(one) for one in (plain, adam, corrected, empty)] == [True, False, False, False]
    for one in (adam, corrected, empty, replace(plain, local=METHODS["proximal"].local)):
        with pytest.raises(ValueError, match="plain and have the same options"):
            train_together([plain, one])
