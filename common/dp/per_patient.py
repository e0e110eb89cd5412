"""All examples of a patient bounded as one: what a patient adds to a sum has at most a given L2 norm.

An example is an image, or a view of one; a patient with thirty images and one with a single image weigh at most the same. The
contribution of an example here is a product (a gradient is r f^T, statistics are f f^T), so the norm of a patient's sum comes
from inner products of the patient's own examples, without forming any of them.

Letters: N examples, P patients, m examples of one patient, D features, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from common.head import Float32, Float64

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Patients:
    """Which examples are one patient's, at one hospital.

    groups: for each number m of examples that a patient has, the examples of all such patients (P_m, m).
    """

    groups: tuple[Indices, ...]

    @classmethod
    def of(cls, patient_ids: Sequence[str]) -> Self:
        """From the patient of each example (N,): an opaque id, which is not kept."""
        _, codes, counts = np.unique(np.array(patient_ids, dtype=object), return_inverse=True, return_counts=True)
        order, starts = np.argsort(codes, kind="stable"), np.concatenate([[0], np.cumsum(counts)[:-1]])
        groups = [order[starts[counts == size][:, None] + np.arange(size)] for size in np.unique(counts)]
        return cls(tuple(groups))

    @property
    def number(self) -> int:
        """P."""
        return sum(len(group) for group in self.groups)

    @cached_property
    def shares(self) -> Float64:
        """1 / m for each example (N,), m of its patient: with these weights a patient counts as one example, the mean one."""
        shares = np.zeros(sum(group.size for group in self.groups))
        for group in self.groups:
            shares[group] = 1.0 / group.shape[1]
        return shares


@dataclass(frozen=True)
class Products:
    """Inner products of the features of each patient's own examples, (P_m, m, m) for each group of `patients`.

    They do not change from step to step, so they are computed once.
    """

    patients: Patients
    inner: tuple[Float64, ...]

    @classmethod
    def of(cls, features: Float32 | Float64, patients: Patients) -> Self:
        """Of features (N, D), including whatever constant the products have."""
        return cls(patients, tuple(_gram(features[group].astype(np.float64)) for group in patients.groups))

    def pairs(self) -> Iterator[tuple[Indices, Float64]]:
        """Each group of examples (P_m, m) with its products (P_m, m, m)."""
        return zip(self.patients.groups, self.inner, strict=True)


def bounding(norms: Float64, bound: float) -> Float64:
    """The factors min(1, bound / norm), for norms of any shape."""
    return np.minimum(1.0, bound / np.maximum(norms, 1e-300))


def within(vectors: Float64, bound: float) -> Float64:
    """Vectors (..., D), scaled down where they are longer than the bound."""
    return np.asarray(vectors * bounding(np.linalg.norm(vectors, axis=-1, keepdims=True), bound), np.float64)


def gradient_factors(residuals: Float64, products: Products, bound: float) -> Float64:
    """Factors (N,), one for all examples of a patient, that bound the norm of the patient's sum of residual x feature^T.

    residuals: (N, C), with whatever weights the examples have. The squared norm of Σ r_i f_i^T is Σ_ij (r_i.r_j)(f_i.f_j).
    """
    factors = np.zeros(len(residuals))
    for group, inner in products.pairs():
        squares = (_gram(residuals[group]) * inner).sum(axis=(1, 2))
        factors[group] = bounding(np.sqrt(np.maximum(squares, 0.0)), bound)[:, None]
    return factors


def statistics_factors(targets: Float64, products: Products, bound: float) -> Float64:
    """Factors (N,), one for all examples of a patient, that bound the joint norm of the patient's Σ f f^T and Σ f t^T.

    targets: (N, C). The squared norm is Σ_ij (f_i.f_j)² + (f_i.f_j)(t_i.t_j).
    """
    factors = np.zeros(len(targets))
    for group, inner in products.pairs():
        squares = (inner**2 + inner * _gram(targets[group])).sum(axis=(1, 2))
        factors[group] = bounding(np.sqrt(np.maximum(squares, 0.0)), bound)[:, None]
    return factors


def _gram(rows: Float64) -> Float64:
    """Inner products (P, m, m) of rows (P, m, D)."""
    return np.asarray(rows @ rows.transpose(0, 2, 1), np.float64)
