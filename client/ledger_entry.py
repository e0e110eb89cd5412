"""One entry of the ledger, as a line: canonical JSON, closed by its own sha256, which also covers the entry before it.

    {"arrays":[...],"bytes":8,...,"previous":"<hash of the entry before>",...,"hash":"<sha256 of the line without this key>"}

An entry describes what left and holds none of it: names, shapes, dtypes, digests and norms of arrays, and plain fields. Any
tool can check a line: without its last key, `,"hash":"..."`, its sha256 is that hash.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from common.packed import AnyArray, Field, Packed

FORMAT = "consilium-ledger-1"
GENESIS = "0" * 64
"""Stands for the hash of the entry before the first."""

Number = Annotated[int, pydantic.Field(ge=0, lt=2**53)]
Decision = Literal["begun", "sent", "refused", "repaired"]
_HASH = b',"hash":"%s"}'


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ArrayRecord(_Strict):
    """What is kept of an array that left. sha256: of its numbers in C order. l2: its norm, None where that overflows."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    sha256: str
    l2: float | None = None


class Entry(_Strict):
    """One line of the ledger. Entries are numbered from 1, so entry n is on line n.

    bytes: of all arrays. epsilon: spent by this answer; epsilon_total: by all answers of all jobs up to here. code: the neutral
    word that left in place of an answer; reason: why, for the hospital's own people. count and since: of a refused entry that
    stands for many. about: of the entries `begun` and `repaired`.
    """

    seq: Number
    time: str
    decision: Decision
    kind: str | None = None
    job: str | None = None
    job_id: str | None = None
    round: int | None = None
    part: str | None = None
    arrays: tuple[ArrayRecord, ...] = ()
    bytes: int = 0
    fields: Mapping[str, Field] = {}
    masked: bool = False
    epsilon: float = 0.0
    epsilon_total: float = 0.0
    code: str | None = None
    reason: str | None = None
    count: int = 1
    since: str | None = None
    about: Mapping[str, Field] = {}
    previous: str
    hash: str = ""


class Head(_Strict):
    """The end of the ledger: number and hash of its last entry. repair: about what the next entry is to report, first of all."""

    seq: Number
    hash: str
    repair: Mapping[str, Field] | None = None

    @property
    def text(self) -> str:
        """As a person notes it, and as `verify --head` takes it."""
        return f"{self.seq}:{self.hash}"

    @property
    def line(self) -> bytes:
        """The content of its file."""
        return canonical(self) + b"\n"


def canonical(part: pydantic.BaseModel, **options: Any) -> bytes:
    """JSON with sorted keys, without white space and without what is None: equal content, equal bytes, all of them ASCII."""
    content = part.model_dump(mode="json", exclude_none=True, **options)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def seal(entry: Entry) -> tuple[Entry, bytes]:
    """The entry with its hash, and its line with the newline."""
    body = canonical(entry, exclude={"hash"})
    found = hashlib.sha256(body).hexdigest()
    return entry.model_copy(update={"hash": found}), body[:-1] + _HASH % found.encode() + b"\n"


def entry_of(line: bytes) -> Entry:
    """The entry on a line (without its newline).

    Raises:
        ValueError: it is not an entry, byte for byte as this version writes it, or its hash is not that of its content.
    """
    entry = Entry.model_validate_json(line)
    sealed, again = seal(entry)
    if sealed.hash != entry.hash or again[:-1] != line:
        raise ValueError("its content is not what its hash says")
    return entry


def array_records(packed: Packed) -> tuple[ArrayRecord, ...]:
    """What is kept of the arrays of a message, by name."""
    return tuple(_record(name, packed.arrays[name]) for name in sorted(packed.arrays))


def now() -> datetime:
    """The time, with the zone of this machine."""
    return datetime.now().astimezone()


def written(moment: datetime) -> str:
    """As in an entry: ISO 8601 with the zone."""
    return moment.isoformat(timespec="milliseconds")


def _record(name: str, array: AnyArray) -> ArrayRecord:
    ordered = np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        l2 = math.sqrt(float(np.square(ordered, dtype=np.float64).sum()))
    return ArrayRecord(
        name=name,
        dtype=str(array.dtype),
        shape=array.shape,
        bytes=array.nbytes,
        sha256=hashlib.sha256(ordered.data).hexdigest(),
        l2=l2 if math.isfinite(l2) else None,
    )
