import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from client.duplicates import thumbnail
from client.likeness import (
    CHANGES,
    canonical_codes,
    changed,
    code_of,
    codes,
    frequencies,
    like_pairs,
    same_film,
    words_of,
)


def textured(seed, size=(160, 128)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def apply(picture, change):
    turned = picture.rotate(90 * change.turns, expand=True)
    mirrored = ImageOps.mirror(turned) if change.mirrored else turned
    return ImageOps.invert(mirrored) if change.negative else mirrored


def saved_again(picture, quality=70, scale=0.6):
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.point([round(255 * (value / 255) ** 1.3) for value in range(256)]).save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("L")


def pairs_of(pictures):
    small = [thumbnail(picture) for picture in pictures]
    return like_pairs([code_of(one) for one in small], lambda at: small[at])


def lows(*pictures):
    return frequencies(np.stack([thumbnail(picture) for picture in pictures]))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.words)
def test_the_signs_of_a_changed_picture_follow_from_those_of_the_picture(change):
    low, after = lows(textured(1), apply(textured(1), change))
    sure = np.abs(after) > 1e-2 * np.abs(after).max()
    assert sure.mean() > 0.9
    assert ((changed(low > 0, change) == (after > 0)) | ~sure).all()


def test_a_code_is_63_bits_and_knows_nothing_of_the_constant():
    signs = np.zeros((1, 8, 8), bool)
    signs[0, 0, 0] = True
    assert codes(signs).tolist() == [0]
    signs[0, 7, 7] = True
    assert codes(signs).tolist() == [1]
    signs[0, 0, 1] = True
    assert codes(signs).tolist() == [2**62 + 1]


@given(st.integers(0, 2**32 - 1), st.sampled_from(CHANGES))
def test_a_changed_pattern_has_the_same_canonical_codes(seed, change):
    """Exactly, for any pattern: what is least over all changes does not depend on which of them was there."""
    low = np.random.default_rng(seed).normal(size=(1, 8, 8)).astype(np.float32)
    low[:, 0, 0] = 0
    sizes = np.abs(low)
    odd = np.arange(8) % 2 == 1
    for _ in range(change.turns):
        sizes = np.swapaxes(sizes, 1, 2)
    after = np.where(changed(low > 0, change), sizes, -sizes)
    after[:, 0, 0] = 0
    assert odd.sum() == 4
    assert set(canonical_codes(low, 3)[0].tolist()) == set(canonical_codes(after, 3)[0].tolist())


def test_copies_that_were_changed_and_saved_again_share_a_code_and_others_do_not():
    pictures = [textured(seed) for seed in range(20)]
    copies = [saved_again(apply(picture, CHANGES[seed % 16])) for seed, picture in enumerate(pictures)]
    own, theirs = (canonical_codes(lows(*some), 4) for some in (pictures, copies))
    shared = np.array([[bool(set(a) & set(b)) for b in theirs.tolist()] for a in own.tolist()])
    assert np.diag(shared).mean() > 0.8
    assert not (shared & ~np.eye(20, dtype=bool)).any()


def test_turned_mirrored_and_inverted_copies_are_found_with_what_was_done():
    pictures = [textured(seed) for seed in range(15)]
    copies = [saved_again(apply(picture, change)) for picture, change in zip(pictures, CHANGES[1:], strict=True)]
    every = [*pictures, *copies]
    found = pairs_of(every)
    assert [(i, j) for i, j, _ in sorted(found, key=lambda one: one[0])] == [(i, i + 15) for i in range(15)]
    assert {(i, change) for i, _, change in found} == set(enumerate(CHANGES[1:]))
    assert all(same_film(every[i], every[j], change) for i, j, change in found)


def test_two_films_of_one_shadow_are_two_films():
    shadow = Image.fromarray(np.random.default_rng(0).integers(60, 200, (4, 4), dtype=np.uint8)).resize((160, 160), 3)
    grain = np.random.default_rng(1).normal(0, 8, (2, 160, 160))
    one, other = (Image.fromarray(np.clip(np.asarray(shadow) + g, 0, 255).astype(np.uint8)) for g in grain)
    assert float(thumbnail(one) @ thumbnail(other)) > 0.98
    assert not same_film(one, other, CHANGES[0])
    assert same_film(one, one, CHANGES[0])


def test_only_thumbnails_of_pairs_that_may_be_alike_are_asked_for():
    small = [thumbnail(textured(seed)) for seed in range(8)] + [thumbnail(textured(3).rotate(180))]
    asked = set()
    found = like_pairs([code_of(one) for one in small], lambda at: asked.add(at) or small[at])
    assert asked == {3, 8} == {at for one, other, _ in found for at in (one, other)}


def test_blank_pictures_are_like_nothing():
    blank = Image.new("L", (64, 64), 128)
    assert pairs_of([blank, blank, textured(1)]) == []
    assert not same_film(Image.new("L", (64, 64)), Image.new("L", (64, 64)), CHANGES[0])


def test_words():
    assert words_of([CHANGES[1], CHANGES[1], CHANGES[12]]) == "turned by 90 degrees; mirrored, a negative"
    assert CHANGES[0].words == "as it is"
