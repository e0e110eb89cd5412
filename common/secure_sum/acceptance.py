"""What a hospital checks before it goes on: the terms, the other hospitals' keys, the lists of who is left.

The roster by which it does is its own, from its kit.
"""

from collections.abc import Sequence
from itertools import pairwise

from common.packed import Packed
from common.secure_sum.errors import SecureSumError
from common.secure_sum.messages import SignedKeys
from common.secure_sum.primitives import is_point
from common.secure_sum.roster import Identity, Roster
from common.secure_sum.rows import bytes_in, flags_in
from common.secure_sum.sizes import SIGNATURE_BYTES
from common.secure_sum.subject import Subject
from common.secure_sum.terms import Terms

Flags = Sequence[bool]
"""One for each participant (P,)."""


def accepted(request: Packed, identity: Identity, subject: Subject, least_in_sum: int) -> Terms:
    """The terms of a request of the phase KEYS, if they are about what this hospital is ready to add.

    Raises:
        SecureSumError: they are not well made, about something else, of another roster, or of too few hospitals.
    """
    terms = Terms.unpack(request)
    if (terms.job_id, terms.purpose) != (subject.job_id, subject.purpose):
        raise SecureSumError("a sum of another job or for another purpose than this hospital is asked for")
    if terms.roster != identity.roster.digest:
        raise SecureSumError(
            "the coordinator has another roster than this hospital's kit; compare them, and renew the kit"
        )
    if terms.layout != subject.layout.digest:
        raise SecureSumError("the coordinator asks for other arrays than this hospital would send")
    if terms.threshold < least_in_sum:
        raise SecureSumError(
            f"threshold: this hospital's policy is at least {least_in_sum} hospitals in a sum, got {terms.threshold}"
        )
    return terms


def verified(keys: Sequence[SignedKeys], own: SignedKeys, terms: Terms, roster: Roster) -> list[SignedKeys]:
    """All participants' keys as a list that has `own` itself in it, if a hospital may go on with them.

    Raises:
        SecureSumError: a name twice or out of order; too many or too few; a hospital that is not in the roster or has not signed
            this; a key twice; one's own entry missing or changed.
    """
    names = [one.hospital for one in keys]
    if any(one >= other for one, other in pairwise(names)):
        raise SecureSumError("the hospitals are not in ascending order, or one is there twice")
    if not terms.threshold <= len(keys) <= terms.hospitals:
        raise SecureSumError(
            f"{len(keys)} hospitals take part, expected {terms.threshold} to {terms.hospitals}; a sum of fewer is not opened"
        )
    if own not in keys:
        raise SecureSumError("this hospital's own keys are missing or were changed")
    for one in keys:
        problem = problem_with_keys(one, terms, roster)
        if problem:
            # A name that is not in the roster is the coordinator's text.
            known = one.hospital if one.hospital in roster.keys else None
            raise SecureSumError(f"{known}: {problem}" if known else problem, known)
    points = [point for one in keys for point in (one.encryption, one.mask)]
    if len(set(points)) < len(points):
        raise SecureSumError("two keys of the session are the same")
    return [own if one == own else one for one in keys]


def problem_with_keys(keys: SignedKeys, terms: Terms, roster: Roster) -> str | None:
    """Why one hospital's keys are not to be used, or None."""
    if keys.hospital not in roster.keys:
        return "a hospital that is not in the roster"
    if not roster.verifies(keys.hospital, keys.signature, keys.statement(terms)):
        return "keys that its node key has not signed for this session"
    if not (is_point(keys.encryption) and is_point(keys.mask)):
        return "a key that is not on the curve"
    return None


def check_listed(listed: Flags, possible: Flags, place: int, terms: Terms) -> None:
    """Raise SecureSumError unless those listed are enough of those possible, with this hospital (place) among them."""
    if any(one and not before for one, before in zip(listed, possible, strict=True)):
        raise SecureSumError("a hospital is listed that had no part in the phase before")
    if not listed[place]:
        raise SecureSumError("this hospital is not in the list, so it has nothing to answer")
    if sum(listed) < terms.threshold:
        raise SecureSumError(
            f"{sum(listed)} hospitals are left and {terms.threshold} are needed; a sum of fewer is not opened"
        )


def check_confirmations(
    request: Packed, survived: Flags, statement: bytes, names: Sequence[str], terms: Terms, roster: Roster
) -> None:
    """Raise SecureSumError unless at least t of the survivors have signed the statement that they are the survivors.

    Source: Bonawitz et al. 2017, figure 4, rounds 3 and 4.
    """
    confirmed = flags_in(request, "confirmed", len(names))
    signatures = bytes_in(request, "signatures", (len(names), SIGNATURE_BYTES))
    if any(one and not there for one, there in zip(confirmed, survived, strict=True)):
        raise SecureSumError("a confirmation of a hospital that is not among the survivors")
    if sum(confirmed) < terms.threshold:
        raise SecureSumError(f"{sum(confirmed)} hospitals confirmed the survivors, {terms.threshold} are needed")
    for name, one, signature in zip(names, confirmed, signatures, strict=True):
        if one and not roster.verifies(name, signature.tobytes(), statement):
            raise SecureSumError(f"{name}: a confirmation that it has not signed, or of other survivors", name)
