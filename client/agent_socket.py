"""The agent's Unix socket: one agent per path, no longer path than Linux allows, and nobody else's permissions."""

import contextlib
import fcntl
import grp
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.courier import MAX_SOCKET_PATH_BYTES
from client.proto import agent_pb2
from common.errors import ConfigError

SERVICE = agent_pb2.DESCRIPTOR.services_by_name["Agent"].full_name
"""By which the agent's health is asked for."""


def require_usable(path: Path) -> None:
    """Refuse a path that no socket can have.

    Raises:
        ConfigError: it is not absolute, or too long.
    """
    if not path.is_absolute():
        raise ConfigError(f"--socket: expected an absolute path, got {path}")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"--socket: a path of a Unix socket has at most {MAX_SOCKET_PATH_BYTES} bytes, {path} has "
            f"{len(os.fsencode(path))}; choose a shorter one, like /run/consilium/agent.sock"
        )


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a socket's path while the body runs: its folder is made, a file left by a killed agent is removed.

    gRPC would silently take the path over from a live agent, so a lock file beside it decides.

    Raises:
        ConfigError: the path is not absolute, is too long or is no socket, or another agent holds it.
    """
    require_usable(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock_of(path)
    with lock.open("a", encoding="utf-8") as file:
        lock.chmod(0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another agent answers on {path}; stop it first, or give this one another --socket"
            ) from error
        if path.exists() and not path.is_socket():
            raise ConfigError(f"--socket: {path} is there and is no socket; give another path, or remove it")
        path.unlink(missing_ok=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def give_to_group(path: Path, group: str) -> None:
    """Let one group use a bound socket, too: that of the courier, where it runs as another user.

    Raises:
        ConfigError: there is no such group, this user may not give files to it, or the folder has other files in it.
    """
    try:
        number = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        os.chown(path, -1, number)
        path.chmod(0o660)
        others = {one.name for one in path.parent.iterdir()} - {path.name, _lock_of(path).name}
        if others:
            raise ConfigError(
                f"--socket-group: the folder of the socket is opened to the group too, so it must be one of its own; "
                f"{path.parent} holds {len(others)} other file(s). Give a --socket in a new folder, like "
                "/run/consilium/agent.sock"
            )
        os.chown(path.parent, -1, number)
        path.parent.chmod(0o710)
    except KeyError as error:
        raise ConfigError(
            f"--socket-group: this machine has no group '{group}'; make it, or give its number"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"--socket-group: {path} cannot be given to the group '{group}' ({error.strerror}); run the agent as a member of it"
        ) from error


def is_serving(path: Path, timeout_s: float = 2.0) -> bool:
    """Whether an agent on this socket answers requests, by gRPC's health service."""
    with grpc.insecure_channel(f"unix://{path}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            told = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
    return bool(told.status == health_pb2.HealthCheckResponse.SERVING)
