import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.duplicates import NEAR_BITS, alike, near_pairs, perceptual_hash, same_files, thumbnail
from client.images import load_image


def apart(one, other):
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def saved_again(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def textured(seed, size=160):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def test_the_same_files_are_grouped_in_order():
    assert same_files(["a", "b", "a", "c", "b", "a"]) == [[0, 2, 5], [1, 4]]
    assert same_files(["a", "b"]) == []
    assert same_files([]) == []


def test_near_pairs_by_hand():
    hashes = [0b0000, 0b0000_1111, 0b1111_1111, 2**64 - 1, 2**64 - 1]
    digests = ["a", "b", "c", "d", "d"]
    # 0-1 and 1-2 differ in four bits, 0-2 in eight; 3 and 4 are the same file, so no near one.
    assert near_pairs(hashes, digests) == [(0, 1), (1, 2)]
    assert near_pairs([], []) == []


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from("abcdef")), max_size=30), st.integers(0, 2**64 - 1))
def test_near_pairs_are_what_two_loops_find(content, mask):
    hashes = [low ^ mask for low, _ in content]
    digests = [digest for _, digest in content]
    expected = [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= NEAR_BITS and digests[i] != digests[j]
    ]
    assert sorted(near_pairs(hashes, digests)) == expected


def test_pairs_across_blocks_are_found(monkeypatch):
    monkeypatch.setattr("client.duplicates._BLOCK", 4)
    rng = np.random.default_rng(0)
    hashes = [int(code) for code in rng.integers(0, 2**64, 19, dtype=np.uint64)]
    hashes[17] = hashes[2] ^ 0b101
    hashes[6] = hashes[5]
    assert near_pairs(hashes, [str(number) for number in range(19)]) == [(2, 17), (5, 6)]


def test_thumbnails_tell_what_hashes_do_not():
    image = textured(1)
    assert alike(thumbnail(image), thumbnail(saved_again(image, 60)))
    assert alike(thumbnail(image), thumbnail(image.point(lambda grey: int(255 * (grey / 255) ** 0.9))))
    assert not alike(thumbnail(image), thumbnail(textured(101)))
    blank = thumbnail(Image.new("L", (50, 40), 200))
    assert not alike(blank, blank)


@pytest.mark.parametrize("seed", range(8))
def test_an_image_saved_again_or_resized_is_near_and_another_is_not(seed):
    image = textured(seed)
    assert apart(image, saved_again(image, 60)) <= NEAR_BITS
    assert apart(image, image.resize((80, 80), Image.Resampling.BILINEAR)) <= NEAR_BITS
    assert apart(image, textured(seed + 100)) > NEAR_BITS


def test_real_images_saved_again_are_near(shared):
    images = [load_image(path) for path in sorted((shared / "data" / "chest_xray").glob("*/*/*.jpg"))[::60]]
    near = [apart(image, saved_again(image, 50)) <= NEAR_BITS for image in images]
    assert np.mean(near) > 0.95
