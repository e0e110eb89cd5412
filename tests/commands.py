"""The `consilium` command in a process of its own, without the seconds in which each one imports torch.

`run_command` starts one process that has imported everything and run nothing. For each command it forks, so a command still has
its own memory, standard streams, environment and exit code. `python tests/commands.py` is that process.
"""

import atexit
import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
_HEAVY = (
    "torch",
    "torchvision",
    "matplotlib.pyplot",
    "cli.main",
    "client.app",
    "client.check_table",
    "client.diagnosis",
    "client.hospital",
    "server.app",
    "simulation.advice.advise",
    "simulation.comparison.compare",
    "simulation.run",
)
_running: "subprocess.Popen[str] | None" = None


def run_command(
    *words: object, cwd: Path = PROJECT, environment: Mapping[str, str] | None = None, answer: str = ""
) -> tuple[int, str, str]:
    """Run `consilium` with these words: exit code, standard output, standard error. answer: its standard input."""
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("in", "out", "err")]
        streams[0].write_text(answer, encoding="utf-8")
        settings = {"PATH": "", "HOME": str(cwd), "COLUMNS": "100", **(environment or {})}
        asked = {"words": list(map(str, words)), "cwd": str(cwd), "env": settings, "streams": list(map(str, streams))}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{json.dumps(asked)}\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = (stream.read_text(encoding="utf-8") for stream in streams[1:])
    return code, out, err


def _server() -> "subprocess.Popen[str]":
    global _running
    if _running is None or _running.poll() is not None:
        environment = {"PATH": "", "PYTHONPATH": str(PROJECT), "HOME": tempfile.gettempdir()}
        _running = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        atexit.register(_running.kill)
    return _running


def _serve() -> None:
    for name in _HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(asked)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(asked: dict) -> None:
    """Be the command; does not return."""
    code = 1
    try:
        for number, path in enumerate(asked["streams"]):
            os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT), number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"])
        sys.argv = ["consilium", *asked["words"]]
        importlib.import_module("cli.main").main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
