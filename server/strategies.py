"""The arithmetic of each method, by Flower's own strategies, fed only with updates that have passed the guard.

scaffold and fednova, which Flower has not, are in `server.heterogeneity.py`.
Flower's `Strategy.start` is not used: our round loop (`server/rounds.py`) asks, checks and records; a strategy only combines.
Updates are combined in the order of the hospitals' names and in float64, so the order of arrival changes nothing.
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
from common.drift import control_change, local_norm
from common.errors import ConfigError, FederationError
from common.head import Float64
from common.job import Method
from common.methods import method_row
from common.model import Model
from server.heterogeneity import FedNova, Scaffold

Arrays = Mapping[str, Float64]
LearningRates = Callable[[int], Callable[[str], float]]


@dataclass(frozen=True)
class Update:
    """What one hospital sent for one round; steps: of the optimizer, where the method wants them."""

    hospital: str
    model: Model
    examples: int
    steps: int = 1


STRATEGIES: Mapping[str, Callable[[Method], FedAvg | Scaffold | FedNova]] = MappingProxyType(
    {
        "fedavg": lambda _: FedAvg(),
        "fedprox": lambda method: FedProx(proximal_mu=method.proximal_mu or 0.0),
        "fedadam": lambda method: FedAdam(
            eta=_set(method.server_lr), beta_1=_set(method.beta_1), beta_2=_set(method.beta_2), tau=_set(method.tau)
        ),
        "fedyogi": lambda method: FedYogi(
            eta=_set(method.server_lr), beta_1=_set(method.beta_1), beta_2=_set(method.beta_2), tau=_set(method.tau)
        ),
        "fedadagrad": lambda method: FedAdagrad(eta=_set(method.server_lr), tau=_set(method.tau)),
        "fedavgm": lambda method: FedAvgM(
            server_learning_rate=_set(method.server_lr), server_momentum=_set(method.server_momentum)
        ),
        "scaffold": lambda method: Scaffold(_set(method.server_lr)),
        "fednova": lambda _: FedNova(),
        "fedmedian": lambda _: FedMedian(),
        "trimmed-mean": lambda method: FedTrimmedAvg(beta=_set(method.trim_fraction)),
        "krum": lambda method: Krum(num_malicious_nodes=method.malicious_hospitals or 0),
        "multikrum": lambda method: MultiKrum(
            num_malicious_nodes=method.malicious_hospitals or 0, num_nodes_to_select=method.hospitals_kept or 1
        ),
        "bulyan": lambda method: Bulyan(num_malicious_nodes=method.malicious_hospitals or 0),
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


class Aggregator:
    """Combines the updates of a round into the next model; keeps what the method remembers between rounds."""

    def __init__(self, method: Method, lr_of: LearningRates | None = None, members: int = 0) -> None:
        """lr_of: learning rate of an array in a round, by default the method's. members: examples of all members."""
        self._method, self._members = method, members
        self._lr_of = lr_of or (lambda _: lambda _: method.local.lr)
        if method.name not in STRATEGIES:
            raise ConfigError(unknown("method", method.name, list(STRATEGIES)))
        self._strategy = STRATEGIES[method.name](method)
        self._needed = hospitals_needed(method)

    def combine(self, server_round: int, current: Model, updates: Sequence[Update]) -> Model:
        """The next model from the current one and at least one update.

        Raises:
            FederationError: too few updates for the method.
        """
        if len(updates) < self._needed:
            raise FederationError(f"the method needs the updates of {self._needed} hospitals, got {len(updates)}")
        strategy, before = self._strategy, _float64(current)
        updates = sorted(updates, key=lambda update: update.hospital)
        models, examples = [_float64(update.model) for update in updates], [update.examples for update in updates]
        after: Arrays
        if isinstance(strategy, Scaffold):
            changes = self._control_changes(server_round, current, updates)
            after = strategy.combine(before, models, examples, changes, self._members)
        elif isinstance(strategy, FedNova):
            norms = [local_norm(self._method.local, update.steps) for update in updates]
            after = strategy.combine(before, models, examples, norms)
        else:
            after = _combined_by_flower(strategy, server_round, before, updates)
        return Model.from_arrays({name: array.astype(np.float32) for name, array in after.items()})

    def _control_changes(
        self, server_round: int, current: Model, updates: Sequence[Update]
    ) -> list[dict[str, npt.NDArray[np.float32]]]:
        """What each hospital has added to its control variate: computed as it does, from what was sent to and fro."""
        sent, lr_of = self.sent_along(current), self._lr_of(server_round)
        return [
            control_change(current.arrays(), update.model.arrays(), sent, update.steps, lr_of) for update in updates
        ]

    def sent_along(self, current: Model) -> dict[str, npt.NDArray[np.float32]]:
        """What the hospitals need besides the model: the control variate (scaffold), by the names of the model's arrays."""
        if not isinstance(self._strategy, Scaffold):
            return {}
        control = self._strategy.control_of(_float64(current))
        return {name: array.astype(np.float32) for name, array in control.items()}

    def state(self) -> dict[str, Float64]:
        """What the method remembers between rounds, as named arrays."""
        strategy = self._strategy
        kept: Mapping[str, Arrays | None]
        if isinstance(strategy, FedOpt):
            kept = {"m": strategy.m_t, "v": strategy.v_t}
        elif isinstance(strategy, Scaffold):
            kept = {"control": strategy.control}
        elif isinstance(strategy, FedAvgM) and strategy.current_arrays is not None:
            names = list(strategy.current_arrays)
            momentum = strategy.momentum_vector
            kept = {
                "current": dict(zip(names, strategy.current_arrays.to_numpy_ndarrays(), strict=True)),
                "momentum": dict(zip(names, momentum, strict=True)) if momentum else None,
            }
        else:
            return {}
        return {f"{what}.{name}": array for what, arrays in kept.items() if arrays for name, array in arrays.items()}

    def restore(self, state: Mapping[str, Float64]) -> None:
        """Take up what `state` gave."""
        kept: dict[str, dict[str, Float64]] = {}
        for key, array in state.items():
            what, _, name = key.partition(".")
            kept.setdefault(what, {})[name] = array
        strategy = self._strategy
        if isinstance(strategy, FedOpt):
            strategy.m_t, strategy.v_t = kept.get("m"), kept.get("v")
        elif isinstance(strategy, Scaffold):
            strategy.control = kept.get("control", {})
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


def _combined_by_flower(strategy: FedAvg, server_round: int, before: Arrays, updates: Sequence[Update]) -> Arrays:
    if isinstance(strategy, FedOpt):
        strategy.current_arrays = dict(before)
    elif isinstance(strategy, FedAvgM) and strategy.current_arrays is None:
        strategy.current_arrays = _record(before)
    record, _ = strategy.aggregate_train(server_round, [_reply(update) for update in updates])
    if record is None:
        raise FederationError("the updates could not be combined")
    return {name: cast(Float64, record[name].numpy()) for name in before}


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _reply(update: Update) -> Message:
    """A clean message as Flower's strategies expect it, made of checked numbers only."""
    content = RecordDict(
        {"arrays": _record(_float64(update.model)), "metrics": MetricRecord({"num-examples": update.examples})}
    )
    return Message(content, dst_node_id=1, message_type="train")
