import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from client.courier import ask_agent
from client.proto import agent_pb2, agent_pb2_grpc
from client.proto.convert import to_packed, to_reply
from common.errors import Refusal
from common.packed import Packed


class Scripted(agent_pb2_grpc.AgentServicer):
    """Plays what it is given, one entry a call: a reply, or a gRPC status to end with."""

    def __init__(self, script) -> None:
        self.script, self.requests = list(script), []

    def Fit(self, request, context):
        self.requests.append(request)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, grpc.StatusCode):
            context.abort(step, "patient-0815 in /data/Doe")
        if callable(step):
            return step()
        return to_reply(step)


@pytest.fixture
def agent(tmp_path):
    """Serves a script; gives the socket's path and what was asked."""
    servers = []

    def serve(*script):
        servicer, path = Scripted(script), tmp_path / "agent.sock"
        server = grpc.server(ThreadPoolExecutor(2))
        agent_pb2_grpc.add_AgentServicer_to_server(servicer, server)
        server.add_insecure_port(f"unix://{path}")
        server.start()
        servers.append(server)
        return str(path), servicer.requests

    yield serve
    for server in servers:
        server.stop(0).wait(5)


def refused(*arguments, **options) -> Refusal:
    with pytest.raises(Refusal) as error:
        ask_agent(*arguments, **options)
    return error.value


def test_a_reply_comes_back(agent):
    path, requests = agent(Packed({"a": np.ones(3)}, {"n": 5}))
    found = ask_agent(path, "fit", Packed({"x": np.zeros(2, np.float16)}, {"round": 1}), "m-7", 5)
    assert (found.arrays["a"].tolist(), dict(found.fields)) == ([1, 1, 1], {"n": 5})
    [request] = requests
    assert request.message_id == "m-7"
    assert to_packed(request).arrays["x"].dtype == np.float16


def test_an_agent_that_is_restarting_is_tried_again_with_the_same_id(agent):
    path, requests = agent(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, Packed({}, {"n": 1}))
    assert ask_agent(path, "fit", Packed(), "m-1", 10).fields == {"n": 1}
    assert [request.message_id for request in requests] == ["m-1"] * 3


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline-passed"),
        (grpc.StatusCode.CANCELLED, "deadline-passed"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "message-too-large"),
        (grpc.StatusCode.UNKNOWN, "internal-error"),
        (grpc.StatusCode.UNIMPLEMENTED, "internal-error"),
    ],
)
def test_anything_else_is_not_tried_again_and_says_nothing(agent, status, code):
    path, requests = agent(status)
    error = refused(path, "fit", Packed(), "m", 5)
    assert error.code.value == code
    assert "patient" not in str(error)
    assert len(requests) == 1


def test_patience_ends(agent, tmp_path):
    start = time.monotonic()
    error = refused(str(tmp_path / "nobody.sock"), "fit", Packed(), "m", 60, patience_s=0.6)
    assert error.code.value == "agent-unavailable"
    assert 0.1 <= time.monotonic() - start < 5


def test_the_deadline_is_for_all_tries_together(tmp_path):
    start = time.monotonic()
    assert refused(str(tmp_path / "nobody.sock"), "fit", Packed(), "m", 0.6).code.value == "agent-unavailable"
    assert time.monotonic() - start < 5


def test_an_agent_that_is_too_slow(agent):
    done = threading.Event()
    path, _ = agent(lambda: done.wait(5) and agent_pb2.Reply())
    assert refused(path, "fit", Packed(), "m", 0.3).code.value == "deadline-passed"
    done.set()


def test_a_reply_that_cannot_be_decoded_is_no_reply(agent):
    path, _ = agent(lambda: agent_pb2.Reply(arrays=b"garbage"))
    with pytest.raises(ValueError, match="safetensors"):
        ask_agent(path, "fit", Packed(), "m", 5)


@pytest.mark.parametrize(
    ("kind", "request_"),
    [("approve", Packed()), ("fit", Packed({"a": np.array(["x"])})), ("fit", Packed({}, {"n": 2**70}))],
)
def test_what_the_contract_has_not_is_not_carried(agent, kind, request_):
    path, requests = agent(Packed())
    assert refused(path, kind, request_, "m", 5).code.value == "bad-request"
    assert requests == []


def test_no_proxy_is_asked_for_a_unix_socket(agent, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    path, _ = agent(Packed({}, {"n": 1}))
    assert ask_agent(path, "fit", Packed(), "m", 5).fields == {"n": 1}
