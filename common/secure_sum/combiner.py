"""The coordinator's side of one session of a secure sum.

    while combiner.phase is not None:
        combiner.take(ask(combiner.phase, combiner.requests()))
    combiner.total

Hospitals may be missing in every phase; the session goes on while at least t are left. A hospital whose answer is wrong is left
out as if it had not answered, with the reason in `lost`; whose shares are wrong, is named in `Total.suspects`.

Letters: P participants, those that sent keys; L numbers of the vector; t threshold.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from common.packed import Packed
from common.secure_sum import messages
from common.secure_sum.acceptance import problem_with_keys
from common.secure_sum.errors import SecureSumError
from common.secure_sum.layout import Layout, Vector
from common.secure_sum.messages import Dealt, SignedKeys
from common.secure_sum.recovery import Session, take_masks_off
from common.secure_sum.roster import Roster
from common.secure_sum.rows import Bytes, bytes_in, check_session, flags_to_array, rows_to_array
from common.secure_sum.sizes import CIPHERTEXT_BYTES, DIGEST_BYTES, SIGNATURE_BYTES
from common.secure_sum.terms import Phase, Terms

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Total:
    """What a session ends with.

    arrays: the sums by name, counts int64 and reals float64. hospitals: whose numbers are in them. lost: who was asked and is not
    in them, and why. suspects: who gave wrong shares of others, which were not used.
    """

    arrays: Mapping[str, npt.NDArray[np.int64] | npt.NDArray[np.float64]]
    hospitals: tuple[str, ...]
    lost: Mapping[str, str]
    suspects: Mapping[str, str]


class Combiner:
    """One session: `phase` says what is to be asked now, `requests` whom and what; `take` has the answers."""

    def __init__(self, terms: Terms, layout: Layout, roster: Roster, hospitals: Collection[str]) -> None:
        """hospitals: who is asked, terms.hospitals of them, all in the roster.

        Raises:
            ValueError: the terms are for other arrays, another roster or fewer hospitals.
        """
        if (terms.layout, terms.roster) != (layout.digest, roster.digest) or len(set(hospitals)) > terms.hospitals:
            raise ValueError("terms of another layout or roster, or for fewer hospitals than are asked")
        self.phase: Phase | None = Phase.KEYS
        self.total: Total | None = None
        self.lost: dict[str, str] = {}
        self._terms, self._layout, self._roster = terms, layout, roster
        self._asked = sorted(set(hospitals))
        self._keys: list[SignedKeys] = []
        self._places: dict[str, int] = {}
        self._session = Session(terms, [], b"")
        self._dealt: dict[str, Dealt] = {}
        self._in_sum: list[str] = []
        self._sum: Vector = np.zeros(layout.length, np.uint64)
        self._confirmed: dict[str, bytes] = {}

    def requests(self) -> dict[str, Packed]:
        """What to ask in this phase, by hospital."""
        session, unsigned = {"session": self._terms.session}, bytes(SIGNATURE_BYTES)
        match self.phase:
            case Phase.KEYS:
                return dict.fromkeys(self._asked, self._terms.pack())
            case Phase.SHARES:
                return dict.fromkeys(self._asked, messages.pack_keys(self._keys, self._terms.session))
            case Phase.MASKED:
                return {name: Packed(self._shares_for(name), session) for name in self._asked}
            case Phase.CONFIRM:
                return dict.fromkeys(self._asked, Packed({"survived": self._flags(self._in_sum)}, session))
            case Phase.UNMASK:
                arrays = {
                    "survived": self._flags(self._in_sum),
                    "confirmed": self._flags(self._confirmed),
                    "signatures": rows_to_array([self._confirmed.get(one.hospital, unsigned) for one in self._keys]),
                }
                return dict.fromkeys(self._asked, Packed(arrays, session))
        return {}

    def take(self, replies: Mapping[str, Packed]) -> None:
        """The answers of this phase, by hospital; who is not there has not answered.

        Raises:
            SecureSumError: fewer than t hospitals are left, or a hospital dealt false shares (`about`). The session is over, and
                nobody's numbers are known.
        """
        phase, self.phase = self.phase, None
        match phase:
            case Phase.KEYS:
                self._take_keys(phase, replies)
            case Phase.SHARES:
                self._take_shares(phase, replies)
            case Phase.MASKED:
                self._take_masked(phase, replies)
            case Phase.CONFIRM:
                self._take_confirmations(phase, replies)
            case Phase.UNMASK:
                self._take_unmasked(phase, replies)

    def _take_keys(self, phase: Phase, replies: Mapping[str, Packed]) -> None:
        points: set[bytes] = set()

        def read(name: str, packed: Packed) -> SignedKeys:
            keys = SignedKeys.unpack(packed, name)
            problem = problem_with_keys(keys, self._terms, self._roster)
            if problem or {keys.encryption, keys.mask} & points or keys.encryption == keys.mask:
                raise SecureSumError(problem or "a key that is there twice")
            points.update((keys.encryption, keys.mask))
            return keys

        self._keys = list(self._read(phase, replies, read).values())
        self._places = {one.hospital: place for place, one in enumerate(self._keys)}
        self._session = Session(self._terms, self._keys, messages.context_of(self._terms, self._keys))
        self._asked, self.phase = list(self._places), Phase.SHARES

    def _take_shares(self, phase: Phase, replies: Mapping[str, Packed]) -> None:
        self._dealt = self._read(phase, replies, lambda _, packed: Dealt.unpack(packed, len(self._keys)))
        self._asked, self.phase = list(self._dealt), Phase.MASKED

    def _take_masked(self, phase: Phase, replies: Mapping[str, Packed]) -> None:
        length = self._layout.length
        vectors = self._read(phase, replies, lambda _, packed: messages.unpack_vector(packed, length))
        for vector in vectors.values():
            self._sum += vector
        self._in_sum = self._asked = list(vectors)
        self.phase = Phase.UNMASK if vectors.keys() == self._dealt.keys() else Phase.CONFIRM

    def _take_confirmations(self, phase: Phase, replies: Mapping[str, Packed]) -> None:
        shared, survived = (self._flags(names).tobytes() for names in (self._dealt, self._in_sum))
        statement = messages.confirmation(self._terms, self._session.context, shared, survived)

        def read(name: str, packed: Packed) -> bytes:
            signature = bytes_in(packed, "signature", (SIGNATURE_BYTES,)).tobytes()
            if not self._roster.verifies(name, signature, statement):
                raise SecureSumError("a confirmation that its node key has not signed")
            return signature

        self._confirmed = self._read(phase, replies, read, in_sum=True)
        self.phase = Phase.UNMASK

    def _take_unmasked(self, phase: Phase, replies: Mapping[str, Packed]) -> None:
        count = len(self._keys)
        given = self._read(phase, replies, lambda _, packed: messages.unpack_shares(packed, count), in_sum=True)
        suspects = take_masks_off(
            self._sum,
            self._session,
            {self._places[name]: dealt for name, dealt in self._dealt.items()},
            [self._places[name] for name in self._in_sum],
            {self._places[name]: shares for name, shares in given.items()},
        )
        self.total = Total(self._layout.unpack(self._sum), tuple(self._in_sum), dict(self.lost), suspects)

    def _read(
        self,
        phase: Phase,
        replies: Mapping[str, Packed],
        read: Callable[[str, Packed], _Answer],
        in_sum: bool = False,
    ) -> dict[str, _Answer]:
        """What those asked have answered, in the order of their names. in_sum: who is missing now is in the sum all the same."""
        answers: dict[str, _Answer] = {}
        lost: dict[str, str] = {}
        for name in self._asked:
            try:
                if name not in replies:
                    raise SecureSumError("no answer")
                check_session(replies[name], self._terms.session)
                answers[name] = read(name, replies[name])
            except SecureSumError as error:
                lost[name] = f"{phase}: {error}"
        if not in_sum:
            self.lost |= lost
        if len(answers) < self._terms.threshold:
            raise SecureSumError(
                f"secure sum, phase {phase}: {len(answers)} of {len(self._asked)} hospitals gave a usable answer, "
                f"{self._terms.threshold} are needed; nothing was revealed. Missing: "
                + "; ".join(f"{name} ({why})" for name, why in lost.items())
            )
        return answers

    def _shares_for(self, receiver: str) -> dict[str, Bytes]:
        place, nothing = self._places[receiver], bytes(CIPHERTEXT_BYTES)
        rows = [self._dealt.get(one.hospital) for one in self._keys]
        ciphertexts = [nothing if row is None else row.ciphertexts[place].tobytes() for row in rows]
        digests = [bytes(2 * DIGEST_BYTES) if row is None else row.digests[place].tobytes() for row in rows]
        dealt = Dealt(rows_to_array(ciphertexts), rows_to_array(digests).reshape(len(rows), 2, DIGEST_BYTES))
        return {"shared": self._flags(self._dealt), **dealt.pack()}

    def _flags(self, names: Collection[str]) -> Bytes:
        return flags_to_array([one.hospital in names for one in self._keys])
