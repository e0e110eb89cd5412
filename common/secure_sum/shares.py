"""What one hospital deals to another: a share of its seed and a share of its mask key, sealed for the receiver.

A dealer also sends the digest of each share. The receiver checks it when it opens its shares, the coordinator when they are given
to it; so a share that does not fit is its giver's lie. The shares are random numbers, so their digests say nothing about them.

Letters: P participants, in the order of their places 0..P-1; t threshold.
"""

from dataclasses import dataclass

from common.secure_sum.errors import SecureSumError
from common.secure_sum.primitives import opened, sealed, shares_of
from common.secure_sum.sizes import KEY_SHARE_BYTES, SEED_SHARE_BYTES
from common.secure_sum.terms import Terms

_CONTEXT_BYTES, _PLACE_BYTES = 32, 2
_HEADER_BYTES = _CONTEXT_BYTES + 2 * _PLACE_BYTES


@dataclass(frozen=True)
class Shares:
    """seed: a share of a hospital's seed (52 bytes). key: a share of its mask key (68 bytes)."""

    seed: bytes
    key: bytes


NOTHING = Shares(bytes(SEED_SHARE_BYTES), bytes(KEY_SHARE_BYTES))
"""Where no share is given."""


def deal(seed: bytes, scalar: bytes, threshold: int, participants: int) -> list[Shares]:
    """Shares of both secrets, one for each place; t of them give the secret."""
    pairs = zip(shares_of(seed, threshold, participants), shares_of(scalar, threshold, participants), strict=True)
    return [Shares(*pair) for pair in pairs]


def seal(shares: Shares, key: bytes, context: bytes, dealer: int, receiver: int) -> bytes:
    """Shares for one receiver (292 bytes). Context and places are inside, so that they cannot pass for others."""
    return sealed(key, _header(context, dealer, receiver) + shares.seed + shares.key)


def unseal(token: bytes, key: bytes, context: bytes, dealer: int, receiver: int) -> Shares:
    """The shares that a dealer sealed for a receiver.

    Raises:
        SecureSumError: they were sealed under another key, for another hospital, session or list of hospitals.
    """
    try:
        plain = opened(key, token)
    except ValueError as error:
        raise SecureSumError("shares that were not sealed for this hospital, or were changed") from error
    if plain[:_HEADER_BYTES] != _header(context, dealer, receiver):
        raise SecureSumError("shares of another session, or of a hospital that was told of other hospitals")
    seed, scalar = plain[_HEADER_BYTES:-KEY_SHARE_BYTES], plain[-KEY_SHARE_BYTES:]
    number = (receiver + 1).to_bytes(4, "little")
    if len(seed) != SEED_SHARE_BYTES or seed[:4] != number or scalar[:4] != number:
        raise SecureSumError("shares of another size or number")
    return Shares(seed, scalar)


def digests_of(shares: Shares, terms: Terms, context: bytes, dealer: int, receiver: int) -> tuple[bytes, bytes]:
    """Digests (32 bytes each) of the share of the seed and the share of the key."""
    header = _header(context, dealer, receiver)
    return terms.digest(b"seed share", header, shares.seed), terms.digest(b"key share", header, shares.key)


def _header(context: bytes, dealer: int, receiver: int) -> bytes:
    return context + dealer.to_bytes(_PLACE_BYTES, "little") + receiver.to_bytes(_PLACE_BYTES, "little")
