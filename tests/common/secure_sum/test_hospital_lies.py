"""A hospital that deals or gives wrong shares is named, and the sum is right or stays closed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.packed import Packed
from common.secure_sum import participant
from common.secure_sum.errors import SecureSumError
from common.secure_sum.messages import SignedKeys, unpack_keys
from common.secure_sum.primitives import new_key, scalar_of
from common.secure_sum.shares import deal
from common.secure_sum.terms import Phase
from tests.common.secure_sum.sessions import LAYOUT, Session, changed, identity, names, plain_sum, session, terms_of

COUNT = 5
LIAR = "h01"


def lies(phase: Phase, change: Callable[[Packed], Packed]) -> Callable[[Phase, str, Packed], Packed]:
    """What `Session.tamper` does to the liar's answer in one phase."""
    return lambda at, name, reply: change(reply) if (at, name) == (phase, LIAR) else reply


def is_right(made: Session, among: list[str]) -> None:
    total = made.combiner.total
    assert total is not None
    assert list(total.hospitals) == among
    for name, wanted in plain_sum(made, among).items():
        np.testing.assert_allclose(total.arrays[name], wanted, atol=LAYOUT.slots[-1].error(COUNT) + 1e-9)


def wrong_bytes(array: Any, row: int) -> Any:
    array = array.copy()
    array[row, -1] ^= 1
    return array


@pytest.mark.parametrize("lost", [set(), {"h04"}])
def test_wrong_shares_of_others_are_left_out_and_named(lost: set[str], tmp_path: Path) -> None:
    which, of = ("key_shares", 4) if lost else ("seed_shares", 3)

    def change(reply: Packed) -> Packed:
        return changed(reply, **{which: wrong_bytes(reply.arrays[which.replace("_", "-")], of)})

    made = session(tmp_path, COUNT, threshold=3, tamper=lies(Phase.UNMASK, change)).until(None, {Phase.MASKED: lost})
    is_right(made, [name for name in names(COUNT) if name not in lost])
    assert made.combiner.total is not None
    assert made.combiner.total.suspects == {LIAR: f"gave a wrong share of h0{of}"}


def test_too_many_wrong_shares_keep_the_sum_closed(tmp_path: Path) -> None:
    def tamper(phase: Phase, name: str, reply: Packed) -> Packed:
        wrong = phase is Phase.UNMASK and name in ("h01", "h02")
        return changed(reply, seed_shares=wrong_bytes(reply.arrays["seed-shares"], 0)) if wrong else reply

    made = session(tmp_path, COUNT, tamper=tamper)
    with pytest.raises(
        SecureSumError, match=r"3 hospitals gave right shares of h00, 4 are needed; .* came from h01, h02"
    ):
        made.until(None)
    assert made.combiner.total is None


@pytest.mark.parametrize("of", ["seed", "key"])
def test_a_dealer_whose_shares_are_of_another_secret_is_named(of: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Every share has its digest; only what they give together is not what the dealer committed itself to."""
    made = session(tmp_path, COUNT, threshold=3).until(Phase.SHARES)
    liar = made.hospitals[LIAR]

    def other(seed: bytes, scalar: bytes, threshold: int, count: int) -> Any:
        return (
            deal(bytes(32), scalar, threshold, count)
            if of == "seed"
            else deal(seed, scalar_of(new_key()), threshold, count)
        )

    honest = liar.answer

    def lying(*arguments: Any) -> Packed:
        with monkeypatch.context() as patch:
            patch.setattr(participant, "deal", other)
            return honest(*arguments)

    monkeypatch.setattr(liar, "answer", lying)
    with pytest.raises(SecureSumError, match=r"h01 dealt shares that are not of the .* stays closed") as caught:
        made.until(None, {Phase.MASKED: {LIAR} if of == "key" else set()})
    assert (caught.value.about, made.combiner.total) == (LIAR, None)


def test_a_dealer_whose_shares_give_no_secret_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    made = session(tmp_path, COUNT, threshold=3).until(Phase.SHARES)
    honest = made.hospitals[LIAR].answer

    def other(seed: bytes, scalar: bytes, threshold: int, count: int) -> Any:
        dealt = deal(seed, scalar, threshold, count)
        return [replace(one, seed=one.seed[:4] + bytes(48), key=one.key[:4] + bytes(64)) for one in dealt]

    def lying(*arguments: Any) -> Packed:
        with monkeypatch.context() as patch:
            patch.setattr(participant, "deal", other)
            return honest(*arguments)

    monkeypatch.setattr(made.hospitals[LIAR], "answer", lying)
    with pytest.raises(SecureSumError, match="h01 dealt shares that are not of the seed"):
        made.until(None)


def test_shares_that_do_not_fit_their_digests_are_found_by_the_receiver(tmp_path: Path) -> None:
    """Before it masks anything, so that a wrong share later on is its giver's lie."""

    def change(reply: Packed) -> Packed:
        digests = reply.arrays["digests"].copy()
        digests[0] ^= 1  # type: ignore[operator]
        return changed(reply, digests=digests)

    made = session(tmp_path, COUNT, threshold=3, tamper=lies(Phase.SHARES, change)).until(None)
    assert "h01: shares that are not those of which it gave the digests" in str(made.refusals["h00"])
    assert made.refusals["h00"].about == LIAR
    is_right(made, names(COUNT)[1:])


def test_ciphertexts_that_do_not_open_are_the_dealers(tmp_path: Path) -> None:
    def change(reply: Packed) -> Packed:
        return changed(reply, ciphertexts=wrong_bytes(reply.arrays["ciphertexts"], 0))

    made = session(tmp_path, COUNT, threshold=3, tamper=lies(Phase.SHARES, change)).until(None)
    assert made.refusals["h00"].about == LIAR
    is_right(made, names(COUNT)[1:])


def test_keys_that_no_hospital_would_accept_are_left_out_by_the_coordinator(tmp_path: Path) -> None:
    """Or every other hospital would have to refuse the session."""

    def signed(keys: SignedKeys, made: Session, **change: bytes) -> Packed:
        wrong = replace(keys, **change)
        signature = identity(COUNT, LIAR).sign(wrong.statement(terms_of(made)))
        return replace(wrong, signature=signature).pack(terms_of(made).session)

    for case, reason in (
        ("signature", "its node key has not signed"),
        ("curve", "not on the curve"),
        ("twice", "a key that is there twice"),
        ("another's", "a key that is there twice"),
    ):
        made = session(tmp_path, COUNT, threshold=3)

        def change(reply: Packed, made: Session = made, case: str = case) -> Packed:
            keys = SignedKeys.unpack(reply, LIAR)
            if case == "signature":
                return changed(reply, signature=np.zeros(96, np.uint8))
            point = {"curve": bytes(97), "twice": keys.encryption}.get(case)
            if point is None:
                point = SignedKeys.unpack(made.replies[Phase.KEYS]["h00"], "h00").mask
            return signed(keys, made, mask=point)

        made.tamper = lies(Phase.KEYS, change)
        made.until(None)
        assert reason in made.combiner.lost[LIAR]
        assert LIAR not in [one.hospital for one in unpack_keys(made.requests[Phase.SHARES]["h00"])]
        is_right(made, [name for name in names(COUNT) if name != LIAR])


def test_a_confirmation_of_other_survivors_is_left_out(tmp_path: Path) -> None:
    made = session(tmp_path, COUNT, threshold=3)
    made.tamper = lies(Phase.CONFIRM, lambda reply: changed(reply, signature=np.ones(96, np.uint8)))
    made.until(None, {Phase.MASKED: {"h04"}})
    assert made.requests[Phase.UNMASK]["h00"].arrays["confirmed"].tolist() == [1, 0, 1, 1, 0]
    is_right(made, names(COUNT)[:4])
