"""From the shares that survivors gave to the secrets, and the masks off the sum.

Letters: L numbers of the vector, P participants by their places 0..P-1, t threshold.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from common.secure_sum.errors import SecureSumError
from common.secure_sum.layout import Vector
from common.secure_sum.masks import add_mask, pair_mask_key, pair_sign, self_mask_key
from common.secure_sum.messages import Dealt, SignedKeys, commitment_to
from common.secure_sum.primitives import agreed_key, key_of, point_of, secret_of
from common.secure_sum.roster import PrivateKey
from common.secure_sum.shares import Shares, digests_of
from common.secure_sum.terms import Terms


@dataclass(frozen=True)
class Session:
    """What both sides know after the phase SHARES: the terms, all participants' keys (P of them), and the digest of both."""

    terms: Terms
    keys: Sequence[SignedKeys]
    context: bytes


def take_masks_off(
    total: Vector,
    session: Session,
    dealt: Mapping[int, Dealt],
    survivors: Collection[int],
    given: Mapping[int, Sequence[Shares]],
) -> dict[str, str]:
    """Of the sum (L,) of the survivors' vectors, in place; returns which hospitals gave wrong shares, and of whom.

    dealt: by dealer, among them those that were lost before they sent a vector. given: by giver, shares of all P dealers.

    Raises:
        SecureSumError: fewer than t shares of a secret are right, or they are not of the secret that its hospital began with.
    """
    suspects: dict[str, str] = {}
    for dealer, one in sorted(dealt.items()):
        shares = _right_shares(session, dealer, one, dealer in survivors, given, suspects)
        if dealer in survivors:
            add_mask(total, self_mask_key(_seed(session, dealer, shares), session.context, dealer), -1)
            continue
        key = _key(session, dealer, shares)
        for survivor in survivors:
            agreed = agreed_key(key, session.keys[survivor].mask)
            add_mask(total, pair_mask_key(agreed, session.context, survivor, dealer), -pair_sign(survivor, dealer))
    return suspects


def _right_shares(
    session: Session,
    dealer: int,
    dealt: Dealt,
    survived: bool,
    given: Mapping[int, Sequence[Shares]],
    suspects: dict[str, str],
) -> list[bytes]:
    """The first t shares of a survivor's seed, or of the key of one that was lost, that have the digests their dealer gave."""
    name, which = session.keys[dealer].hospital, 0 if survived else 1
    right = []
    for giver, shares in sorted(given.items()):
        found = digests_of(shares[dealer], session.terms, session.context, dealer, giver)[which]
        if found == dealt.digests[giver, which].tobytes():
            right.append(shares[dealer].seed if survived else shares[dealer].key)
        else:
            suspects[session.keys[giver].hospital] = f"gave a wrong share of {name}"
    threshold = session.terms.threshold
    if len(right) < threshold:
        raise SecureSumError(
            f"{len(right)} hospitals gave right shares of {name}, {threshold} are needed; this sum stays closed. Wrong ones came "
            f"from {', '.join(sorted(suspects))}: go on without them"
        )
    return right[:threshold]


def _seed(session: Session, dealer: int, shares: list[bytes]) -> bytes:
    keys = session.keys[dealer]
    try:
        seed = secret_of(shares)
    except ValueError:
        seed = b""
    if commitment_to(seed, keys.hospital, session.terms) != keys.commitment:
        raise _false_dealer(keys.hospital, "the seed it began with")
    return seed


def _key(session: Session, dealer: int, shares: list[bytes]) -> PrivateKey:
    keys = session.keys[dealer]
    try:
        key = key_of(secret_of(shares))
    except ValueError as error:
        raise _false_dealer(keys.hospital, "a key") from error
    if point_of(key) != keys.mask:
        raise _false_dealer(keys.hospital, "the key that it signed")
    return key


def _false_dealer(hospital: str, what: str) -> SecureSumError:
    return SecureSumError(
        f"{hospital} dealt shares that are not of {what}, so this sum stays closed. Ask {hospital} what it runs, and go on "
        "without it",
        hospital,
    )
