"""Keyed hashes: what leaves is nothing else, and what a hospital is told of them is for itself."""

import hashlib
import hmac
import io

import numpy as np
import pytest
from PIL import Image

from client.duplicate_keys import kept_collisions, keyed_hashes, read_secret
from client.hospital import Hospital
from client.hospital_file import Data, HospitalFile
from client.policy import Policy
from client.records import read_rows
from common.errors import ConfigError
from common.job import parse_job
from common.wire import HASHES_PER_IMAGE, REFUSAL, Packed, dimensions, problem_with, reply_schema

SECRET = b"0123456789abcdef" * 2


def picture(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).resize((96, 80), Image.Resampling.BICUBIC)


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / f"{seed}.png" for seed in range(6)]
    for seed, path in enumerate(found):
        picture(seed).save(path)
    return found


@pytest.fixture
def checking(phantoms, cache_dir, tmp_path):
    def make(name="st-marys", secret=SECRET, source=None, **policy):
        where = tmp_path / f"{name}.secret"
        if secret is not None:
            where.write_bytes(secret)
        return Hospital(
            HospitalFile(
                name=name,
                data=Data(folder=source or phantoms["hospital-a"]),
                cache=cache_dir,
                state=tmp_path / name,
                consortium_secret=where if secret is not None else None,
                policy=Policy(**{"approve": "auto", "allow_duplicate_check": True, **policy}),
            )
        )

    return make


def about(job, hospital):
    described = hospital.answer("describe", Packed({}, {"job": job.canonical_json()}))
    return {"job": job.canonical_json(), "fingerprint": described.fields["fingerprint"]}


def test_the_same_images_secret_and_job_are_the_same_bytes_and_anything_else_has_nothing_in_common(paths):
    one, again = keyed_hashes(paths, SECRET, "a" * 64), keyed_hashes(paths, SECRET, "a" * 64)
    np.testing.assert_array_equal(one.exact, again.exact)
    np.testing.assert_array_equal(one.near, again.near)
    for other in (keyed_hashes(paths, SECRET, "b" * 64), keyed_hashes(paths, SECRET[::-1], "a" * 64)):
        assert not np.isin(one.exact, other.exact).any()
        assert not np.isin(one.near, other.near).any()


def test_a_hash_is_the_hmac_of_the_pixels_under_the_key_of_the_job(paths):
    found = keyed_hashes(paths[:1], SECRET, "a" * 64)
    pixels = hashlib.sha256(b"L 96x80\n" + picture(0).tobytes()).digest()
    key = hmac.digest(SECRET, b"consilium duplicates 1\n" + b"a" * 64, "sha256")
    assert int(found.exact[0]) == int.from_bytes(hmac.digest(key, b"pixels\n" + pixels, "sha256")[:8], "big")


def test_copies_at_another_hospital_share_hashes_and_other_images_none(paths, tmp_path):
    copy, turned, other = tmp_path / "copy.tif", tmp_path / "turned.jpg", tmp_path / "other.png"
    picture(0).save(copy)
    picture(1).transpose(Image.Transpose.ROTATE_90).resize((160, 192)).save(turned, quality=80)
    picture(99).save(other)
    ours, theirs = keyed_hashes(paths, SECRET, "j"), keyed_hashes([copy, turned, other], SECRET, "j")
    exact, near = np.isin(theirs.exact, ours.exact), np.isin(theirs.near, ours.near).any(axis=1)
    which = {
        row.index(True) if True in row else None for row in [[at in same for same in theirs.same] for at in range(3)]
    }
    assert which == {0, 1, 2}
    by_image = {same[0]: (bool(exact[row]), bool(near[row])) for row, same in enumerate(theirs.same)}
    assert by_image == {0: (True, True), 1: (False, True), 2: (False, False)}


def test_nothing_is_told_of_duplicates_inside_a_hospital(paths, tmp_path):
    again = tmp_path / "again.png"
    picture(3).save(again)
    found = keyed_hashes([*paths, again], SECRET, "j")
    every = np.concatenate([found.exact, found.near.ravel()])
    assert len(np.unique(every)) == len(every) == 7 * (1 + HASHES_PER_IMAGE)
    # But whoever is told of one of them is told of both.
    assert [same for same in found.same if 3 in same] == [[3, 6], [3, 6]]


def test_a_blank_image_is_like_no_other_blank_one(tmp_path):
    for name, shade in (("a", 0), ("b", 90)):
        Image.new("L", (64, 64), shade).save(tmp_path / f"{name}.png")
    one, other = (keyed_hashes([tmp_path / f"{name}.png"], SECRET, "j") for name in "ab")
    assert not np.isin(one.near, other.near).any()


def test_a_secret_is_read_and_a_short_one_refused(tmp_path):
    (tmp_path / "s").write_bytes(SECRET + b"\n")
    assert read_secret(tmp_path / "s") == SECRET
    (tmp_path / "short").write_text("hunter2")
    with pytest.raises(ConfigError, match="openssl rand"):
        read_secret(tmp_path / "short")
    with pytest.raises(ConfigError, match="cannot read"):
        read_secret(tmp_path / "none")


def test_what_leaves_is_keyed_hashes_and_nothing_else(checking, job, phantoms):
    one, hospital = job(duplicates="check"), checking()
    reply = hospital.answer("duplicates", Packed({}, about(one, hospital)))
    assert problem_with(reply, reply_schema("duplicates", one, {}), dimensions(one, images=40)) is None
    assert set(reply.arrays) == {"exact", "near"}
    assert set(reply.fields) == {"job-id", "fingerprint"}
    assert reply.arrays["near"].shape == (40, HASHES_PER_IMAGE)
    assert np.all(np.diff(reply.arrays["exact"].astype(object)) > 0)  # in the order of the hashes, not of the files
    # Uniform bits: nothing of a picture is in them.
    bits = np.unpackbits(reply.arrays["near"].view(np.uint8))
    assert abs(bits.mean() - 0.5) < 0.01


def test_what_the_hospital_is_told_stays_there(checking, job, phantoms, cache_dir):
    one, hospital = job(duplicates="check"), checking("told-hospital")
    request = about(one, hospital)
    assert kept_collisions(cache_dir, "told-hospital", one.job_id) is None
    hospital.answer("duplicates", Packed({}, request))
    exact, near = np.zeros(40, np.uint8), np.zeros(40, np.uint8)
    exact[2], near[5] = 1, 2
    reply = hospital.answer("collisions", Packed({"exact": exact, "near": near}, request))
    assert not reply.arrays
    assert set(reply.fields) == {"job-id", "fingerprint"}
    kept = kept_collisions(cache_dir, "told-hospital", one.job_id)
    files = {hashlib.sha256(row.path.read_bytes()).hexdigest() for row in read_rows(phantoms["hospital-a"])}
    assert len(kept["exact"]) == 1
    assert kept["exact"] | kept["near"] <= files
    # Asked by a new process, without the hashes in memory, it is the same.
    checking("told-hospital").answer("collisions", Packed({"exact": exact, "near": near}, request))
    assert kept_collisions(cache_dir, "told-hospital", one.job_id) == kept


@pytest.mark.parametrize(
    ("changes", "policy", "secret", "code"),
    [
        ({"duplicates": "ignore"}, {}, SECRET, "bad-request"),
        ({}, {"allow_duplicate_check": False}, SECRET, "against-policy"),
        ({}, {"min_count": 2}, SECRET, "against-policy"),
        ({}, {}, None, "against-policy"),
        ({}, {}, b"short", "bad-request"),
        ({}, {"max_payload_mb": 0.005}, SECRET, "message-too-large"),
    ],
)
def test_who_refuses(checking, job, changes, policy, secret, code):
    one = job(**{"duplicates": "check", **changes})
    fingerprint = about(one, checking("lax"))["fingerprint"]
    hospital = checking("strict", secret, **policy)
    reply = hospital.answer("duplicates", Packed({}, {"job": one.canonical_json(), "fingerprint": fingerprint}))
    assert reply.fields == {REFUSAL: code}


@pytest.mark.parametrize("rows", [0, 39, 41])
def test_collisions_of_another_number_of_images_are_refused(checking, job, rows):
    one, hospital = job(duplicates="check"), checking()
    flags = np.zeros(rows, np.uint8)
    reply = hospital.answer("collisions", Packed({"exact": flags, "near": flags}, about(one, hospital)))
    assert reply.fields == {REFUSAL: "bad-request"}


def test_secure_aggregation_has_no_list_of_single_images():
    content = {"name": "j", "classes": ["a", "b"], "backbone": {"name": "squeezenet1_1", "weights": "random"}}
    with pytest.raises(ConfigError, match="duplicates: ignore"):
        parse_job({**content, "duplicates": "check", "privacy": {"secure_aggregation": True}})


def test_jpeg_noise_does_not_change_the_kind(paths):
    """A picture that was only saved again shares a hash of its look, not of its pixels."""
    file = io.BytesIO()
    picture(4).save(file, "JPEG", quality=75)
    again = paths[0].parent / "again.jpg"
    again.write_bytes(file.getvalue())
    ours, theirs = keyed_hashes(paths, SECRET, "j"), keyed_hashes([again], SECRET, "j")
    assert not np.isin(theirs.exact, ours.exact).any()
    assert np.isin(theirs.near, ours.near).any()
