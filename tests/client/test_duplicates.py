import io
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from client.duplicates import NEAR_BITS, alike, near_pairs, perceptual_hash, same_files, thumbnail
from client.images import load_image
from client.records import read_rows


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


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30))
def test_groups_of_the_same_file_hold_every_repeated_one_once(digests):
    groups = same_files(digests)
    assert all(len(group) > 1 and group == sorted(group) for group in groups)
    assert all(len({digests[index] for index in group}) == 1 for group in groups)
    assert sorted(chain.from_iterable(groups)) == [
        index for index, digest in enumerate(digests) if digests.count(digest) > 1
    ]


def test_likeness_is_not_carried_over_in_a_chain():
    hashes = [0b0, 0b111, 0b11_1111, 0b1_1111_1111]
    assert near_pairs(hashes, list("abcd")) == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize("bits", [NEAR_BITS, NEAR_BITS + 1])
@pytest.mark.parametrize("shift", [0, 30, 64 - NEAR_BITS - 1])
def test_the_limit_is_met_and_not_passed(bits, shift):
    assert near_pairs([0, (2**bits - 1) << shift], ["a", "b"]) == ([(0, 1)] if bits == NEAR_BITS else [])


@given(
    content=st.lists(st.tuples(st.integers(0, 255), st.sampled_from("abcdef")), max_size=20),
    mask=st.integers(0, 2**64 - 1),
    block=st.sampled_from([1, 2, 3, 512]),
)
def test_near_pairs_are_what_two_loops_find(content, mask, block):
    hashes = [low ^ mask for low, _ in content]
    digests = [digest for _, digest in content]
    expected = [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= NEAR_BITS and digests[i] != digests[j]
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.duplicates._BLOCK", block)
        assert near_pairs(hashes, digests) == expected


@pytest.mark.parametrize("block", [2, 4])
def test_pairs_across_blocks_and_at_their_borders_are_found(monkeypatch, block):
    monkeypatch.setattr("client.duplicates._BLOCK", block)
    rng = np.random.default_rng(0)
    hashes = [int(code) for code in rng.integers(0, 2**64, 19, dtype=np.uint64)]
    hashes[17] = hashes[2] ^ 0b101
    hashes[6] = hashes[5]
    hashes[12] = hashes[11]
    assert near_pairs(hashes, [str(number) for number in range(19)]) == [(2, 17), (5, 6), (11, 12)]


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


def near(one, other):
    return apart(one, other) <= NEAR_BITS and alike(thumbnail(one), thumbnail(other))


@pytest.fixture(scope="module")
def radiographs(phantoms):
    """(hospital/patient, image) of all phantoms."""
    rows = [(name, row) for name, folder in phantoms.items() for row in read_rows(folder)]
    return [(f"{name}/{row.patient_id}", load_image(row.path)) for name, row in rows]


@pytest.mark.parametrize(("quality", "size"), [(75, 64), (50, 64), (75, 48), (75, 128), (30, 48)])
def test_a_phantom_saved_again_or_resized_is_found(radiographs, quality, size):
    copies = [saved_again(image.resize((size, size), Image.Resampling.BILINEAR), quality) for _, image in radiographs]
    assert np.mean([near(image, copy) for (_, image), copy in zip(radiographs, copies, strict=True)]) >= 0.99


def test_phantoms_of_different_patients_are_not_near(radiographs):
    codes = [(patient, perceptual_hash(image), thumbnail(image)) for patient, image in radiographs]
    strangers = [(one, other) for one, other in combinations(codes, 2) if one[0] != other[0]]
    same_hash = [(a, b) for (_, one, a), (_, other, b) in strangers if (one ^ other).bit_count() <= NEAR_BITS]
    # The hash alone takes 30 of 7,116 pairs for near; none of them is alike.
    assert len(same_hash) < 0.01 * len(strangers)
    assert not any(alike(one, other) for one, other in same_hash)


def test_real_images_saved_again_are_near(shared):
    images = [load_image(path) for path in sorted((shared / "data" / "chest_xray").glob("*/*/*.jpg"))[::60]]
    near = [apart(image, saved_again(image, 50)) <= NEAR_BITS for image in images]
    assert np.mean(near) > 0.95
