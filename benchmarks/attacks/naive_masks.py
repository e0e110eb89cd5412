"""Pairwise masks and nothing else: no signatures, no memory, no digest of what is asked. What attack 5 is compared with.

Letters: C classes, D features, L numbers of the vector, K hospitals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from common.secure_sum import primitives
from common.secure_sum.layout import Layout, Slot
from common.secure_sum.masks import add_mask, pair_mask_key, pair_sign

CONTEXT = b"one context for all"


def layout_of(classes: int, features: int) -> Layout:
    """Of an update in a sum: change x examples (C, D + 1)."""
    return Layout((Slot("change", (classes, features + 1), "real", 24),))


@dataclass(frozen=True)
class Naive:
    """A hospital that masks `change` (C, D + 1) as often as it is asked, with whatever keys it is told."""

    change: np.ndarray
    key: ec.EllipticCurvePrivateKey

    @property
    def layout(self) -> Layout:
        """Of what it masks."""
        return layout_of(self.change.shape[0], self.change.shape[1] - 1)

    @property
    def point(self) -> bytes:
        """Its public key."""
        return primitives.point_of(self.key)

    def masked(self, place: int, points: Sequence[bytes]) -> np.ndarray:
        """Its vector (L,) with a mask in common with each other hospital of which it is told a key; none for an empty one."""
        vector = self.layout.pack({"change": self.change}, len(points))
        for other, point in enumerate(points):
            if other != place and point:
                agreed = primitives.agreed_key(self.key, point)
                add_mask(vector, pair_mask_key(agreed, CONTEXT, place, other), pair_sign(place, other))
        return vector


def hospitals_with(changes: Sequence[np.ndarray]) -> list[Naive]:
    """Hospitals with these numbers."""
    return [Naive(change, primitives.new_key()) for change in changes]


def total_of(hospitals: Sequence[Naive], among: Sequence[int]) -> np.ndarray:
    """The sum (C, D + 1) of some hospitals, each told of those: the masks cancel."""
    told = [one.point if place in among else b"" for place, one in enumerate(hospitals)]
    total = np.zeros(hospitals[0].layout.length, np.uint64)
    for place in among:
        total += hospitals[place].masked(place, told)
    return _numbers(hospitals[0], total)


def by_inconsistent_models(
    changes_of: Callable[[Sequence[bool]], Sequence[np.ndarray]], hospitals: int, target: int
) -> np.ndarray:
    """What the target is sent moves its head, what the others are sent moves nothing: the sum is the target's change.

    changes_of: the changes (C, D + 1) of all hospitals, given which of them get the honest model.
    """
    return total_of(hospitals_with(changes_of([place == target for place in range(hospitals)])), range(hospitals))


def by_forged_keys(changes: Sequence[np.ndarray], target: int) -> np.ndarray:
    """The target is told the coordinator's own keys in the place of all others': its masks are known."""
    hospital = hospitals_with(changes)[target]
    own = [primitives.new_key() for _ in changes]
    vector = hospital.masked(target, [primitives.point_of(key) for key in own])
    for other, key in enumerate(own):
        if other != target:
            mask = pair_mask_key(primitives.agreed_key(key, hospital.point), CONTEXT, target, other)
            add_mask(vector, mask, -pair_sign(target, other))
    return _numbers(hospital, vector)


def by_replay(changes: Sequence[np.ndarray], target: int) -> np.ndarray:
    """The target is asked again with the same keys, about a model from which nothing moves: the masks are the same and cancel."""
    hospitals = hospitals_with(changes)
    hospital, points = hospitals[target], [one.point for one in hospitals]
    again = Naive(np.zeros_like(hospital.change), hospital.key)
    return _numbers(hospital, hospital.masked(target, points) - again.masked(target, points))


def by_shrinking(changes: Sequence[np.ndarray], target: int) -> np.ndarray:
    """A second sum of the same numbers without the target: the difference is the target's."""
    hospitals, everyone = hospitals_with(changes), range(len(changes))
    return total_of(hospitals, everyone) - total_of(hospitals, [place for place in everyone if place != target])


def _numbers(hospital: Naive, vector: np.ndarray) -> np.ndarray:
    return np.asarray(hospital.layout.unpack(vector)["change"])
