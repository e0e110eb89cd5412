"""Real disks: one that is full, a line that is cut off, two processes at one run directory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError, FederationError, StorageError
from server.storage import FAILURE, Lock, append_line, note_failure, writing
from tests.small_disk import on_a_small_disk

PROJECT = Path(__file__).resolve().parents[2]


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    """Round 1 fits; then the disk is filled to the last 4 kB. Round 2 does not fit, and says what to do."""
    done = on_a_small_disk(
        tmp_path / "disk",
        256,
        """
        import hashlib, pathlib, sys
        import numpy as np
        from common.errors import StorageError
        from common.head import Head, Standardisation
        from common.job import parse_job
        from common.model import Model
        from server.checkpoint import Checkpoint, Round, load_checkpoint
        from server.recorder import LAST_CHECKPOINT, Recorder

        job = parse_job({"name": "x", "classes": ["a", "b"], "backbone": {"name": "mobilenet_v2", "weights": "random"},
                         "method": "fedavg"})
        run = pathlib.Path(folder) / "run"
        recorder = Recorder(run, job, "test")
        model = Model(Head.zeros(2, 1280))

        def state(number):
            last = Round(number, False, ["h"], 0.5, {}, {}, {}, 1, 1, 0.1)
            return Checkpoint(job.job_id, "f" * 64, last, model, None, None, model, Standardisation.identity(1280), {})

        recorder.save(state(1))
        before = hashlib.sha256((run / LAST_CHECKPOINT).read_bytes()).hexdigest()
        with open(pathlib.Path(folder) / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 4096)
            except OSError:
                filler.truncate(filler.tell() // 4096 * 4096 - 4096)
        try:
            recorder.save(state(2))
        except StorageError as error:
            print(error)
        else:
            sys.exit("it should not fit")
        assert hashlib.sha256((run / LAST_CHECKPOINT).read_bytes()).hexdigest() == before
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.safetensors"]
        assert load_checkpoint(run / LAST_CHECKPOINT).last.number == 1
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "last.safetensors: its disk is full (" in done.stdout
    assert " kB free); the last checkpoint, of round 1, is as it was" in done.stdout
    assert "go on with --resume" in done.stdout


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_half_of_it(tmp_path):
    done = on_a_small_disk(
        tmp_path / "disk",
        64,
        """
        import errno, pathlib, sys
        from server.storage import append_line
        path = pathlib.Path(folder) / "rounds.jsonl"
        append_line(path, "first")
        try:
            append_line(path, "x" * 200_000)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        else:
            sys.exit("it should not fit")
        assert path.read_text() == "first\\n", path.stat().st_size
        append_line(path, "second")
        assert path.read_text() == "first\\nsecond\\n"
        """,
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"cannot write .*: Not a directory \(.* free\); there is no checkpoint yet"),
        writing(tmp_path / "file" / "run", None),
    ):
        (tmp_path / "file" / "run").mkdir()


def test_lines_are_appended(tmp_path):
    for line in ("one", "two"):
        append_line(tmp_path / "lines", line)
    assert (tmp_path / "lines").read_text() == "one\ntwo\n"


def test_two_processes_cannot_write_one_directory(tmp_path):
    lock = Lock(tmp_path)
    code = f"from pathlib import Path; from server.storage import Lock; Lock(Path({str(tmp_path)!r}))"

    def other():
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT)

    refused = other()
    assert refused.returncode == 1
    assert f"ConfigError: another process writes the run in {tmp_path}; wait until it ends" in refused.stderr
    lock.release()
    assert other().returncode == 0


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from server.storage import Lock; "
        f"lock = Lock(Path({str(tmp_path)!r})); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=PROJECT).returncode == -9
    Lock(tmp_path).release()


def test_a_lock_is_held_once_in_a_process_too(tmp_path):
    lock = Lock(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        Lock(tmp_path)
    lock.release()


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (FederationError("no quorum"), {"error": "no quorum", "kind": "FederationError", "exit_code": 6}),
        (ZeroDivisionError("by zero"), {"error": "by zero", "kind": "ZeroDivisionError", "exit_code": 1}),
        (KeyboardInterrupt(), {"error": "the process was told to end", "kind": "KeyboardInterrupt", "exit_code": 130}),
    ],
)
def test_a_failure_is_left_for_programs(error, found, tmp_path):
    note_failure(tmp_path, error)
    written = json.loads((tmp_path / FAILURE).read_text())
    assert written.pop("time")[:2] == "20"
    assert written == found
