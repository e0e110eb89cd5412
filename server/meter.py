"""What a run costs: bytes sent and seconds spent."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from server.exchange import Asked


@dataclass
class Meter:
    """Bytes and seconds as they add up."""

    bytes_down: int = 0
    bytes_up: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def count(self, asked: Asked) -> None:
        """Adds what an exchange sent and received."""
        self.bytes_down += asked.bytes_down
        self.bytes_up += asked.bytes_up
