"""What a run costs: bytes sent and seconds spent, over all the processes that worked at it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.pending import Asked


@dataclass(frozen=True)
class Spent:
    """Bytes, and seconds by phase."""

    bytes_down: int = 0
    bytes_up: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Meter:
    """Bytes and seconds as they add up."""

    bytes_down: int = 0
    bytes_up: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside to a phase."""
        self._begun[name] = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - self._begun.pop(name)

    def count(self, asked: Asked) -> None:
        """Adds what an exchange sent and received."""
        self.bytes_down += asked.bytes_down
        self.bytes_up += asked.bytes_up

    def add(self, spent: Spent) -> None:
        """Adds what an earlier process spent."""
        self.bytes_down += spent.bytes_down
        self.bytes_up += spent.bytes_up
        for name, seconds in spent.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def spent(self) -> Spent:
        """So far, also in phases that are not over."""
        now = time.perf_counter()
        begun = {name: self.seconds.get(name, 0.0) + now - start for name, start in self._begun.items()}
        return Spent(self.bytes_down, self.bytes_up, {**self.seconds, **begun})
