"""The arithmetic of each method, by Flower's own strategies, fed only with updates that have passed the guard.

Flower's `Strategy.start` is not used: our round loop (`server/rounds.py`) asks, checks and records; a strategy only combines.
Updates are combined in the order of the hospitals' names and in float64, so the order of arrival changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import numpy as np
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
from common.errors import ConfigError, FederationError
from common.head import Float64, Head
from common.job import Method
from common.methods import method_row

_HEAD_ARRAYS = ("weight", "bias")


@dataclass(frozen=True)
class Update:
    """What one hospital sent for one round."""

    hospital: str
    head: Head
    examples: int


STRATEGIES: Mapping[str, Callable[[Method], FedAvg]] = MappingProxyType(
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
        "fedmedian": lambda _: FedMedian(),
        "trimmed-mean": lambda method: FedTrimmedAvg(beta=_set(method.trim_fraction)),
        "krum": lambda method: Krum(num_malicious_nodes=method.malicious_hospitals or 0),
        "multikrum": lambda method: MultiKrum(
            num_malicious_nodes=method.malicious_hospitals or 0, num_nodes_to_select=method.hospitals_kept or 1
        ),
        "bulyan": lambda method: Bulyan(num_malicious_nodes=method.malicious_hospitals or 0),
    }
)
"""One row per method of `common/methods.py`."""


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
    """Combines the updates of a round into the next head; keeps what the method remembers between rounds."""

    def __init__(self, method: Method) -> None:
        if method.name not in STRATEGIES:
            raise ConfigError(unknown("method", method.name, list(STRATEGIES)))
        self._strategy = STRATEGIES[method.name](method)
        self._needed = hospitals_needed(method)

    def combine(self, server_round: int, current: Head, updates: Sequence[Update]) -> Head:
        """The next head from the current one and at least one update.

        Raises:
            FederationError: too few updates for the method.
        """
        if len(updates) < self._needed:
            raise FederationError(f"the method needs the updates of {self._needed} hospitals, got {len(updates)}")
        strategy = self._strategy
        if isinstance(strategy, FedOpt):
            strategy.current_arrays = {name: array.numpy() for name, array in _record(current).items()}
        elif isinstance(strategy, FedAvgM) and strategy.current_arrays is None:
            strategy.current_arrays = _record(current)
        replies = [_reply(update) for update in sorted(updates, key=lambda update: update.hospital)]
        record, _ = strategy.aggregate_train(server_round, replies)
        if record is None:
            raise FederationError("the updates could not be combined")
        return Head(*(record[name].numpy().astype(np.float32) for name in _HEAD_ARRAYS))

    def state(self) -> dict[str, Float64]:
        """What the method remembers between rounds, as named arrays."""
        strategy = self._strategy
        if isinstance(strategy, FedOpt):
            kept = {"m": strategy.m_t, "v": strategy.v_t}
        elif isinstance(strategy, FedAvgM) and strategy.current_arrays is not None:
            current = dict(zip(_HEAD_ARRAYS, strategy.current_arrays.to_numpy_ndarrays(), strict=True))
            momentum = strategy.momentum_vector
            kept = {
                "current": current,
                "momentum": dict(zip(_HEAD_ARRAYS, momentum, strict=True)) if momentum else None,
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
        elif isinstance(strategy, FedAvgM) and "current" in kept:
            strategy.current_arrays = ArrayRecord({name: Array(kept["current"][name]) for name in _HEAD_ARRAYS})
            strategy.momentum_vector = [kept["momentum"][name] for name in _HEAD_ARRAYS] if "momentum" in kept else None


def _record(head: Head) -> ArrayRecord:
    return ArrayRecord({name: Array(cast(Float64, getattr(head, name).astype(np.float64))) for name in _HEAD_ARRAYS})


def _reply(update: Update) -> Message:
    """A clean message as Flower's strategies expect it, made of checked numbers only."""
    content = RecordDict({"arrays": _record(update.head), "metrics": MetricRecord({"num-examples": update.examples})})
    return Message(content, dst_node_id=1, message_type="train")
