import contextlib
import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from client import feature_cache
from client.feature_cache import FeatureCache, default_cache_dir
from common.errors import DataError

PROJECT = Path(__file__).resolve().parents[2]
SPACE = "ab" * 32
WIDTH = 512

WRITER = """
import sys
from pathlib import Path
import numpy as np
from client.feature_cache import FeatureCache

folder, writer, batches, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sys.stdin.readline()
with FeatureCache(folder, "ab" * 32, 512) as cache:
    for batch in range(batches):
        keys = [(bytes([writer]) + batch.to_bytes(4, "big") + row.to_bytes(27, "big"), 0) for row in range(rows)]
        cache.put({key: np.full(512, batch, np.float32) for key in keys})
        print(batch, flush=True)
"""


def start_writer(folder: Path, writer: int, batches: int, rows: int) -> subprocess.Popen:
    arguments = [sys.executable, "-c", WRITER, *map(str, (folder, writer, batches, rows))]
    return subprocess.Popen(arguments, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def image(number: int) -> bytes:
    return number.to_bytes(32, "big")


def vectors(count: int, views: int = 1, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    keys = [(image(number), view) for number in range(count) for view in range(views)]
    return {key: rng.normal(size=WIDTH).astype(np.float32) for key in keys}


def same(found: dict, wanted: dict) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)


def rows_in(folder: Path) -> int:
    [path] = folder.glob("*.sqlite")
    database = sqlite3.connect(path)
    try:
        return database.execute("SELECT count(*) FROM features").fetchone()[0]
    finally:
        database.close()


def test_what_was_put_is_there_and_only_that(tmp_path):
    stored = vectors(1200, views=2)
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        assert cache.get(stored) == {}
        cache.put(stored)
        assert same(cache.get(stored), stored)
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        asked = [(image(3), 1), (image(3), 2), (image(5000), 0), (image(3), 1)]
        found = cache.get(asked)
        assert same(found, {(image(3), 1): stored[image(3), 1]})
        assert next(iter(found.values())).dtype == np.float32


def test_known_are_those_that_get_would_find(tmp_path):
    stored = vectors(1200, views=2)
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        assert cache.known(stored) == cache.known([]) == set()
        cache.put(stored)
        assert cache.known(stored) == set(stored)
        asked = [(image(3), 1), (image(3), 2), (image(5000), 0), (image(3), 1), (image(1199), 0)]
        assert cache.known(iter(asked)) == set(cache.get(asked)) == {(image(3), 1), (image(1199), 0)}
    with FeatureCache(tmp_path, SPACE, 2 * WIDTH) as cache:
        assert cache.known(stored) == set()
        cache.put({(image(7), 0): np.ones(2 * WIDTH, np.float32)})
        assert cache.known(stored) == {(image(7), 0)}


def test_what_is_known_is_asked_for_without_reading_the_vectors(tmp_path):
    stored, rows = vectors(50), []
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        cache.put(stored)
        cache._database.row_factory = lambda _, row: rows.append(row) or row
        cache.known(stored)
    assert {(image, view) for image, view, _ in rows} == set(stored)
    assert all(vector is None for _, _, vector in rows)


def test_nothing_of_a_damaged_file_is_known(tmp_path, caplog):
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        path = cache.path
        cache.put(vectors(300))
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 2 * 4096))
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        assert cache.known(vectors(300)) == set()
        cache.put(vectors(3))
        assert cache.known(vectors(300)) == set(vectors(3))
    assert path.with_suffix(".damaged").exists()
    assert caplog.text.count("set aside") == 1


def test_a_file_that_can_no_longer_be_read_is_an_error_with_advice(tmp_path, monkeypatch):
    def refuse(*_):
        raise sqlite3.OperationalError("disk I/O error")

    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        monkeypatch.setattr(cache, "_rows", refuse)
        for read in (cache.known, cache.get):
            with pytest.raises(DataError, match=r"(?s)disk I/O error.*CONSILIUM_CACHE_DIR"):
                read(vectors(1))


def test_the_bytes_are_those_of_the_file_and_of_the_log_beside_it(tmp_path):
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        empty = cache.nbytes
        cache.put(vectors(200))
        log = tmp_path / f"{cache.path.name}-wal"
        assert log.stat().st_size > 0
        assert cache.nbytes == cache.path.stat().st_size + log.stat().st_size
        # What was put is in the log at first, and counted there.
        assert cache.nbytes >= empty + 200 * WIDTH * 4
        (tmp_path / f"features-{'cd' * 32}.sqlite").write_bytes(b"of another space" * 1000)
        assert cache.nbytes == cache.path.stat().st_size + log.stat().st_size
    # The last one to close it empties the log into the file.
    assert not log.exists()
    assert 200 * WIDTH * 4 <= cache.nbytes == cache.path.stat().st_size
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        assert cache.nbytes >= 200 * WIDTH * 4


def test_a_vector_of_another_width_is_a_miss_and_is_replaced(tmp_path):
    key = (image(1), 0)
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        cache.put({key: np.ones(WIDTH, np.float32)})
    with FeatureCache(tmp_path, SPACE, 2 * WIDTH) as cache:
        assert cache.get([key]) == {}
        cache.put({key: np.ones(2 * WIDTH, np.float32)})
        assert len(cache.get([key])[key]) == 2 * WIDTH


@pytest.mark.parametrize("other", ["cd" * 32, "ab" * 31 + "ac", SPACE + "-float16"])
def test_every_feature_space_has_its_own_file(tmp_path, other):
    with FeatureCache(tmp_path, SPACE, WIDTH) as one, FeatureCache(tmp_path, other, WIDTH) as two:
        assert one.path != two.path
        one.put(vectors(1))
        assert two.get(vectors(1)) == {}


def test_a_new_folder_and_its_files_are_private(tmp_path):
    folder = tmp_path / "hospital" / "cache"
    with FeatureCache(folder, SPACE, WIDTH) as cache:
        cache.put(vectors(3))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {".sqlite": 0o600, ".sqlite-wal": 0o600, ".sqlite-shm": 0o600}


def test_a_folder_that_was_there_keeps_its_permissions(tmp_path):
    tmp_path.chmod(0o755)
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
        assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600


def test_two_processes_write_at_once(tmp_path):
    writers = [start_writer(tmp_path, number, batches=30, rows=20) for number in (1, 2)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    assert rows_in(tmp_path) == 2 * 30 * 20


def test_a_database_that_is_locked_while_it_is_opened_is_waited_for(tmp_path):
    with FeatureCache(tmp_path / "other", SPACE, WIDTH) as first:
        path = first.path
    (tmp_path / "cache").mkdir()
    new = tmp_path / "cache" / path.name
    with contextlib.closing(sqlite3.connect(new, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")  # the lock for which SQLite does not wait by itself
        later = threading.Timer(0.3, lambda: other.execute("COMMIT"))
        later.start()
        with FeatureCache(tmp_path / "cache", SPACE, WIDTH) as cache:
            assert cache.get(vectors(2)) == {}
        later.join()


def test_a_process_killed_while_writing_leaves_whole_batches_and_a_usable_cache(tmp_path):
    writer = start_writer(tmp_path, 1, batches=10_000, rows=200)
    writer.stdin.write("go\n")
    writer.stdin.flush()
    done = [writer.stdout.readline() for _ in range(5)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate(timeout=60)
    assert writer.returncode == -signal.SIGKILL
    stored = rows_in(tmp_path)
    assert stored >= 200 * len(done)
    assert stored % 200 == 0
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        cache.put(vectors(3))
        assert same(cache.get(vectors(3)), vectors(3))


def test_a_file_that_is_no_database_is_set_aside(tmp_path, caplog):
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        path = cache.path
    path.write_bytes(b"nonsense" * 4096)
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        assert cache.get(vectors(2)) == {}
        cache.put(vectors(2))
        assert same(cache.get(vectors(2)), vectors(2))
    assert path.with_suffix(".damaged").read_bytes() == b"nonsense" * 4096
    assert "set aside" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_damage_that_shows_only_in_reading_is_set_aside(tmp_path, caplog):
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        path = cache.path
        cache.put(vectors(300))
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 2 * 4096))
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        assert cache.get(vectors(300)) == {}
        cache.put(vectors(300))
        assert same(cache.get(vectors(300)), vectors(300))
    assert path.with_suffix(".damaged").exists()
    assert caplog.text.count("set aside") == 1


def test_a_full_disk_ends_the_caching_with_one_warning_and_not_the_work(tmp_path, caplog):
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        cache.put(vectors(5))
        pages = cache._database.execute("PRAGMA page_count").fetchone()[0]
        cache._database.execute(f"PRAGMA max_page_count={pages + 2}")
        many = {(image(1000 + number), 0): vector for number, vector in enumerate(vectors(200).values())}
        for _ in range(3):
            cache.put(many)
        assert cache.get(many) == {}
        assert same(cache.get(vectors(5)), vectors(5))
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "make room" in warnings[0].getMessage()
    with FeatureCache(tmp_path, SPACE, WIDTH) as cache:
        cache.put(many)
        assert same(cache.get(many), many)


@pytest.mark.parametrize("folder", ["file", "file/cache"])
def test_a_folder_that_cannot_be_made_is_refused_with_advice(tmp_path, folder):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"(?s)cannot be used.*CONSILIUM_CACHE_DIR"):
        FeatureCache(tmp_path / folder, SPACE, WIDTH)


@pytest.mark.parametrize("words", ["unable to open database file", "attempt to write a readonly database"])
def test_a_folder_that_cannot_be_written_is_refused_with_advice(tmp_path, monkeypatch, words):
    def refuse(*arguments, **options):
        raise sqlite3.OperationalError(words)

    monkeypatch.setattr(feature_cache.sqlite3, "connect", refuse)
    with pytest.raises(DataError, match=rf"(?s){words}.*CONSILIUM_CACHE_DIR"):
        FeatureCache(tmp_path, SPACE, WIDTH)


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("CONSILIUM_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "consilium"
    monkeypatch.setenv("CONSILIUM_CACHE_DIR", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
