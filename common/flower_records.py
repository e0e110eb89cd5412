"""Our messages as Flower's records and back: the one place that knows both."""

import functools
import io
import math
from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.constant import SType
from flwr.common.serde import recorddict_to_proto

from common.packed import AnyArray, Field, Packed

ARRAYS, CONFIG = "arrays", "config"
MESSAGE_TYPES = {
    "describe": "query",
    "initial": "query.initial",
    "statistics": "train.statistics",
    "fit": "train",
    "evaluate": "evaluate",
    "distances": "evaluate.distances",
    "own": "train.own",
    "personalise": "train.personalise",
    "duplicates": "query.duplicates",
    "collisions": "query.collisions",
    "groups": "evaluate.groups",
    "keys": "train.keys",
    "shares": "train.shares",
    "masked": "train.masked",
    "confirm": "train.confirm",
    "unmask": "train.unmask",
}
"""Flower's message type for each kind of request: one of its three, and our name where there are several of one."""


def to_records(packed: Packed) -> RecordDict:
    """A message as Flower records: one ArrayRecord, one ConfigRecord."""
    arrays = {name: _encoded(array) for name, array in packed.arrays.items()}
    return RecordDict({ARRAYS: ArrayRecord(arrays), CONFIG: ConfigRecord(dict(packed.fields))})


def from_records(records: RecordDict) -> Packed:
    """A message from Flower records; its content is not yet checked.

    Raises:
        ValueError: other records than ours, or arrays that cannot be decoded (arrays of objects never are).
    """
    if set(records) != {ARRAYS, CONFIG}:
        raise ValueError("expected exactly the records 'arrays' and 'config'")
    arrays, config = records[ARRAYS], records[CONFIG]
    if not isinstance(arrays, ArrayRecord) or not isinstance(config, ConfigRecord):
        raise ValueError("expected 'arrays' to be an ArrayRecord and 'config' a ConfigRecord")
    try:
        decoded = {name: _decoded(array) for name, array in arrays.items()}
    except Exception as error:  # a hostile array may fail anywhere in numpy's parser
        raise ValueError("an array cannot be decoded") from error
    return Packed(decoded, cast("dict[str, Field]", dict(config)))


def _encoded(array: AnyArray) -> Array:
    """As Flower makes it of an array, with the header of the npy format from memory."""
    array = np.ascontiguousarray(array)
    header = _header(str(array.dtype), array.shape)
    if not header:
        return Array(array)
    return Array(str(array.dtype), array.shape, SType.NUMPY, header + array.tobytes())


def _decoded(array: Array) -> AnyArray:
    """The array in a record. numpy reads the header of the npy format as Python text, a tenth of a millisecond; of a known one it
    need not.
    """
    header = _header(array.dtype, tuple(array.shape))
    if header and array.stype == SType.NUMPY and array.data.startswith(header):
        dtype = np.dtype(array.dtype)
        if len(array.data) == len(header) + dtype.itemsize * math.prod(array.shape):
            return np.frombuffer(array.data, dtype, offset=len(header)).reshape(tuple(array.shape)).copy()
    return cast(AnyArray, array.numpy())


@functools.lru_cache(maxsize=256)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """How an array of plain numbers begins in the npy format; empty for anything else."""
    try:
        described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        if np.dtype(dtype).kind not in "iuf":
            return b""
        written = io.BytesIO()
        np.lib.format.write_array_header_1_0(written, described)
    except (TypeError, ValueError):
        return b""
    return written.getvalue()


def size_of(records: RecordDict) -> int:
    """Bytes of the records as they are serialised for the network."""
    return int(recorddict_to_proto(records).ByteSize())
