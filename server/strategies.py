"""The arithmetic of each method, by Flower's own strategies, fed only with updates that have passed the guard.

scaffold and fednova, which Flower has not, are in `server.heterogeneity.py`. Flower's `Strategy.start` is not used:
our round loop (`server/rounds.py`) asks, checks and records; a strategy only combines. Methods that want the mean of
the updates alone (`Aggregator.mean_only`) get it as one update of all hospitals, summed exactly as the updates come
(`server/weighted_mean.py`). The others get all updates in the order of the hospitals' names and in float64. So the
order of arrival changes nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)
from flwr.serverapp.strategy.fedopt import FedOpt

from common.config_file import unknown
from common.drift import local_norm, own_control
from common.errors import ConfigError, FederationError
from common.head import Float64
from common.job import Job, Method
from common.methods import method_row
from common.model import Model
from server.heterogeneity import FedNova, Scaffold
from server.weighted_mean import WeightedMean

Arrays = Mapping[str, Float64]
LearningRates = Callable[[int], Callable[[str], float]]


@dataclass(frozen=True)
class Update:
    """What one hospital sent for one round; steps: of the optimizer, where the method wants them."""

    hospital: str
    model: Model
    examples: int
    steps: int = 1


STRATEGIES: Mapping[str, Callable[[Method, Mapping[str, int]], FedAvg | Scaffold | FedNova]] = MappingProxyType(
    {
        "fedavg": lambda *_: FedAvg(),
        "fedprox": lambda method, _: FedProx(proximal_mu=method.proximal_mu or 0.0),
        "fedadam": lambda method, _: FedAdam(
            eta=_set(method.server_lr), beta_1=_set(method.beta_1), beta_2=_set(method.beta_2), tau=_set(method.tau)
        ),
        "fedyogi": lambda method, _: FedYogi(
            eta=_set(method.server_lr), beta_1=_set(method.beta_1), beta_2=_set(method.beta_2), tau=_set(method.tau)
        ),
        "fedadagrad": lambda method, _: FedAdagrad(eta=_set(method.server_lr), tau=_set(method.tau)),
        "fedavgm": lambda method, _: FedAvgM(
            server_learning_rate=_set(method.server_lr), server_momentum=_set(method.server_momentum)
        ),
        "scaffold": lambda method, members: Scaffold(_set(method.server_lr), members),
        "fednova": lambda *_: FedNova(),
        "fedmedian": lambda *_: FedMedian(),
        "trimmed-mean": lambda method, _: FedTrimmedAvg(beta=_set(method.trim_fraction)),
        "krum": lambda method, _: Krum(num_malicious_nodes=method.malicious_hospitals or 0),
        "multikrum": lambda method, _: MultiKrum(
            num_malicious_nodes=method.malicious_hospitals or 0, num_nodes_to_select=method.hospitals_kept or 1
        ),
        "bulyan": lambda method, _: Bulyan(num_malicious_nodes=method.malicious_hospitals or 0),
    }
)
"""One row per iterative method of `common/methods.py`."""


def _set(value: float | None) -> float:
    """An option of this method: the job has filled in its default."""
    if value is None:
        raise ConfigError("method: an option has no value; parse the job with common.job.parse_job")
    return value


def hospitals_needed(method: Method) -> int:
    """The least number of updates the method can combine.

    Source: El Mhamdi et al. 2018, arXiv 1802.07927, section 4 (n >= 4 f + 3); Blanchard et al. 2017, section 4 (n >= 2 f + 3).
    """
    malicious = method.malicious_hospitals or 0
    by_method = {"bulyan": 4 * malicious + 3, "krum": 2 * malicious + 3, "multikrum": 2 * malicious + 3}
    return max(method_row(method.name).min_hospitals, by_method.get(method.name, 1))


def answers_needed(job: Job) -> int:
    """The least number of usable answers in a round."""
    return max(job.quorum.min_hospitals, hospitals_needed(job.method))


class Aggregator:
    """Combines the updates of a round into the next model; keeps what the method remembers between rounds."""

    def __init__(
        self, method: Method, members: Mapping[str, int] | None = None, lr_of: LearningRates | None = None
    ) -> None:
        """members: examples of each hospital that takes part. lr_of: learning rates in a round, by default the method's."""
        self._method = method
        self._lr_of = lr_of or (lambda _: lambda _: method.local.lr)
        if method.name not in STRATEGIES:
            raise ConfigError(unknown("method", method.name, list(STRATEGIES)))
        self._strategy = STRATEGIES[method.name](method, members or {})
        self._needed = hospitals_needed(method)
        self.mean_only = not method_row(method.name).single_updates

    def combine(self, server_round: int, current: Model, updates: Sequence[Update]) -> Model:
        """The next model from the current one and at least one update.

        Raises:
            FederationError: too few updates for the method.
        """
        if len(updates) < self._needed:
            raise FederationError(f"the method needs the updates of {self._needed} hospitals, got {len(updates)}")
        if self.mean_only:
            mean = WeightedMean()
            for update in updates:
                mean.add(update.model, update.examples)
            return self.combine_mean(server_round, current, mean)
        strategy, before = self._strategy, _float64(current)
        updates = sorted(updates, key=lambda update: update.hospital)
        models, examples = [_float64(update.model) for update in updates], [update.examples for update in updates]
        after: Arrays
        if isinstance(strategy, Scaffold):
            self._keep_controls(strategy, server_round, current, updates)
            after = strategy.combine(before, models, examples)
        elif isinstance(strategy, FedNova):
            norms = [local_norm(self._method.local, update.steps) for update in updates]
            after = strategy.combine(before, models, examples, norms)
        else:
            replies = [_reply(_float64(update.model), update.examples) for update in updates]
            after = _combined_by_flower(strategy, server_round, before, replies)
        return Model.from_arrays({name: array.astype(np.float32) for name, array in after.items()})

    def combine_mean(self, server_round: int, current: Model, mean: WeightedMean) -> Model:
        """The next model from the current one and the mean of the updates, for a method that is `mean_only`.

        Flower's strategy gets it as the one update of all hospitals together.

        Raises:
            FederationError: no update is in it, or the method wants each of them.
        """
        if not self.mean_only or isinstance(self._strategy, Scaffold | FedNova) or mean.updates < self._needed:
            raise FederationError(
                f"the method {self._method.name} needs {'the mean of' if self.mean_only else ''} the updates of "
                f"{self._needed} hospitals, got a mean of {mean.updates}"
            )
        replies = [_reply(mean.arrays(), mean.examples)]
        after = _combined_by_flower(self._strategy, server_round, _float64(current), replies)
        return Model.from_arrays({name: array.astype(np.float32) for name, array in after.items()})

    def _keep_controls(self, strategy: Scaffold, server_round: int, current: Model, updates: Sequence[Update]) -> None:
        sent, lr_of = self.corrections(current), self._lr_of(server_round)
        for update in updates:
            arrays, correction = update.model.arrays(), sent[update.hospital]
            found = own_control(current.arrays(), arrays, correction, update.steps, lr_of)
            strategy.controls[update.hospital] = {name: array.astype(np.float64) for name, array in found.items()}

    def take_members(self, members: Mapping[str, int]) -> None:
        """Who takes part from now on, with their examples; what is kept of the others stays."""
        if isinstance(self._strategy, Scaffold):
            self._strategy.members = members

    def corrections(self, current: Model) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
        """What each hospital adds to its gradients (scaffold), by the names of the model's arrays; else nothing."""
        if not isinstance(self._strategy, Scaffold):
            return {}
        return {
            hospital: {name: array.astype(np.float32) for name, array in arrays.items()}
            for hospital, arrays in self._strategy.corrections(_float64(current)).items()
        }

    def state(self) -> dict[str, Float64]:
        """What the method remembers between rounds, as named arrays."""
        strategy = self._strategy
        kept: Mapping[str, Arrays | None]
        if isinstance(strategy, FedOpt):
            kept = {"m": strategy.m_t, "v": strategy.v_t}
        elif isinstance(strategy, Scaffold):
            kept = {f"control/{hospital}": arrays for hospital, arrays in strategy.controls.items()}
        elif isinstance(strategy, FedAvgM) and strategy.current_arrays is not None:
            names = list(strategy.current_arrays)
            momentum = strategy.momentum_vector
            kept = {
                "current": dict(zip(names, strategy.current_arrays.to_numpy_ndarrays(), strict=True)),
                "momentum": dict(zip(names, momentum, strict=True)) if momentum else None,
            }
        else:
            return {}
        return {f"{what}/{name}": array for what, arrays in kept.items() if arrays for name, array in arrays.items()}

    def restore(self, state: Mapping[str, Float64]) -> None:
        """Take up what `state` gave."""
        kept: dict[str, dict[str, Float64]] = {}
        for key, array in state.items():
            # The last one: a hospital may be registered under a name with any sign in it, an array has no such name.
            what, _, name = key.rpartition("/")
            kept.setdefault(what, {})[name] = array
        strategy = self._strategy
        if isinstance(strategy, FedOpt):
            strategy.m_t, strategy.v_t = kept.get("m"), kept.get("v")
        elif isinstance(strategy, Scaffold):
            strategy.controls = {what.removeprefix("control/"): arrays for what, arrays in kept.items()}
        elif isinstance(strategy, FedAvgM) and "current" in kept:
            # Flower keeps the momentum as a list in the order of the arrays, which is that of `Model.arrays`.
            names = _in_order(kept["current"])
            strategy.current_arrays = ArrayRecord({name: Array(kept["current"][name]) for name in names})
            strategy.momentum_vector = [kept["momentum"][name] for name in names] if "momentum" in kept else None


def _in_order(names: Iterable[str]) -> list[str]:
    """The order of `Model.arrays`: weight, bias, the tuned ones by name."""
    return sorted(names, key=lambda name: (name != "weight", name != "bias", name))


def _float64(model: Model) -> dict[str, Float64]:
    return {name: array.astype(np.float64) for name, array in model.arrays().items()}


def _combined_by_flower(strategy: FedAvg, server_round: int, before: Arrays, replies: list[Message]) -> Arrays:
    if isinstance(strategy, FedOpt):
        strategy.current_arrays = dict(before)
    elif isinstance(strategy, FedAvgM) and strategy.current_arrays is None:
        strategy.current_arrays = _record(before)
    record, _ = strategy.aggregate_train(server_round, replies)
    if record is None:
        raise FederationError("the updates could not be combined")
    return {name: cast(Float64, record[name].numpy()) for name in before}


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _reply(arrays: Arrays, examples: int) -> Message:
    """A clean message as Flower's strategies expect it, made of checked numbers only."""
    content = RecordDict({"arrays": _record(arrays), "metrics": MetricRecord({"num-examples": examples})})
    return Message(content, dst_node_id=1, message_type="train")
