"""The messages of a session as typed values, and as `Packed`.

| phase   | request                                                  | reply                                                |
|---------|----------------------------------------------------------|------------------------------------------------------|
| keys    | fields: those of `Terms`                                 | field hospital; encryption-key, mask-key uint8 (97,);|
|         |                                                          | commitment uint8 (32,); signature uint8 (96,)        |
| shares  | field hospitals; encryption-key, mask-key uint8 (P, 97); | ciphertexts uint8 (P, 292); digests uint8 (P, 2, 32) |
|         | commitment uint8 (P, 32); signature uint8 (P, 96)        |                                                      |
| masked  | shared uint8 (P,); ciphertexts uint8 (P, 292);           | vector uint64 (L,)                                   |
|         | digests uint8 (P, 2, 32)                                 |                                                      |
| confirm | survived uint8 (P,)                                      | signature uint8 (96,)                                |
| unmask  | survived, confirmed uint8 (P,); signatures uint8 (P, 96) | seed-shares uint8 (P, 52); key-shares uint8 (P, 68)  |

Every message also has the field `session`. `hospitals` is the names in ascending order with a space between; all rows are in that
order. shared, survived, confirmed: 1 for yes, 0 for no. A row that has nothing is zeros: one's own ciphertext, and the shares
that are not given. Letters: P participants, those that sent keys; L numbers of the vector.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from common.packed import Packed
from common.secure_sum.errors import SecureSumError
from common.secure_sum.layout import Vector
from common.secure_sum.rows import Bytes, array_to_rows, bytes_in, rows_to_array
from common.secure_sum.shares import Shares
from common.secure_sum.sizes import (
    CIPHERTEXT_BYTES,
    DIGEST_BYTES,
    KEY_SHARE_BYTES,
    POINT_BYTES,
    SEED_SHARE_BYTES,
    SIGNATURE_BYTES,
)
from common.secure_sum.terms import Terms


@dataclass(frozen=True)
class SignedKeys:
    """What a hospital declares in the phase KEYS.

    encryption, mask: its ephemeral public keys (97 bytes). commitment: digest of the seed of its self mask (32 bytes).
    signature: of its node key (96 bytes), over all that and the terms.
    """

    hospital: str
    encryption: bytes
    mask: bytes
    commitment: bytes
    signature: bytes = b""

    def statement(self, terms: Terms) -> bytes:
        """What is signed."""
        return terms.digest(b"keys", self.hospital.encode(), self.encryption, self.mask, self.commitment)

    def pack(self, session: str) -> Packed:
        """As the reply of the phase KEYS."""
        arrays = {name: _array(getattr(self, part)) for name, part, _ in _KEY_ARRAYS}
        return Packed(arrays, {"session": session, "hospital": self.hospital})

    @classmethod
    def unpack(cls, packed: Packed, hospital: str) -> Self:
        """From the reply of a hospital."""
        parts = {part: bytes_in(packed, name, (size,)).tobytes() for name, part, size in _KEY_ARRAYS}
        return cls(hospital=hospital, **parts)


@dataclass(frozen=True)
class Dealt:
    """What a hospital sends in the phase SHARES, by receiver: ciphertexts uint8 (P, 292), digests uint8 (P, 2, 32)."""

    ciphertexts: Bytes
    digests: Bytes

    def pack(self) -> dict[str, Bytes]:
        """The arrays of the reply, and, by dealer, of the request of the phase MASKED."""
        return {"ciphertexts": self.ciphertexts, "digests": self.digests}

    @classmethod
    def unpack(cls, packed: Packed, participants: int) -> Self:
        """From either."""
        return cls(
            bytes_in(packed, "ciphertexts", (participants, CIPHERTEXT_BYTES)),
            bytes_in(packed, "digests", (participants, 2, DIGEST_BYTES)),
        )


_KEY_ARRAYS = (
    ("encryption-key", "encryption", POINT_BYTES),
    ("mask-key", "mask", POINT_BYTES),
    ("commitment", "commitment", DIGEST_BYTES),
    ("signature", "signature", SIGNATURE_BYTES),
)
"""Name of the array, field of `SignedKeys`, bytes."""


def context_of(terms: Terms, keys: Sequence[SignedKeys]) -> bytes:
    """Digest (32 bytes) of the terms and all participants' keys: another one wherever the coordinator tells other things."""
    parts = [(one.hospital.encode(), one.encryption, one.mask, one.commitment, one.signature) for one in keys]
    return terms.digest(b"context", *(part for one in parts for part in one))


def commitment_to(seed: bytes, hospital: str, terms: Terms) -> bytes:
    """What says that a seed is the one that a hospital began with, and does not say the seed (32 bytes)."""
    return terms.digest(b"seed", hospital.encode(), seed)


def confirmation(terms: Terms, context: bytes, shared: Iterable[int], survived: Iterable[int]) -> bytes:
    """What a hospital signs in the phase CONFIRM: that these are the survivors, and no others for it."""
    return terms.digest(b"confirm", context, bytes(shared), bytes(survived))


def pack_keys(keys: Sequence[SignedKeys], session: str) -> Packed:
    """As the request of the phase SHARES."""
    arrays = {name: rows_to_array([getattr(one, part) for one in keys]) for name, part, _ in _KEY_ARRAYS}
    return Packed(arrays, {"session": session, "hospitals": " ".join(one.hospital for one in keys)})


def unpack_keys(packed: Packed) -> list[SignedKeys]:
    """From the request of the phase SHARES."""
    names = str(packed.fields.get("hospitals", "")).split(" ")
    columns = [array_to_rows(bytes_in(packed, name, (len(names), size))) for name, _, size in _KEY_ARRAYS]
    return [SignedKeys(name, *row) for name, *row in zip(names, *columns, strict=True)]


def unpack_vector(packed: Packed, length: int) -> Vector:
    """A masked vector (L,), from the reply of the phase MASKED.

    Raises:
        SecureSumError: it is missing, or of another dtype or length.
    """
    vector = packed.arrays.get("vector")
    if vector is None or vector.dtype != np.uint64 or vector.shape != (length,):
        raise SecureSumError(f"array 'vector': expected uint64 {(length,)}, got another or none")
    return vector.astype(np.uint64, copy=False)


def pack_shares(shares: Sequence[Shares]) -> Packed:
    """As the reply of the phase UNMASK: of each participant."""
    seeds, keys = [one.seed for one in shares], [one.key for one in shares]
    return Packed({"seed-shares": rows_to_array(seeds), "key-shares": rows_to_array(keys)})


def unpack_shares(packed: Packed, participants: int) -> list[Shares]:
    """From the reply of the phase UNMASK."""
    seeds = bytes_in(packed, "seed-shares", (participants, SEED_SHARE_BYTES))
    keys = bytes_in(packed, "key-shares", (participants, KEY_SHARE_BYTES))
    return [Shares(*pair) for pair in zip(array_to_rows(seeds), array_to_rows(keys), strict=True)]


def _array(data: bytes) -> Bytes:
    return np.frombuffer(data, np.uint8).copy()
