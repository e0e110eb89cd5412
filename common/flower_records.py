"""Our messages as Flower's records and back: the one place that knows both."""

from typing import cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
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
    arrays = {name: Array(np.ascontiguousarray(array)) for name, array in packed.arrays.items()}
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
        decoded = {name: cast(AnyArray, array.numpy()) for name, array in arrays.items()}
    except Exception as error:  # a hostile array may fail anywhere in numpy's parser
        raise ValueError("an array cannot be decoded") from error
    return Packed(decoded, cast("dict[str, Field]", dict(config)))


def size_of(records: RecordDict) -> int:
    """Bytes of the records as they are serialised for the network."""
    return int(recorddict_to_proto(records).ByteSize())
