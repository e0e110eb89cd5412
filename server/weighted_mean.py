"""The mean of the hospitals' models, weighted by their examples, as the updates come: no update is kept.

Whoever answers first, the bits are the same (`common.exact_sum`).
"""

from common.exact_sum import ExactSum
from common.head import Float64
from common.model import Model


class WeightedMean:
    """Of models with arrays of the same names and shapes. updates: how many are in it; examples: of all of them."""

    def __init__(self) -> None:
        self.updates, self.examples = 0, 0
        self._sums: dict[str, ExactSum] = {}

    def add(self, model: Model, examples: int) -> None:
        """Take in one hospital's model, which counts for so many examples."""
        for name, array in model.arrays().items():
            one = self._sums.setdefault(name, ExactSum(array.shape))
            # Of a float32 number and up to 2**29 examples the product is exact.
            one.add(array.astype("float64") * examples)
        self.updates, self.examples = self.updates + 1, self.examples + examples

    def arrays(self) -> dict[str, Float64]:
        """The mean, by the names of `Model.arrays`; there is at least one update."""
        return {name: one.total() / self.examples for name, one in self._sums.items()}
