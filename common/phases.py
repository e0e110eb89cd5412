"""The phases of secure aggregation in the contract: their messages, entry by entry, as in `common/secure_sum/messages.py`.

Letters: P participants of a session, L numbers of the vector.
"""

from collections.abc import Mapping

from common.schema import ArraySpec, Schema
from common.secure_sum.sizes import (
    CIPHERTEXT_BYTES,
    DIGEST_BYTES,
    KEY_SHARE_BYTES,
    POINT_BYTES,
    SEED_SHARE_BYTES,
    SIGNATURE_BYTES,
)


def _bytes(*shape: str | int) -> ArraySpec:
    return ArraySpec("uint8", shape)


_KEYS = {
    "encryption-key": POINT_BYTES,
    "mask-key": POINT_BYTES,
    "commitment": DIGEST_BYTES,
    "signature": SIGNATURE_BYTES,
}
_DEALT = {"ciphertexts": _bytes("P", CIPHERTEXT_BYTES), "digests": _bytes("P", 2, DIGEST_BYTES)}
_TERMS: Mapping[str, type] = {
    **dict.fromkeys(("purpose", "question", "roster", "layout"), str),
    **dict.fromkeys(("hospitals", "threshold"), int),
}
_SESSION: Mapping[str, type] = {"session": str}

PHASE_REQUESTS: Mapping[str, Schema] = {
    "keys": Schema({}, {**_SESSION, **_TERMS, "job-id": str}),
    "shares": Schema({name: _bytes("P", size) for name, size in _KEYS.items()}, {**_SESSION, "hospitals": str}),
    "masked": Schema({"shared": _bytes("P"), **_DEALT}, _SESSION),
    "confirm": Schema({"survived": _bytes("P")}, _SESSION),
    "unmask": Schema(
        {"survived": _bytes("P"), "confirmed": _bytes("P"), "signatures": _bytes("P", SIGNATURE_BYTES)}, _SESSION
    ),
}
"""What is asked in each phase, besides what every request repeats."""

PHASE_REPLIES: Mapping[str, Schema] = {
    "keys": Schema({name: _bytes(size) for name, size in _KEYS.items()}, {**_SESSION, "hospital": str}),
    "shares": Schema(_DEALT, _SESSION),
    "masked": Schema({"vector": ArraySpec("uint64", ("L",))}, {**_SESSION, "purpose": str}),
    "confirm": Schema({"signature": _bytes(SIGNATURE_BYTES)}, _SESSION),
    "unmask": Schema(
        {"seed-shares": _bytes("P", SEED_SHARE_BYTES), "key-shares": _bytes("P", KEY_SHARE_BYTES)}, _SESSION
    ),
}
"""What is answered: keys, sealed shares, the masked vector, and shares. Never a number that is not masked."""

PARTICIPANTS: Mapping[str, str] = {
    "shares": "encryption-key",
    "masked": "shared",
    "confirm": "survived",
    "unmask": "survived",
}
"""The array of a request whose length is P."""
