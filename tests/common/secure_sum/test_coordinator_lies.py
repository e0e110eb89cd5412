"""What a coordinator that does not keep to the protocol is refused: every hospital of these tests is honest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from common.packed import Packed
from common.secure_sum import primitives
from common.secure_sum.errors import SecureSumError
from common.secure_sum.layout import Layout
from common.secure_sum.messages import SignedKeys, pack_keys, unpack_keys
from common.secure_sum.once import Once
from common.secure_sum.participant import Participant
from common.secure_sum.roster import Identity, Roster, public_line
from common.secure_sum.terms import Phase, Terms
from tests.common.secure_sum.sessions import SUBJECT, Session, changed, identity, names, roster, session, terms_of

COUNT = 5
"""Hospitals; four of them are the threshold."""
ME = "h02"


def at(phase: Phase, folder: Path, threshold: int | None = None, **missing: set[str]) -> tuple[Session, Packed]:
    """A session where a phase is about to be asked, and what hospital ME would be asked."""
    made = session(folder, COUNT, threshold)
    made.until(phase, {Phase(name): who for name, who in missing.items()})
    return made, made.combiner.requests()[ME]


def refused(made: Session, phase: Phase, request: Packed, match: str) -> SecureSumError:
    """ME refuses, and afterwards answers the honest request as if nothing had been."""
    arrays = made.arrays[ME] if phase is Phase.MASKED else None
    with pytest.raises(SecureSumError, match=match) as caught:
        made.hospitals[ME].answer(phase, request, arrays)
    made.step()
    assert ME in made.replies[phase]
    return caught.value


# The terms


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"job_id": "b" * 64}, "another job"),
        ({"purpose": "fit:1"}, "another purpose"),
        ({"roster": "b" * 64}, "another roster"),
        ({"layout": "b" * 64}, "other arrays"),
        ({"threshold": 2}, "threshold: expected 3 to 5 of 5 hospitals, got 2"),
        ({"threshold": 6}, "threshold"),
        ({"hospitals": 1, "threshold": 1}, "hospitals: expected 2 to 255"),
        ({"session": "short"}, "session: expected 64 hex"),
        ({"purpose": "two words"}, "purpose: expected"),
    ],
)
def test_terms_that_are_not_the_hospitals(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    terms = replace(SUBJECT.terms(roster(COUNT), COUNT), **change)
    with pytest.raises(SecureSumError, match=match):
        Participant(identity(COUNT, ME), terms.pack(), SUBJECT, Once(tmp_path))


def test_fewer_in_the_sum_than_the_hospitals_policy(tmp_path: Path) -> None:
    terms = SUBJECT.terms(roster(COUNT), COUNT)
    with pytest.raises(SecureSumError, match="policy is at least 5 hospitals in a sum, got 4"):
        Participant(identity(COUNT, ME), terms.pack(), SUBJECT, Once(tmp_path), least_in_sum=5)


def test_terms_of_other_types(tmp_path: Path) -> None:
    fields = dict(SUBJECT.terms(roster(COUNT), COUNT).pack().fields)
    for change in ({"threshold": "4"}, {"threshold": True}, {"session": 7}):
        with pytest.raises(SecureSumError, match=f"field '{next(iter(change))}': expected"):
            Terms.unpack(Packed(fields={**fields, **change}))  # type: ignore[dict-item]
    del fields["layout"]
    with pytest.raises(SecureSumError, match="field 'layout': expected str"):
        Terms.unpack(Packed(fields=fields))


def test_terms_that_change_once_the_session_began(tmp_path: Path) -> None:
    made, request = at(Phase.KEYS, tmp_path)
    refused(made, Phase.KEYS, Packed(fields={**request.fields, "threshold": 5}), "other terms")


# The keys


def other_keys(request: Packed, name: str, terms: Terms, signer: Identity | None = None) -> Packed:
    """The keys of one hospital are of the coordinator's making, signed by itself or not at all."""
    keys = unpack_keys(request)
    place = names(COUNT).index(name)
    points = [primitives.point_of(primitives.new_key()) for _ in range(2)]
    forged = SignedKeys(name, *points, keys[place].commitment, keys[place].signature)
    if signer:
        forged = replace(forged, signature=signer.sign(forged.statement(terms)))
    keys[place] = forged
    return pack_keys(keys, terms.session)


def test_a_coordinator_in_the_middle(tmp_path: Path) -> None:
    """It puts its own keys in the place of a hospital's, with the old signature, or signed by a key that is not in the roster."""
    made, request = at(Phase.SHARES, tmp_path)
    forged = other_keys(request, "h01", terms_of(made))
    assert refused(made, Phase.SHARES, forged, "h01: keys that its node key has not signed").about == "h01"
    made, request = at(Phase.SHARES, tmp_path)
    mine = ec.generate_private_key(ec.SECP384R1())
    impostor = Identity("h01", mine, Roster({"h01": public_line(mine)}))
    refused(made, Phase.SHARES, other_keys(request, "h01", terms_of(made), impostor), "has not signed")


def test_another_hospital_cannot_sign_for_one(tmp_path: Path) -> None:
    made, request = at(Phase.SHARES, tmp_path)
    forged = other_keys(request, "h01", terms_of(made), identity(COUNT, "h04"))
    refused(made, Phase.SHARES, forged, "h01: keys that its node key has not signed")


def test_a_hospital_that_is_not_in_the_roster(tmp_path: Path) -> None:
    """Its name is the coordinator's text, so the refusal does not repeat it."""
    made, request = at(Phase.SHARES, tmp_path)
    keys = unpack_keys(request)
    mine = ec.generate_private_key(ec.SECP384R1())
    stranger = replace(keys[1], hospital="h01x")
    signature = Identity("h01x", mine, Roster({"h01x": public_line(mine)})).sign(stranger.statement(terms_of(made)))
    keys[1] = replace(stranger, signature=signature)
    error = refused(made, Phase.SHARES, pack_keys(keys, terms_of(made).session), "not in the roster")
    assert (error.about, "h01x" in str(error)) == (None, False)


def test_ones_own_keys_changed_or_missing(tmp_path: Path) -> None:
    made, request = at(Phase.SHARES, tmp_path)
    own = identity(COUNT, ME)
    refused(made, Phase.SHARES, other_keys(request, ME, terms_of(made), own), "own keys are missing or were changed")
    made, request = at(Phase.SHARES, tmp_path)
    others = [one for one in unpack_keys(request) if one.hospital != ME]
    refused(made, Phase.SHARES, pack_keys(others, terms_of(made).session), "own keys are missing")


def test_a_hospital_twice_too_few_or_out_of_order(tmp_path: Path) -> None:
    for pick, match in (
        ((0, 1, 1, 2, 3), "ascending order, or one is there twice"),
        ((1, 0, 2, 3, 4), "ascending order"),
        ((0, 1, 2), "3 hospitals take part, expected 4 to 5"),
    ):
        made, request = at(Phase.SHARES, tmp_path)
        keys = unpack_keys(request)
        refused(made, Phase.SHARES, pack_keys([keys[place] for place in pick], terms_of(made).session), match)


def test_a_key_that_two_hospitals_have(tmp_path: Path) -> None:
    """Even if it is signed, as by a hospital that colludes."""
    made, request = at(Phase.SHARES, tmp_path)
    keys = unpack_keys(request)
    same = replace(keys[1], mask=keys[0].mask)
    keys[1] = replace(same, signature=identity(COUNT, "h01").sign(same.statement(terms_of(made))))
    refused(made, Phase.SHARES, pack_keys(keys, terms_of(made).session), "two keys of the session are the same")


def test_a_key_that_is_not_on_the_curve(tmp_path: Path) -> None:
    made, request = at(Phase.SHARES, tmp_path)
    keys = unpack_keys(request)
    wrong = replace(keys[1], mask=bytes(97))
    keys[1] = replace(wrong, signature=identity(COUNT, "h01").sign(wrong.statement(terms_of(made))))
    refused(made, Phase.SHARES, pack_keys(keys, terms_of(made).session), "h01: a key that is not on the curve")


def test_keys_of_an_earlier_session(tmp_path: Path) -> None:
    old, _ = at(Phase.SHARES, tmp_path)
    made, request = at(Phase.SHARES, tmp_path)
    keys = unpack_keys(request)
    keys[0] = unpack_keys(old.combiner.requests()[ME])[0]
    refused(
        made,
        Phase.SHARES,
        pack_keys(keys, terms_of(made).session),
        "h00: keys that its node key has not signed for this",
    )


# The shares


def test_ciphertexts_of_another_dealer_receiver_or_session(tmp_path: Path) -> None:
    made, request = at(Phase.MASKED, tmp_path)
    ciphertexts = request.arrays["ciphertexts"]
    swapped = changed(request, ciphertexts=ciphertexts[[1, 0, 2, 3, 4]])
    assert refused(made, Phase.MASKED, swapped, "h00: shares that were not sealed for this hospital").about == "h00"
    made, request = at(Phase.MASKED, tmp_path)
    for_another = made.combiner.requests()["h03"].arrays
    other = changed(request, ciphertexts=for_another["ciphertexts"], digests=for_another["digests"])
    refused(made, Phase.MASKED, other, "not sealed for this hospital")
    made, request = at(Phase.MASKED, tmp_path)
    refused(made, Phase.MASKED, changed(request, ciphertexts=ciphertexts), "not sealed for this hospital")


def test_an_old_conversation_with_a_hospital_in_the_same_session_is_no_part_of_a_new_one(tmp_path: Path) -> None:
    """A coordinator uses a session's number again and plays a hospital's old keys and shares to one that begins anew.

    The keys are still signed for that session, but the shares were sealed for the keys that ME had before.
    """
    made, request = at(Phase.MASKED, tmp_path)
    keys = made.requests[Phase.SHARES][ME]
    again = Participant(identity(COUNT, ME), made.requests[Phase.KEYS][ME], SUBJECT, Once(tmp_path / "again"))
    new = SignedKeys.unpack(again.answer(Phase.KEYS, made.requests[Phase.KEYS][ME]), ME)
    mixed = [new if one.hospital == ME else one for one in unpack_keys(keys)]
    again.answer(Phase.SHARES, pack_keys(mixed, terms_of(made).session))
    with pytest.raises(SecureSumError, match="h00: shares that were not sealed for this hospital"):
        again.answer(Phase.MASKED, request, made.arrays[ME])


def test_hospitals_that_were_told_of_other_hospitals(tmp_path: Path) -> None:
    """The coordinator hides h04 from ME, and h00 from the others: what they seal for each other does not open."""
    made, request = at(Phase.SHARES, tmp_path, threshold=3)
    keys = unpack_keys(request)
    made.hospitals[ME].answer(Phase.SHARES, pack_keys(keys[:4], terms_of(made).session))
    dealt = {}
    for name in ("h01", "h03", "h04"):
        dealt[name] = made.hospitals[name].answer(Phase.SHARES, pack_keys(keys[1:], terms_of(made).session)).arrays
    ciphertexts, digests = np.zeros((4, 292), np.uint8), np.zeros((4, 2, 32), np.uint8)
    for place, name in ((1, "h01"), (3, "h03")):
        ciphertexts[place] = dealt[name]["ciphertexts"][1]
        digests[place] = dealt[name]["digests"][1]
    arrays = {"shared": np.array([0, 1, 1, 1], np.uint8), "ciphertexts": ciphertexts, "digests": digests}
    with pytest.raises(
        SecureSumError, match="h01: shares of another session, or of a hospital that was told of other hosp"
    ):
        made.hospitals[ME].answer(Phase.MASKED, Packed(arrays, request.fields), made.arrays[ME])


def test_too_few_that_shared_or_without_the_hospital_itself(tmp_path: Path) -> None:
    for shared, match in (
        ([1, 1, 1, 0, 0], "3 hospitals are left and 4 are needed"),
        ([1, 1, 0, 1, 1], "this hospital is not in the list"),
        ([2, 1, 1, 1, 1], "expected 1 or 0"),
    ):
        made, request = at(Phase.MASKED, tmp_path)
        refused(made, Phase.MASKED, changed(request, shared=np.array(shared, np.uint8)), match)


# The lists of survivors


def test_lists_of_survivors_that_are_refused(tmp_path: Path) -> None:
    for phase in (Phase.CONFIRM, Phase.UNMASK):
        for survived, match in (
            ([1, 1, 1, 0, 0], "3 hospitals are left and 4 are needed; a sum of fewer is not opened"),
            ([1, 1, 0, 1, 1], "this hospital is not in the list"),
        ):
            made, request = at(phase, tmp_path, masked={"h04"})
            refused(made, phase, changed(request, survived=np.array(survived, np.uint8)), match)
        made, request = at(
            phase, tmp_path, shares={"h00"}, masked=set() if phase is Phase.UNMASK else {"h04"}, threshold=3
        )
        refused(made, phase, changed(request, survived=np.ones(COUNT, np.uint8)), "had no part in the phase before")


def test_a_list_that_too_few_have_confirmed(tmp_path: Path) -> None:
    made, request = at(Phase.UNMASK, tmp_path, masked={"h04"})
    confirmed = request.arrays["confirmed"].copy()
    confirmed[0] = 0
    refused(
        made, Phase.UNMASK, changed(request, confirmed=confirmed), "3 hospitals confirmed the survivors, 4 are needed"
    )


def test_a_confirmation_that_was_not_signed(tmp_path: Path) -> None:
    made, request = at(Phase.UNMASK, tmp_path, masked={"h04"})
    signatures = request.arrays["signatures"].copy()
    signatures[0, -1] ^= 1
    assert refused(made, Phase.UNMASK, changed(request, signatures=signatures), "h00: a confirmation").about == "h00"
    made, request = at(Phase.UNMASK, tmp_path, masked={"h04"})
    refused(made, Phase.UNMASK, changed(request, confirmed=np.ones(COUNT, np.uint8)), "that is not among the survivors")


def test_a_coordinator_that_calls_a_survivor_lost_without_a_confirmation(tmp_path: Path) -> None:
    """Nobody was lost; it says so to some and of h04 to others, to have both its secrets."""
    made, request = at(Phase.UNMASK, tmp_path)
    lie = changed(request, survived=np.array([1, 1, 1, 1, 0], np.uint8))
    refused(made, Phase.UNMASK, lie, "0 hospitals confirmed the survivors, 4 are needed")


def test_other_survivors_than_those_that_were_confirmed(tmp_path: Path) -> None:
    made, request = at(Phase.UNMASK, tmp_path, masked={"h04"}, threshold=3)
    for survived in ([1, 1, 1, 0, 0], [1, 1, 1, 1, 1]):
        lie = changed(request, survived=np.array(survived, np.uint8))
        with pytest.raises(SecureSumError, match="other survivors than those this hospital confirmed"):
            made.hospitals[ME].answer(Phase.UNMASK, lie)


def test_both_shares_of_one_hospital(tmp_path: Path) -> None:
    """No request can ask for both: it is in the list of survivors or it is not. And a second request is refused."""
    made, request = at(Phase.UNMASK, tmp_path, masked={"h04"})
    given = made.hospitals[ME].answer(Phase.UNMASK, request).arrays
    seeds, keys = given["seed-shares"].any(axis=1), given["key-shares"].any(axis=1)
    assert (seeds.tolist(), keys.tolist()) == ([True, True, True, True, False], [False, False, False, False, True])
    for survived in ([1, 1, 1, 1, 0], [1, 1, 1, 0, 1]):
        with pytest.raises(SecureSumError, match="this session is over"):
            made.hospitals[ME].answer(Phase.UNMASK, changed(request, survived=np.array(survived, np.uint8)))


def test_no_hospital_gives_shares_of_one_that_dealt_none(tmp_path: Path) -> None:
    made, request = at(Phase.UNMASK, tmp_path, shares={"h00"})
    given = made.hospitals[ME].answer(Phase.UNMASK, request).arrays
    assert not given["seed-shares"][0].any()
    assert not given["key-shares"].any()


# Order, and once


@pytest.mark.parametrize("now", [Phase.KEYS, Phase.SHARES, Phase.MASKED, Phase.CONFIRM, Phase.UNMASK])
def test_every_phase_out_of_order_or_again(now: Phase, tmp_path: Path) -> None:
    made, request = at(now, tmp_path, masked={"h04"})
    can = {now, Phase.UNMASK} if now is Phase.CONFIRM else {now}
    for phase in set(Phase) - can:
        with pytest.raises(SecureSumError, match=f"phase {phase} is out of order, or was answered before"):
            made.hospitals[ME].answer(phase, request, made.arrays[ME] if phase is Phase.MASKED else None)
    made.step()
    with pytest.raises(SecureSumError, match=r"out of order|is over"):
        made.hospitals[ME].answer(now, request, made.arrays[ME] if now is Phase.MASKED else None)


def test_messages_of_another_session(tmp_path: Path) -> None:
    for phase in Phase:
        _, foreign = at(phase, tmp_path, masked={"h04"})
        made, _ = at(phase, tmp_path, masked={"h04"})
        refused(made, phase, foreign, "a message of another session")


def test_a_replay_under_this_sessions_name(tmp_path: Path) -> None:
    """The old confirmations, lists and ciphertexts, with the session's number changed."""
    _, foreign = at(Phase.UNMASK, tmp_path, masked={"h04"})
    made, _ = at(Phase.UNMASK, tmp_path, masked={"h04"})
    replay = Packed(foreign.arrays, {"session": terms_of(made).session})
    refused(made, Phase.UNMASK, replay, "h00: a confirmation that it has not signed")


def test_a_second_sum_for_the_same_purpose_is_never_opened(tmp_path: Path) -> None:
    """Also after a restart, and in a session that was under way when the first was opened."""
    once = Once(tmp_path / "opened")
    first, second = (session(tmp_path, COUNT) for _ in range(2))
    for made in (first, second):
        made.hospitals[ME] = Participant(identity(COUNT, ME), made.combiner.requests()[ME], SUBJECT, once)
    second.until(Phase.UNMASK)
    first.until(None)
    assert ME in first.replies[Phase.UNMASK]
    second.step()
    assert "has helped to open a sum for 'statistics' of this job" in str(second.refusals[ME])
    terms = SUBJECT.terms(roster(COUNT), COUNT)
    with pytest.raises(SecureSumError, match="has helped to open"):
        Participant(identity(COUNT, ME), terms.pack(), SUBJECT, Once(tmp_path / "opened"))
    other = replace(SUBJECT, purpose="fit:1")
    Participant(identity(COUNT, ME), other.terms(roster(COUNT), COUNT).pack(), other, once)


def test_shares_are_not_given_when_that_cannot_be_written_down(tmp_path: Path) -> None:
    made = session(tmp_path, COUNT)
    (tmp_path / "file").write_text("")
    once = Once(tmp_path / "file")
    made.hospitals[ME] = Participant(identity(COUNT, ME), made.combiner.requests()[ME], SUBJECT, once)
    made.until(None)
    assert "cannot write down" in str(made.refusals[ME])


def test_a_session_that_is_over_has_no_secrets_left(tmp_path: Path) -> None:
    made = session(tmp_path, COUNT).until(None)
    given_up = session(tmp_path, COUNT).until(Phase.UNMASK)
    for hospital in given_up.hospitals.values():
        hospital.close()
    for hospital in (*made.hospitals.values(), *given_up.hospitals.values()):
        state = vars(hospital)
        assert (state["_secrets"], state["_agreed"], state["_held"]) == (None, [], {})
    with pytest.raises(SecureSumError, match="this session is over"):
        given_up.hospitals[ME].answer(Phase.UNMASK, given_up.combiner.requests()[ME])


def test_no_refusal_tells_a_secret(tmp_path: Path) -> None:
    """Texts of refusals are words, names and small numbers; no bytes of keys, seeds or shares, and no number of a vector."""
    made, request = at(Phase.MASKED, tmp_path)
    made.arrays[ME]["gram"][0, 0] = 3.4567e20
    with pytest.raises(SecureSumError) as caught:
        made.hospitals[ME].answer(Phase.MASKED, request, made.arrays[ME])
    assert "345" not in str(caught.value)
    assert "3.45" not in str(caught.value)


def test_messages_that_are_no_messages(tmp_path: Path) -> None:
    made, request = at(Phase.SHARES, tmp_path)
    for wrong in (
        Packed({}, request.fields),
        Packed(request.arrays, {"session": request.fields["session"]}),
        changed(request, mask_key=request.arrays["mask-key"].astype(np.int64)),
        changed(request, mask_key=request.arrays["mask-key"][:, :-1]),
    ):
        with pytest.raises(SecureSumError, match=r"array '.*': expected uint8"):
            made.hospitals[ME].answer(Phase.SHARES, wrong)
    with pytest.raises(ValueError, match="arrays go with the phase MASKED"):
        made.hospitals[ME].answer(Phase.SHARES, request, made.arrays[ME])


def test_what_both_sides_sum_must_be_the_same_arrays(tmp_path: Path) -> None:
    other = replace(SUBJECT, layout=Layout(SUBJECT.layout.slots[:1]))
    with pytest.raises(SecureSumError, match="asks for other arrays"):
        Participant(identity(COUNT, ME), SUBJECT.terms(roster(COUNT), COUNT).pack(), other, Once(tmp_path))
