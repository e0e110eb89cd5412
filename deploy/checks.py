"""What coordinator and hospital have to look at alike: versions, clock, disk, proxies, permissions, names.

Each function answers with findings and raises nothing: a doctor goes on to the next question.
"""

import importlib.metadata
import os
import shutil
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from deploy.findings import Finding, error, ok, warning

FLWR = "1.41."
_FREE_GB, _FULL_GB = 5.0, 0.5
_SKEW_S = 5.0
_YEAR = 2026


def flower_version(check: str = "flwr") -> Finding:
    """Flower demands the same version of every process in a federation."""
    try:
        version = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        return error(check, "not installed", f"pip install 'flwr=={FLWR}*'")
    if version.startswith(FLWR):
        return ok(check, version)
    return error(
        check, f"version {version}, expected {FLWR}*", f"pip install 'flwr=={FLWR}*', at every hospital and here"
    )


def disk(folder: Path, check: str = "disk") -> Finding:
    """Space where the federation's or the hospital's files go."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < _FULL_GB:
        return error(check, f"{free_gb:.1f} GB free at {folder}", "make room: nothing can be written soon")
    if free_gb < _FREE_GB:
        return warning(check, f"{free_gb:.1f} GB free at {folder}", f"keep at least {_FREE_GB:.0f} GB free")
    return ok(check, f"{free_gb:.0f} GB free at {folder}")


def clock(folder: Path, not_before: float | None = None, check: str = "clock") -> Finding:
    """The clock goes, and is not before the certificate (Unix time, s): node keys sign the time, and others must agree on it."""
    now = time.time()
    probe = folder / ".clock"
    try:
        probe.touch()
        written = probe.stat().st_mtime
        probe.unlink()
    except OSError as problem:
        return error(check, f"cannot write to {folder}: {problem.strerror}", "run this as the user who owns the folder")
    remedy = "set the clock and keep it right (NTP): hospitals' signatures hold the time and are refused when it is off"
    if time.gmtime(now).tm_year < _YEAR or (not_before is not None and now < not_before):
        return error(
            check, f"it is {time.strftime('%Y-%m-%d %H:%M', time.gmtime(now))} UTC here, before the certificate", remedy
        )
    if abs(written - now) > _SKEW_S:
        return warning(check, f"the file system's clock differs by {written - now:+.0f} s", remedy)
    return ok(check, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)))


def proxies(hosts: Sequence[str], environment: Mapping[str, str] | None = None, check: str = "proxies") -> Finding:
    """Proxies in the environment through which the way to `hosts` would go."""
    values = {name.lower(): value for name, value in (os.environ if environment is None else environment).items()}
    name = next((name for name in ("https_proxy", "all_proxy") if values.get(name)), None)
    if name is None:
        return ok(check, "none in the environment")
    spared = [one.strip().lstrip(".") for one in values.get("no_proxy", "").split(",") if one.strip()]
    caught = [
        host for host in hosts if not any(one == "*" or host == one or host.endswith(f".{one}") for one in spared)
    ]
    if not caught:
        return ok(check, f"{name.upper()} is set, and not used on the way to {', '.join(hosts)}")
    return warning(
        check,
        f"{name.upper()} would catch the way to {', '.join(caught)}",
        f"if the proxy should not be between: NO_PROXY={','.join(caught)}",
    )


def private(paths: Iterable[Path], check: str = "permissions") -> Finding:
    """Keys and folders that only their owner may read."""
    wrong = [path for path in paths if path.exists() and path.stat().st_mode & 0o077]
    foreign = [path for path in paths if path.exists() and path.stat().st_uid not in (os.geteuid(), 0)]
    if wrong:
        return error(check, f"others may read {', '.join(map(str, wrong))}", f"chmod go= {' '.join(map(str, wrong))}")
    if foreign:
        return warning(check, f"another user owns {', '.join(map(str, foreign))}", "run this as the user who owns them")
    return ok(check, "keys and folders are private")


def resolves(host: str, check: str = "DNS") -> Finding:
    """The host's name has an address."""
    try:
        found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError as problem:
        return error(
            check, f"{host} has no address: {problem}", "ask for a DNS entry, or give hospitals an address with --host"
        )
    return ok(check, f"{host} is {', '.join(found)}")
