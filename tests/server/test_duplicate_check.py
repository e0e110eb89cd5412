"""Keyed hashes at the coordinator: counts by hand, and nothing else is kept."""

import json

import numpy as np

from common.job import parse_job
from common.wire import HASHES_PER_IMAGE, Packed
from server.duplicate_check import SharedImages, as_rows, compare
from server.guard import Expected, screen


def hashes(*rows, start=0):
    """Rows of (exact, one near hash); the other near hashes are unlike any others."""
    near = 10_000 + start + np.arange(len(rows) * HASHES_PER_IMAGE, dtype=np.uint64).reshape(len(rows), -1)
    near[:, 3] = [one for _, one in rows]
    return {"exact": np.array([one for one, _ in rows], np.uint64), "near": near}


def test_counts_and_flags_by_hand():
    found, flags = compare(
        {
            "b": hashes((1, 101), (2, 102), (3, 103), start=1000),
            "a": hashes((1, 101), (9, 103), (8, 108), start=2000),
            "c": hashes((1, 101), (7, 107), start=3000),
            "d": hashes((55, 155), start=4000),
        }
    )
    assert found == (
        SharedImages(("a", "b"), 1, (1, 1)),
        SharedImages(("a", "c"), 1, (0, 0)),
        SharedImages(("b", "c"), 1, (0, 0)),
    )
    assert flags["a"]["exact"].tolist() == [2, 0, 0]
    assert flags["a"]["near"].tolist() == [0, 1, 0]
    assert flags["b"]["near"].tolist() == [0, 0, 1]
    assert flags["d"]["exact"].tolist() == flags["d"]["near"].tolist() == [0]
    assert all(array.dtype == np.uint8 for one in flags.values() for array in one.values())
    assert json.loads(json.dumps(as_rows(found)))[0] == {"hospitals": ["a", "b"], "exact": 1, "near": [1, 1]}


def test_one_hospital_or_none_shares_nothing():
    assert compare({}) == ((), {})
    assert compare({"a": hashes((1, 101))})[0] == ()


def test_the_guard_drops_wrong_numbers_and_repeated_hashes():
    content = {"name": "j", "classes": ["a", "b"], "backbone": {"name": "squeezenet1_1", "weights": "random"}}
    job = parse_job({**content, "duplicates": "check"})
    expected = Expected("duplicates", job, fields={"job-id": job.job_id}, sizes={"I": 2})
    identity = {"job-id": job.job_id, "fingerprint": "a" * 64}

    def verdict(arrays):
        found = screen([Packed(arrays, identity)], expected)
        return found if isinstance(found, str) else "good"

    good = hashes((1, 101), (2, 102))
    assert verdict(good) == "good"
    assert "expected shape (2,)" in verdict(hashes((1, 101)))
    assert verdict({**good, "exact": np.array([1, 1], np.uint64)}) == "a keyed hash is there twice"
    assert verdict({**good, "exact": np.array([1, 101], np.uint64)}) == "a keyed hash is there twice"
    assert "unexpected array" in verdict({**good, "names": good["exact"]})
    assert "dtype uint64" in verdict({**good, "exact": np.array([1, 2], np.int64)})
