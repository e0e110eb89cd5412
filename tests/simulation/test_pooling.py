"""A model judged at every hospital, where that means something."""

import pytest

from common.errors import FederationError
from common.head import Head
from common.model import Model
from simulation.pooling import Machine, judge


def test_a_model_is_judged_only_where_hospitals_share_its_network(job, phantoms, monkeypatch):
    """With batch normalisation of its own each hospital has another; none is asked."""
    monkeypatch.setattr("simulation.pooling.Hospital", lambda _: pytest.fail("a hospital was asked"))
    fedbn = job(tune={"part": "last-blocks", "batch_norm": "local"})
    model = Model(Head.zeros(2, fedbn.num_features))
    with pytest.raises(FederationError, match=r"tune\.batch_norm: local.*only by hospitals that trained it"):
        judge(model, fedbn, phantoms, 1, Machine())
