"""Masks: the keystream of AES-256 in counter mode, as numbers modulo 2^64, added to a vector or taken from it.

AES-CTR under a key that is used once is indistinguishable from uniform bytes, and its little-endian 64-bit words from uniform
numbers modulo 2^64: no number is rejected and none is more likely. Source: NIST SP 800-38A, section 6.5; RFC 5869 (HKDF).

Letters: L numbers of a vector.
"""

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.secure_sum.layout import Vector
from common.secure_sum.terms import DOMAIN

KEY_BYTES = 32
_AT_ONCE = 16_384
"""Numbers made before they are added: 128 KiB, which stay in the processor's cache."""
_ZEROS = bytes(_AT_ONCE * 8)
_WORD = np.dtype("<u8")


def self_mask_key(seed: bytes, context: bytes, place: int) -> bytes:
    """The key (32 bytes) of a hospital's self mask; place: its place in the session's list of hospitals."""
    return _derived(seed, b"self", context, place, place)


def pair_mask_key(agreed: bytes, context: bytes, one: int, other: int) -> bytes:
    """The key (32 bytes) of the mask that two hospitals have in common, whichever of them asks."""
    return _derived(agreed, b"pair", context, min(one, other), max(one, other))


def pair_sign(own: int, other: int) -> int:
    """+1 for the hospital of the lower place, -1 for the other: in the sum of both, their mask is gone."""
    return 1 if own < other else -1


def add_mask(vector: Vector, key: bytes, sign: int) -> None:
    """Add (+1) or take away (-1) the mask of a key, modulo 2^64, in place. The key must not have another use."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    words = np.empty(_AT_ONCE, _WORD)
    into = words.data.cast("B")
    change = np.add if sign > 0 else np.subtract
    for start in range(0, len(vector), _AT_ONCE):
        stream.update_into(_ZEROS, into)
        part = vector[start : start + _AT_ONCE]
        change(part, words[: len(part)], out=part)


def _derived(secret: bytes, what: bytes, context: bytes, first: int, second: int) -> bytes:
    places = first.to_bytes(2, "little") + second.to_bytes(2, "little")
    info = DOMAIN.encode() + b"\0" + what + b"\0" + context + places
    return HKDF(hashes.SHA256(), KEY_BYTES, None, info).derive(secret)
