"""Counts of many hospitals in little memory: most of them are 0, so they are kept packed, a few hundred bytes a hospital."""

import math
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from common.metrics import ClassificationCounts
from common.wire import COUNT_DTYPES


class KeptCounts(Mapping[str, ClassificationCounts]):
    """Counts by hospital, in the order of their names; a look-up gives them back as they were."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def keep(self, hospital: str, counts: ClassificationCounts) -> None:
        """Keep the counts of a hospital."""
        arrays = {name: getattr(counts, name) for name in COUNT_DTYPES}
        self._shapes = self._shapes or {name: array.shape for name, array in arrays.items()}
        self._kept[hospital] = zlib.compress(b"".join(array.astype(np.int64).tobytes() for array in arrays.values()), 1)

    def __getitem__(self, hospital: str) -> ClassificationCounts:
        whole, found = np.frombuffer(zlib.decompress(self._kept[hospital]), np.int64), {}
        for name, shape in self._shapes.items():
            some, whole = np.split(whole, [math.prod(shape)])
            found[name] = some.reshape(shape).copy()
        return ClassificationCounts(**found)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._kept))

    def __len__(self) -> int:
        return len(self._kept)
