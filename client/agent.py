"""The agent: the hospital's resident process. It has the images, the backbone, the cache and the policy, and no network.

It serves `client/proto/agent.proto` on a Unix socket, one request at a time, with gRPC's health service beside it. A request
repeated by its message id is computed once. A restart loses nothing but warmth: what it needs is on the disk or in the request.
"""

import hashlib
import logging
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.agent_socket import SERVICE, give_to_group, held
from client.agent_status import AgentStatus, StatusFile
from client.approvals import Approvals
from client.courier import MAX_MESSAGE_BYTES
from client.hospital import Hospital
from client.hospital_file import HospitalFile
from client.ledger import Ledger
from client.progress import watched
from client.proto import agent_pb2, agent_pb2_grpc
from client.proto.convert import METHODS, to_packed, to_reply
from client.warm_up import use_torch_once, warm_up
from common.errors import ConfigError, Refusal, RefusalCode
from common.job import Job
from common.packed import REFUSAL, Packed

log = logging.getLogger(__name__)

STOP_GRACE_S = 20.0
"""How long a request that is being answered may still take when the agent is told to stop."""

_REPLIES_KEPT, _REPLIES_KEPT_BYTES = 32, 256 << 20
_CALLS_AT_ONCE = 16
_WAIT_S = 0.2
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)


class Agent:
    """Answers requests one at a time. `status` is kept in step."""

    def __init__(self, hospital: Hospital, status: StatusFile) -> None:
        self._hospital, self._status = hospital, status
        self.turn = threading.Lock()
        """Held by whoever uses the hospital."""
        self._replies: OrderedDict[bytes, agent_pb2.Reply] = OrderedDict()

    def prepare(self, job: Job) -> None:
        """Make a job ready before it is asked for.

        Raises:
            ConsiliumError, MemoryError: as `Hospital.prepare`.
        """
        with self.turn, self._status.doing(f"prepare {job.name}"):
            self._hospital.prepare(job)

    def answer(self, kind: str, request: agent_pb2.Request, context: grpc.ServicerContext) -> agent_pb2.Reply:
        """The reply to a request, or a refusal. A caller that has gone while it waited for its turn gets nothing."""
        while not self.turn.acquire(timeout=_WAIT_S):
            if not context.is_active():
                context.abort(grpc.StatusCode.CANCELLED, "the caller has gone")
        try:
            key = _key(kind, request)
            # An approval that was taken back since counts for a repeated request, too.
            if key in self._replies and self._hospital.allows(_job_in(request)):
                return self._replies[key]
            with self._status.doing(kind):
                reply = self._answer(kind, request)
                self._status.count(declined=REFUSAL in reply.fields)
            if REFUSAL not in reply.fields:
                self._keep(key, reply)
            return reply
        finally:
            self.turn.release()

    def _answer(self, kind: str, request: agent_pb2.Request) -> agent_pb2.Reply:
        try:
            packed = to_packed(request)
        except ValueError:
            error = Refusal(RefusalCode.BAD_REQUEST, "the request cannot be decoded")
            return to_reply(self._hospital.decline(kind, Packed(), error))
        return to_reply(self._hospital.answer(kind, packed))

    def _keep(self, key: bytes, reply: agent_pb2.Reply) -> None:
        """Remember the last replies, as many as fit: the one before may still be on its way."""
        self._replies[key] = reply
        while len(self._replies) > 1 and (
            len(self._replies) > _REPLIES_KEPT
            or sum(one.ByteSize() for one in self._replies.values()) > _REPLIES_KEPT_BYTES
        ):
            self._replies.popitem(last=False)


def _job_in(request: agent_pb2.Request) -> str:
    # Looking up what is not there would add it.
    return request.fields["job"].text if "job" in request.fields else ""


def _key(kind: str, request: agent_pb2.Request) -> bytes:
    """Of the whole request, not of its id alone: another request under the same id must not get this one's reply."""
    return hashlib.sha256(kind.encode() + b"\0" + request.SerializeToString(deterministic=True)).digest()


class _Servicer(agent_pb2_grpc.AgentServicer):
    """gRPC's view of an agent: one method for each kind of request."""

    def __init__(self, agent: Agent) -> None:
        for kind, method in METHODS.items():
            setattr(self, method, self._method(agent, kind))

    @staticmethod
    def _method(agent: Agent, kind: str) -> Callable[[agent_pb2.Request, grpc.ServicerContext], agent_pb2.Reply]:
        def method(request: agent_pb2.Request, context: grpc.ServicerContext) -> agent_pb2.Reply:
            try:
                return agent.answer(kind, request, context)
            except Exception as error:  # gRPC would send its text, which may name a file
                if not context.is_active():
                    raise
                log.warning("declines %s: %s", kind, type(error).__name__)
                log.debug("because of:", exc_info=True)
                return to_reply(Packed({}, {REFUSAL: RefusalCode.INTERNAL.value}))

        return method


def log_what_leaves(kind: str, request: Packed, reply: Packed) -> None:
    """A line of the hospital's log for each answer."""
    size = sum(array.nbytes for array in reply.arrays.values())
    number = f" of round {request.fields['round']}" if "round" in request.fields else ""
    log.info("answers %s%s: %d arrays, %.1f kB", kind, number, len(reply.arrays), size / 1000)


class KeptLedger:
    """Each reply into the ledger, and a line of the log with the head: kept elsewhere, it shows a ledger written anew."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def record(
        self, kind: str, request: Packed, reply: Packed, reason: str | None, masked: bool = False, epsilon: float = 0.0
    ) -> None:
        """As `client.hospital.Books`."""
        head = self._ledger.record(kind, request, reply, reason, masked=masked, epsilon=epsilon)
        if REFUSAL not in reply.fields:
            log_what_leaves(kind, request, reply)
            log.info("the ledger stands at %s", head)

    def spent(self, job_id: str | None) -> float:
        """As `client.hospital.Books`."""
        return self._ledger.spent(job_id)


def serve(file: HospitalFile, path: Path, group: str | None = None) -> None:
    """Answer on the Unix socket `path` until SIGTERM or SIGINT. group: who else may use the socket, by name or number.

    Raises:
        ConfigError: the path cannot be used, or another agent uses it.
        LedgerError: the ledger was changed, or cannot be written.
    """
    with held(path), Ledger(file.state_folder, file.name) as ledger:
        log.info("the ledger of %s stands at %s", file.name, ledger.head)
        status = StatusFile(
            file.state_folder, AgentStatus(os.getpid(), file.name, str(path), state="starting", since=time.time())
        )
        use_torch_once()
        agent = Agent(Hospital(file, KeptLedger(ledger)), status)
        healths = health.HealthServicer()
        server = _listening(agent, healths, path)
        if group is not None:
            give_to_group(path, group)
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        server.start()
        healths.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        status.change(state="ready")
        log.info("the agent of %s answers on %s", file.name, path)
        with watched(status.progress):
            warming = threading.Thread(
                target=warm_up, args=(agent.prepare, Approvals(file.state_folder), status, stopping), daemon=True
            )
            warming.start()
            stopping.wait()
        log.info("the agent stops")
        healths.enter_graceful_shutdown()
        in_time = server.stop(STOP_GRACE_S).wait(STOP_GRACE_S + 1) and agent.turn.acquire(timeout=1)
        status.change(state="stopped", doing=None, doing_since=None)
        if not in_time:
            # Threads that still compute would keep the process alive. What they compute can be asked for again.
            ledger.close()
            path.unlink(missing_ok=True)
            os._exit(0)


def _listening(agent: Agent, healths: health.HealthServicer, path: Path) -> grpc.Server:
    """A server bound to the socket, which only this user can open."""
    server = grpc.server(ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="agent"), options=_OPTIONS)
    agent_pb2_grpc.add_AgentServicer_to_server(_Servicer(agent), server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(healths, server)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix://{path}")
    except RuntimeError as error:
        raise ConfigError(f"--socket: nothing can listen on {path}; look at the permissions of its folder") from error
    finally:
        os.umask(before)
    return server
