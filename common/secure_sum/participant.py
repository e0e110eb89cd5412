"""The hospital's side of one session of a secure sum.

Each phase is answered once and in order; a message that is refused changes nothing. When the hospital has given its shares the
session is over and its secrets are dropped. Randomness is the operating system's, not an argument: whoever knew it could take the
masks off.

Letters: P participants, those that sent keys; L numbers of the vector; t threshold.
"""

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from common.packed import AnyArray, Packed
from common.secure_sum import messages, primitives
from common.secure_sum.acceptance import accepted, check_confirmations, check_listed, verified
from common.secure_sum.errors import SecureSumError
from common.secure_sum.masks import add_mask, pair_mask_key, pair_sign, self_mask_key
from common.secure_sum.messages import SignedKeys
from common.secure_sum.once import Once
from common.secure_sum.roster import Identity, PrivateKey
from common.secure_sum.rows import check_session, flags_in, rows_to_array
from common.secure_sum.shares import NOTHING, Shares, deal, digests_of, seal, unseal
from common.secure_sum.sizes import CIPHERTEXT_BYTES, DIGEST_BYTES, SEED_BYTES
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Phase, Terms

_AFTER: Mapping[Phase, tuple[Phase | None, ...]] = {
    Phase.KEYS: (None,),
    Phase.SHARES: (Phase.KEYS,),
    Phase.MASKED: (Phase.SHARES,),
    Phase.CONFIRM: (Phase.MASKED,),
    Phase.UNMASK: (Phase.MASKED, Phase.CONFIRM),
}
"""Which phase a phase may follow."""


@dataclass(frozen=True)
class _Secrets:
    """The private halves of the ephemeral keys, and the seed (32 bytes) of the self mask."""

    encryption: PrivateKey
    mask: PrivateKey
    seed: bytes


class Participant:
    """One hospital in one session. `answer` is all that is called; several threads may."""

    def __init__(
        self, identity: Identity, request: Packed, subject: Subject, once: Once, least_in_sum: int = 2
    ) -> None:
        """Begin, with the request of the phase KEYS, which `answer` is to answer next.

        subject: what this hospital is ready to add. least_in_sum: of how many hospitals a sum must be at least, by this
        hospital's policy.

        Raises:
            SecureSumError: the terms are not this hospital's: another job, purpose, layout or roster, or a threshold too low; or
                a sum for this purpose was opened before.
        """
        self._terms = accepted(request, identity, subject, least_in_sum)
        once.check(self._terms)
        self._identity, self._layout, self._once = identity, subject.layout, once
        self._secrets: _Secrets | None = _Secrets(
            primitives.new_key(), primitives.new_key(), secrets.token_bytes(SEED_BYTES)
        )
        self._last: Phase | None = None
        self._lock = threading.Lock()
        self._own = SignedKeys(identity.name, b"", b"", b"")
        self._peers: list[SignedKeys] = []
        self._place = 0
        self._context = b""
        self._agreed: list[bytes] = []
        self._held: dict[int, Shares] = {}
        self._shared: tuple[bool, ...] = ()
        self._confirmed: tuple[bool, ...] | None = None

    @property
    def terms(self) -> Terms:
        """What the session is about."""
        return self._terms

    def answer(self, phase: Phase, request: Packed, arrays: Mapping[str, AnyArray] | None = None) -> Packed:
        """The answer to the request of a phase; `arrays`, in the phase MASKED only, are what goes into the sum.

        Raises:
            SecureSumError: the request is out of order, repeated, of another session, or not what an honest coordinator sends;
                or the arrays do not fit the layout or its range. Nothing has left then.
        """
        with self._lock:
            check_session(request, self._terms.session)
            if self._secrets is None:
                raise SecureSumError("this session is over")
            if self._last not in _AFTER[phase]:
                raise SecureSumError(f"phase {phase} is out of order, or was answered before")
            if (phase is Phase.MASKED) != (arrays is not None):
                raise ValueError("arrays go with the phase MASKED, and with no other")
            reply = self._reply(phase, request, self._secrets, arrays or {})
            self._last = phase
            if phase is Phase.UNMASK:
                self._forget()
            return Packed(reply.arrays, {**reply.fields, "session": self._terms.session})

    def close(self) -> None:
        """Give the session up and drop its secrets."""
        with self._lock:
            self._forget()

    def _reply(self, phase: Phase, request: Packed, own: _Secrets, arrays: Mapping[str, AnyArray]) -> Packed:
        match phase:
            case Phase.KEYS:
                return self._keys(request, own)
            case Phase.SHARES:
                return self._shares(request, own)
            case Phase.MASKED:
                return self._masked(request, own, arrays)
            case Phase.CONFIRM:
                return self._confirm(request)
            case Phase.UNMASK:
                return self._unmask(request)

    def _keys(self, request: Packed, own: _Secrets) -> Packed:
        if Terms.unpack(request) != self._terms:
            raise SecureSumError("other terms than those this session began with")
        name = self._identity.name
        commitment = messages.commitment_to(own.seed, name, self._terms)
        keys = SignedKeys(name, primitives.point_of(own.encryption), primitives.point_of(own.mask), commitment)
        self._own = replace(keys, signature=self._identity.sign(keys.statement(self._terms)))
        return self._own.pack(self._terms.session)

    def _shares(self, request: Packed, own: _Secrets) -> Packed:
        terms = self._terms
        peers = verified(messages.unpack_keys(request), self._own, terms, self._identity.roster)
        context, place = messages.context_of(terms, peers), peers.index(self._own)
        agreed = [b"" if one is self._own else _agreed(own.encryption, one.encryption, one) for one in peers]
        dealt = deal(own.seed, primitives.scalar_of(own.mask), terms.threshold, len(peers))
        tokens = [
            bytes(CIPHERTEXT_BYTES) if to == place else seal(shares, agreed[to], context, place, to)
            for to, shares in enumerate(dealt)
        ]
        digests = [b"".join(digests_of(shares, terms, context, place, to)) for to, shares in enumerate(dealt)]
        self._peers, self._place, self._context, self._agreed = peers, place, context, agreed
        self._held = {place: dealt[place]}
        digest_rows = rows_to_array(digests).reshape(len(peers), 2, DIGEST_BYTES)
        return Packed(messages.Dealt(rows_to_array(tokens), digest_rows).pack())

    def _masked(self, request: Packed, own: _Secrets, arrays: Mapping[str, AnyArray]) -> Packed:
        count, place, context = len(self._peers), self._place, self._context
        shared = flags_in(request, "shared", count)
        check_listed(shared, (True,) * count, place, self._terms)
        dealt = messages.Dealt.unpack(request, count)
        others = [other for other in range(count) if shared[other] and other != place]
        held = {
            other: self._opened(other, dealt.ciphertexts[other].tobytes(), dealt.digests[other].tobytes())
            for other in others
        }
        vector = self._layout.pack(arrays, self._terms.hospitals)
        add_mask(vector, self_mask_key(own.seed, context, place), 1)
        for other in others:
            agreed = _agreed(own.mask, self._peers[other].mask, self._peers[other])
            add_mask(vector, pair_mask_key(agreed, context, place, other), pair_sign(place, other))
        self._held |= held
        self._shared = shared
        return Packed({"vector": vector})

    def _opened(self, dealer: int, token: bytes, digests: bytes) -> Shares:
        name = self._peers[dealer].hospital
        try:
            shares = unseal(token, self._agreed[dealer], self._context, dealer, self._place)
        except SecureSumError as error:
            raise SecureSumError(f"{name}: {error}", name) from error
        if b"".join(digests_of(shares, self._terms, self._context, dealer, self._place)) != digests:
            raise SecureSumError(f"{name}: shares that are not those of which it gave the digests", name)
        return shares

    def _confirm(self, request: Packed) -> Packed:
        survived = flags_in(request, "survived", len(self._peers))
        check_listed(survived, self._shared, self._place, self._terms)
        self._confirmed = survived
        statement = messages.confirmation(self._terms, self._context, self._shared, survived)
        return Packed({"signature": np.frombuffer(self._identity.sign(statement), np.uint8).copy()})

    def _unmask(self, request: Packed) -> Packed:
        survived = flags_in(request, "survived", len(self._peers))
        check_listed(survived, self._shared, self._place, self._terms)
        if self._confirmed not in (None, survived):
            raise SecureSumError("other survivors than those this hospital confirmed")
        if survived != self._shared:
            statement = messages.confirmation(self._terms, self._context, self._shared, survived)
            names = [one.hospital for one in self._peers]
            check_confirmations(request, survived, statement, names, self._terms, self._identity.roster)
        self._once.claim(self._terms)
        held = [self._held.get(dealer, NOTHING) for dealer in range(len(self._peers))]
        # Of a survivor the share of its seed, of one that was lost the share of its key; never both.
        return messages.pack_shares(
            [
                Shares(one.seed, NOTHING.key) if there else Shares(NOTHING.seed, one.key)
                for one, there in zip(held, survived, strict=True)
            ]
        )

    def _forget(self) -> None:
        # Python may keep copies of bytes; what is dropped here is every way to them.
        self._secrets = None
        self._agreed, self._held = [], {}


def _agreed(own: PrivateKey, point: bytes, other: SignedKeys) -> bytes:
    try:
        return primitives.agreed_key(own, point)
    except ValueError as error:
        raise SecureSumError(f"{other.hospital}: a key that is not on the curve", other.hospital) from error
