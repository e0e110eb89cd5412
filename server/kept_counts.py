"""Counts of many hospitals in little memory: most of them are small whole numbers, and are kept as such."""

from collections.abc import Iterator, Mapping

import numpy as np

from common.metrics import ClassificationCounts
from common.packed import AnyArray
from common.wire import COUNT_DTYPES


class KeptCounts(Mapping[str, ClassificationCounts]):
    """Counts by hospital, in the order of their names; a look-up gives them back as they were."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, AnyArray]] = {}

    def keep(self, hospital: str, counts: ClassificationCounts) -> None:
        """Keep the counts of a hospital."""
        arrays = {name: getattr(counts, name) for name in COUNT_DTYPES}
        self._kept[hospital] = {
            name: array.astype(np.min_scalar_type(int(array.max(initial=0)))) for name, array in arrays.items()
        }

    def __getitem__(self, hospital: str) -> ClassificationCounts:
        return ClassificationCounts(**{name: array.astype(np.int64) for name, array in self._kept[hospital].items()})

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._kept))

    def __len__(self) -> int:
        return len(self._kept)
