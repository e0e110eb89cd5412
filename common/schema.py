"""How a message is described, and how it is held to its description: names, dtypes, shapes, finite numbers, counts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common.packed import Packed


class ArraySpec(NamedTuple):
    """dtype by numpy name; shape as letters (looked up when checked) or numbers; whether 0 and below are refused."""

    dtype: str
    shape: tuple[str | int, ...]
    positive: bool = False


@dataclass(frozen=True)
class Schema:
    """Exactly the arrays and fields a message has; `optional` fields may be absent."""

    arrays: Mapping[str, ArraySpec]
    fields: Mapping[str, type]
    optional: Mapping[str, type] = field(default_factory=dict)


@dataclass(frozen=True)
class Contract:
    """What a request and its reply must be, and the values of the shape letters."""

    request: Schema
    reply: Schema
    dims: Mapping[str, int]


def bytes_of(schema: Schema, dims: Mapping[str, int]) -> int:
    """Bytes of the arrays of a message that keeps to its schema."""
    return sum(
        np.dtype(spec.dtype).itemsize
        * math.prod(dims[letter] if isinstance(letter, str) else letter for letter in spec.shape)
        for spec in schema.arrays.values()
    )


def problem_with(packed: Packed, schema: Schema, dims: Mapping[str, int]) -> str | None:
    """The first way in which a message departs from its schema, or None; no message makes it raise.

    Besides names, dtypes and shapes: floats must be finite, integers not negative. The answer repeats no value of the
    message.
    """
    problem = _names_problem("array", set(packed.arrays), set(schema.arrays), set())
    problem = problem or _names_problem("field", set(packed.fields), set(schema.fields), set(schema.optional))
    if problem:
        return problem
    for name, spec in schema.arrays.items():
        problem = _array_problem(packed.arrays[name], spec, dims)
        if problem:
            return f"array '{name}': {problem}"
    for name, kind in {**schema.fields, **schema.optional}.items():
        problem = _field_problem(packed.fields[name], kind) if name in packed.fields else None
        if problem:
            return f"field '{name}': {problem}"
    return None


def _names_problem(kind: str, have: set[str], need: set[str], may: set[str]) -> str | None:
    if need - have:
        return f"missing {kind} '{min(need - have)}'"
    if have - need - may:
        # Its name is free text of the sender: repeating it would carry it on.
        return f"unexpected {kind} (expected: {', '.join(sorted(need | may)) or 'none'})"
    return None


def _array_problem(array: object, spec: ArraySpec, dims: Mapping[str, int]) -> str | None:
    shape = tuple(dims[letter] if isinstance(letter, str) else letter for letter in spec.shape)
    if type(array) is not np.ndarray:
        return f"expected a numpy array, got {type(array).__name__}"
    if array.dtype != np.dtype(spec.dtype):
        return f"expected dtype {spec.dtype}, got {str(array.dtype)[:40]}"
    if array.shape != shape:
        return f"expected shape {shape}, got {array.shape}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return "expected finite numbers, got NaN or infinity"
    if array.dtype.kind == "i" and (array < 0).any():
        return "expected counts, got negative numbers"
    if spec.positive and not (array > 0).all():
        return "expected numbers above 0, got 0 or less"
    return None


def _field_problem(value: object, kind: type) -> str | None:
    if type(value) is not kind:
        return f"expected {kind.__name__}, got {type(value).__name__}"
    if isinstance(value, int | float) and not 0 <= value < 2**63:
        return f"expected {kind.__name__} from 0 and below 2**63, got one outside"
    return None
