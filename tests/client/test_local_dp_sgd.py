"""Local DP-SGD against plain training, against the project's own clipped sums, and against Opacus's accountants."""

import math
import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
import torch

from client.training import Examples, train_head
from common.dp.gradient_descent import clipped_gradient_sum, products_of
from common.dp.per_patient import Patients
from common.errors import ConfigError, DataError
from common.head import Head
from common.methods import LocalTraining

pytest.importorskip("opacus")
local_dp_sgd = pytest.importorskip("client.local_dp_sgd")
LocalDpSgd, noise_needed = local_dp_sgd.LocalDpSgd, local_dp_sgd.noise_needed
train_head_privately = local_dp_sgd.train_head_privately

RNG = np.random.default_rng(4)
N, D, C = 40, 6, 3
LABELS = RNG.integers(0, C, N)
FEATURES = (RNG.normal(size=(N, D)) + 2 * np.eye(C, D)[LABELS]).astype(np.float32)
IDS = [str(one) for one in RNG.integers(0, 20, N)]
START = Head(RNG.normal(size=(C, D)).astype(np.float32), RNG.normal(size=C).astype(np.float32))
EXACT = {"noise_multiplier": 0.0, "clip": math.inf, "lr": 1.0}


def seeded(seed):
    return np.random.default_rng(seed).bytes


def moved(private, features=FEATURES, labels=LABELS, ids=IDS, start=START, number=1.0, seed=1):
    """What one round adds to the head (C, D + 1), the bias last."""
    head = train_head_privately(start, features, labels, Patients.of(ids), private, number, seeded(seed))
    weight, bias = head.weight.astype(float) - start.weight, head.bias.astype(float) - start.bias
    return np.concatenate([weight, bias[:, None]], axis=1)


def test_without_noise_and_clip_it_is_plain_training():
    local = LocalTraining(10, 0.2, N, "sgd", 0.9, 0.0, "none", 0.0)
    plain = train_head(START, Examples(FEATURES, LABELS), local, seed=3).head
    private = LocalDpSgd(0.0, math.inf, lr=0.2, steps=10, momentum=0.9)
    found = train_head_privately(START, FEATURES, LABELS, Patients.of([str(one) for one in range(N)]), private, N)
    assert found.weight.dtype == np.float32
    assert found.distance(plain) < 1e-5
    assert found.distance(START) > 0.5


@pytest.mark.parametrize("clip", [0.3, 2.0, math.inf])
def test_a_step_is_the_project_s_own_clipped_sum(clip):
    own = clipped_gradient_sum(START, FEATURES, LABELS, products_of(FEATURES, Patients.of(IDS)), clip)
    assert moved(LocalDpSgd(0.0, clip, lr=1.0)) == pytest.approx(-own, abs=1e-5)


def test_in_parts_it_is_the_same(monkeypatch):
    whole = moved(LocalDpSgd(0.0, 0.5, lr=1.0))
    monkeypatch.setattr(local_dp_sgd, "_AT_ONCE", 3)
    assert moved(LocalDpSgd(0.0, 0.5, lr=1.0)) == pytest.approx(whole, abs=1e-6)


def test_a_patient_moves_a_step_by_at_most_the_clip():
    private = LocalDpSgd(0.0, 0.4, lr=1.0)
    whole, found = moved(private), []
    for name in set(IDS):
        kept = np.array([one != name for one in IDS])
        rest = moved(private, FEATURES[kept], LABELS[kept], [one for one in IDS if one != name])
        found.append(np.linalg.norm(whole - rest))
    assert max(found) == pytest.approx(0.4, rel=1e-4)


def test_images_of_one_patient_are_bounded_as_one():
    private = LocalDpSgd(0.0, 0.4, lr=1.0)
    once = moved(private, FEATURES[:1], LABELS[:1], ["a"])
    assert np.linalg.norm(once) == pytest.approx(0.4, rel=1e-4)
    repeated = moved(private, np.repeat(FEATURES[:1], 30, axis=0), np.repeat(LABELS[:1], 30), ["a"] * 30)
    assert repeated == pytest.approx(once, abs=1e-6)
    unlike = moved(private, FEATURES[:9], LABELS[:9], ["a"] * 9)
    assert np.linalg.norm(unlike) <= 0.4 * (1 + 1e-6)


def test_the_sum_is_divided_by_the_number_given_and_the_rate():
    plain = moved(LocalDpSgd(0.0, 0.4, lr=1.0))
    # An entropy of zeros draws everyone, whatever the rate.
    private = LocalDpSgd(0.0, 0.4, lr=1.0, sampling_rate=0.25)
    head = train_head_privately(START, FEATURES, LABELS, Patients.of(IDS), private, 50.0, bytes)
    assert head.weight - START.weight == pytest.approx(plain[:, :-1] / (0.25 * 50), abs=1e-6)


@pytest.mark.parametrize(("rate", "seed"), [(1.0, 11), (1e-12, 12)])
def test_the_noise_has_the_variance_it_should_also_when_nobody_is_drawn(rate, seed):
    features = np.zeros((2, 2000), np.float32)
    quiet = LocalDpSgd(0.0, 0.5, lr=1.0, sampling_rate=rate)
    loud = LocalDpSgd(3.0, 0.5, lr=1.0, sampling_rate=rate)
    ids, start = ["a", "b"], Head.zeros(2, 2000)
    rest = (features, np.array([0, 0]), ids, start, 1.0)
    # number 1: what is added is the noise over the rate.
    noise = (moved(loud, *rest, seed=seed) - moved(quiet, *rest, seed=seed)) * rate
    squares = ((noise / (3.0 * 0.5)) ** 2).ravel()
    # Chi-square with n degrees of freedom has variance 2 n.
    assert abs(squares.sum() - squares.size) < 3.5 * math.sqrt(2 * squares.size)
    assert abs(np.sqrt(squares.size) * noise.mean() / 1.5) < 3.5


def test_noise_comes_from_the_entropy_alone():
    private = LocalDpSgd(1.0, 0.5, lr=1.0, steps=3, sampling_rate=0.5)
    assert (moved(private) == moved(private)).all()
    assert not (moved(private) == moved(private, seed=2)).all()
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(train_head_privately(START, FEATURES, LABELS, Patients.of(IDS), private, 20.0))
    assert found[0].distance(found[1]) > 0.01


@pytest.mark.parametrize(("multiplier", "rate", "steps", "rounds"), [(1.0, 0.05, 10, 20), (2.0, 0.25, 5, 10)])
def test_opacus_s_accountants_agree_to_one_percent(multiplier, rate, steps, rounds):
    accounting = pytest.importorskip("dp_accounting")
    accountants = pytest.importorskip("opacus.accountants")
    private = LocalDpSgd(multiplier, 1.0, 0.1, steps, rate)
    spent = private.spent(rounds, 1e-5)
    numerical, renyi = accountants.PRVAccountant(), accountants.RDPAccountant()
    numerical.history = renyi.history = [(multiplier, rate, steps * rounds)]
    assert spent == pytest.approx(numerical.get_epsilon(1e-5, eps_error=0.005), rel=0.01)
    own = accounting.rdp.RdpAccountant()
    step = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(multiplier))
    own.compose(accounting.SelfComposedDpEvent(step, steps * rounds))
    assert own.get_epsilon(1e-5) == pytest.approx(renyi.get_epsilon(1e-5), rel=0.01)
    assert spent < renyi.get_epsilon(1e-5)


def test_a_step_counts_once_in_opacus_s_accountant_too(monkeypatch):
    accountants = pytest.importorskip("opacus.accountants")
    account = accountants.RDPAccountant()
    made = local_dp_sgd._SecurelyNoised.__init__

    def hooked(self, *given, **named):
        made(self, *given, **named)
        self.attach_step_hook(account.get_optimizer_hook_fn(0.5))

    monkeypatch.setattr(local_dp_sgd._SecurelyNoised, "__init__", hooked)
    monkeypatch.setattr(local_dp_sgd, "_AT_ONCE", 3)
    moved(LocalDpSgd(1.5, 0.5, lr=1.0, steps=4, sampling_rate=0.5))
    assert account.history == [(1.5, 0.5, 4)]


@pytest.mark.parametrize(("rate", "off"), [(1.0, 1e-6), pytest.param(0.3, 0.01, marks=pytest.mark.slow)])
def test_the_noise_needed_spends_epsilon(rate, off):
    pytest.importorskip("dp_accounting")
    private = LocalDpSgd(noise_needed(3.0, 1e-5, 40, rate, 0.2), 1.0, 0.1, 4, rate)
    assert private.spent(10, 1e-5, 0.2) == pytest.approx(3.0, rel=off)
    assert private.spent(10, 1e-5, 0.2) <= 3.0 * (1 + 1e-6)
    assert LocalDpSgd(**EXACT).spent(1, 1e-5) == math.inf


def test_what_protects_nobody_is_refused():
    for bad in ({"noise_multiplier": -1.0}, {"clip": 0.0}, {"sampling_rate": 0.0}, {"sampling_rate": 1.5}):
        with pytest.raises(ConfigError, match="private training"):
            LocalDpSgd(**{**EXACT, **bad})
    with pytest.raises(ConfigError, match="clip"):
        LocalDpSgd(1.0, math.inf, 0.1)
    with pytest.raises(ConfigError, match="noised one"):
        moved(LocalDpSgd(**EXACT), number=0.0)
    with pytest.raises(ConfigError, match="other releases"):
        noise_needed(1.0, 1e-5, 10, 1.0, other_mu=5.0)
    with pytest.raises(DataError, match="nothing left"):
        moved(LocalDpSgd(1.0, 0.5, 1.0), features=FEATURES * np.float32(np.nan))


def test_without_opacus_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)
    spec = spec_from_file_location("without_opacus", local_dp_sgd.__file__)
    with pytest.raises(ConfigError, match=r"consilium\[dp\]"):
        spec.loader.exec_module(module_from_spec(spec))
