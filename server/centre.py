"""Mean and deviation of the features of many hospitals, from their sums as they come."""

from common.exact_sum import ExactSum
from common.head import Float64, Standardisation
from common.messages import Description


class Centre:
    """Sums over the training examples of the hospitals that described themselves in one feature space."""

    def __init__(self) -> None:
        self._examples = 0
        self._sums: tuple[ExactSum, ExactSum] | None = None

    def add(self, one: Description) -> None:
        """Take in a hospital's sums of features and of their squares."""
        if self._sums is None:
            self._sums = ExactSum(one.sums.shape), ExactSum(one.squares.shape)
        self._sums[0].add(one.sums)
        self._sums[1].add(one.squares)
        self._examples += one.examples

    def sums(self) -> tuple[int, Float64, Float64]:
        """Examples of all of them together, and the sums (D,) of features and of their squares.

        Raises:
            ValueError: there is none.
        """
        if self._sums is None:
            raise ValueError("no hospital has described itself")
        return self._examples, self._sums[0].total(), self._sums[1].total()

    def standardisation(self) -> Standardisation:
        """Of all of them together.

        Raises:
            ValueError: there is none.
        """
        return Standardisation.from_sums(*self.sums())
