"""Shares, keys and masks by themselves: sizes, thresholds, and a known keystream."""

import itertools

import numpy as np
import pytest

from common.secure_sum import primitives
from common.secure_sum.errors import SecureSumError
from common.secure_sum.masks import add_mask, pair_mask_key, pair_sign, self_mask_key
from common.secure_sum.messages import CIPHERTEXT_BYTES
from common.secure_sum.shares import NOTHING, deal, digests_of, seal, unseal
from common.secure_sum.sizes import POINT_BYTES
from tests.common.secure_sum.sessions import SUBJECT, roster

SEED = bytes(range(32))
CONTEXT = bytes(32)


def test_any_threshold_of_the_shares_give_the_secrets_and_fewer_do_not() -> None:
    key = primitives.new_key()
    dealt = deal(SEED, primitives.scalar_of(key), 3, 5)
    assert {len(one.seed) for one in dealt} == {len(NOTHING.seed)}
    assert {len(one.key) for one in dealt} == {len(NOTHING.key)}
    for some in itertools.combinations(dealt, 3):
        assert primitives.secret_of([one.seed for one in some]) == SEED
        assert primitives.point_of(
            primitives.key_of(primitives.secret_of([one.key for one in some]))
        ) == primitives.point_of(key)
    for few in itertools.combinations(dealt, 2):
        try:
            assert primitives.secret_of([one.seed for one in few]) != SEED
        except ValueError:
            continue


def test_both_of_a_pair_agree_on_a_key() -> None:
    one, other = primitives.new_key(), primitives.new_key()
    points = primitives.point_of(one), primitives.point_of(other)
    assert primitives.agreed_key(one, points[1]) == primitives.agreed_key(other, points[0])
    assert len(points[0]) == POINT_BYTES
    assert primitives.is_point(points[0])
    for wrong in (b"", bytes(97), points[0][:-1], b"\x04" + bytes(95) + b"\x01"):
        assert not primitives.is_point(wrong)
        with pytest.raises(ValueError):  # noqa: PT011  the text is cryptography's
            primitives.agreed_key(one, wrong)


def test_what_is_sealed_for_one_opens_for_it_alone() -> None:
    key, other = (
        primitives.agreed_key(primitives.new_key(), primitives.point_of(primitives.new_key())) for _ in range(2)
    )
    shares = deal(SEED, bytes(47) + b"\x01", 2, 3)[2]
    token = seal(shares, key, CONTEXT, 1, 2)
    assert len(token) == CIPHERTEXT_BYTES
    assert unseal(token, key, CONTEXT, 1, 2) == shares
    changed = bytes([*token[:-5], token[-5] ^ 1, *token[-4:]])
    for wrong_token, wrong_key in ((token, other), (changed, key), (b"", key), (bytes(CIPHERTEXT_BYTES), key)):
        with pytest.raises(SecureSumError, match="not sealed for this hospital, or were changed"):
            unseal(wrong_token, wrong_key, CONTEXT, 1, 2)
    for context, dealer, receiver in ((b"\x01" * 32, 1, 2), (CONTEXT, 0, 2), (CONTEXT, 1, 0)):
        with pytest.raises(SecureSumError, match="shares of another session"):
            unseal(token, key, context, dealer, receiver)
    for place in (0, 1):
        with pytest.raises(SecureSumError, match="another size or number"):
            unseal(seal(shares, key, CONTEXT, 1, place), key, CONTEXT, 1, place)


def test_digests_are_of_the_share_the_pair_and_the_session() -> None:
    terms, other = (SUBJECT.terms(roster(3), 3) for _ in range(2))
    shares, more = deal(SEED, bytes(47) + b"\x01", 2, 3)[:2]
    found = [
        *digests_of(shares, terms, CONTEXT, 0, 1),
        *digests_of(more, terms, CONTEXT, 0, 1),
        *digests_of(shares, terms, CONTEXT, 1, 0),
        *digests_of(shares, terms, b"\x01" * 32, 0, 1),
        *digests_of(shares, other, CONTEXT, 0, 1),
    ]
    assert len(set(found)) == 10


def test_a_mask_is_the_keystream_of_aes_256_in_counter_mode() -> None:
    """The first block is AES-256 of zeros under the key of zeros: dc95c078a2408989ad48a21492842087.

    Source: NIST, AESAVS, appendix; the known answer of the all-zero key and block.
    """
    vector = np.array([1, 2**64 - 1], np.uint64)
    add_mask(vector, bytes(32), 1)
    stream = np.frombuffer(bytes.fromhex("dc95c078a2408989ad48a21492842087"), "<u8")
    assert vector.tolist() == [(int(stream[0]) + 1) % 2**64, (int(stream[1]) - 1) % 2**64]


@pytest.mark.parametrize("length", [0, 1, 16_383, 16_384, 16_385, 40_000])
def test_what_is_added_is_taken_away_again(length: int) -> None:
    plain = np.arange(length, dtype=np.uint64)
    vector = plain.copy()
    add_mask(vector, SEED, 1)
    assert length == 0 or (vector != plain).mean() > 0.99
    assert len(np.unique(vector)) == length, "no piece of the keystream comes twice"
    add_mask(vector, SEED, -1)
    assert (vector == plain).all()


def test_a_longer_mask_begins_as_a_shorter_one() -> None:
    long, short = np.zeros(40_000, np.uint64), np.zeros(20_000, np.uint64)
    add_mask(long, SEED, 1)
    add_mask(short, SEED, 1)
    assert (long[:20_000] == short).all()


def test_every_mask_has_a_key_of_its_own() -> None:
    keys = [self_mask_key(SEED, CONTEXT, place) for place in range(3)]
    keys += [pair_mask_key(SEED, CONTEXT, one, other) for one, other in itertools.combinations(range(3), 2)]
    keys += [
        pair_mask_key(SEED, CONTEXT, 1, 1),
        self_mask_key(SEED, b"\x01" * 32, 0),
        self_mask_key(CONTEXT, CONTEXT, 0),
    ]
    keys.append(pair_mask_key(SEED, b"\x01" * 32, 0, 1))
    assert len(set(keys)) == len(keys)
    assert pair_mask_key(SEED, CONTEXT, 1, 2) == pair_mask_key(SEED, CONTEXT, 2, 1)
    assert pair_sign(1, 2) + pair_sign(2, 1) == 0
