"""The agent: gRPC on a real Unix socket in this process; signals, locks and kills in processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from client import agent as module
from client.agent import log_what_leaves
from client.agent_socket import SERVICE, held, is_serving
from client.agent_status import read_status
from client.courier import ask_agent
from client.hospital import Hospital
from client.ledger_reading import read_ledger
from client.proto import agent_pb2, agent_pb2_grpc
from client.proto.convert import METHODS, to_request
from common.errors import Refusal
from common.packed import REFUSAL, Packed

PROJECT = Path(__file__).resolve().parents[2]


class Answering:
    """A hospital that answers at once, or when it is let; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = 0
        self.allowed = True
        self.most_at_once = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def allows(self, text: str) -> bool:
        return self.allowed

    def answer(self, kind: str, request: Packed) -> Packed:
        self.asked.append(kind)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.go_on.wait(10)
        self.at_once -= 1
        if request.fields.get("refuse"):
            return Packed({}, {REFUSAL: "too-few-examples"})
        return Packed({"numbers": np.arange(3, dtype=np.float32)}, {"calls": len(self.asked)})

    def decline(self, kind: str, request: Packed, error: Refusal) -> Packed:
        return Packed({}, {REFUSAL: error.code.value})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.sock"


@pytest.fixture
def hospital():
    return Answering()


@pytest.fixture
def serving(hospital, path, tmp_path, serve):
    with held(path):
        running = serve(hospital, path, tmp_path / "state")
        yield running
        running.stop()


def ask(path, kind="fit", message_id="m-1", **fields) -> Packed:
    return ask_agent(str(path), kind, Packed({}, fields), message_id, deadline_s=10, patience_s=0.5)


def test_every_kind_of_request_is_answered(serving, hospital, path):
    for kind in METHODS:
        found = ask(path, kind, message_id=kind)
        assert found.arrays["numbers"].tolist() == [0, 1, 2]
    assert hospital.asked == list(METHODS)


def test_the_socket_is_for_its_owner_only(serving, path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_health_is_grpc_s(serving, path):
    assert is_serving(path)
    serving.healths.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert not is_serving(path)


def test_a_request_repeated_by_its_message_id_is_computed_once(serving, hospital, path):
    first, again = ask(path), ask(path)
    assert hospital.asked == ["fit"]
    assert (first.fields, again.fields) == ({"calls": 1}, {"calls": 1})


def test_a_repeated_request_is_asked_anew_when_its_approval_was_taken_back(serving, hospital, path):
    ask(path)
    hospital.allowed = False
    ask(path)
    assert hospital.asked == ["fit", "fit"]


def test_a_full_disk_costs_no_answer_and_its_path_does_not_leave(serving, hospital, path, monkeypatch, caplog):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "/state/patient-0815")

    monkeypatch.setattr("client.agent_status.write_atomically", full)
    assert ask(path).fields == {"calls": 1}
    assert "patient" not in caplog.text
    monkeypatch.setattr(hospital, "answer", full)
    with grpc.insecure_channel(f"unix://{path}") as channel:
        reply = agent_pb2_grpc.AgentStub(channel).Fit(to_request(Packed(), "m-9"), timeout=5)
    assert reply.fields[REFUSAL].text == "internal-error"


@pytest.mark.parametrize("other", [{"message_id": "m-2"}, {"kind": "evaluate"}, {"round": 2}])
def test_another_request_never_gets_the_reply_of_the_first(serving, hospital, path, other):
    ask(path)
    assert ask(path, **other).fields == {"calls": 2}


def test_a_refusal_is_not_remembered(serving, hospital, path):
    for calls in (1, 2):
        assert ask(path, refuse="yes").fields == {REFUSAL: "too-few-examples"}
        assert len(hospital.asked) == calls


def test_the_replies_that_are_remembered_are_few(serving, hospital, path, monkeypatch):
    monkeypatch.setattr(module, "_REPLIES_KEPT", 2)
    for number in range(3):
        ask(path, message_id=f"m-{number}")
    ask(path, message_id="m-2")
    assert len(hospital.asked) == 3
    ask(path, message_id="m-0")
    assert len(hospital.asked) == 4


def test_one_request_at_a_time(serving, hospital, path):
    threads = [threading.Thread(target=ask, args=(path, "fit", f"m-{number}")) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(hospital.asked), hospital.most_at_once) == (4, 1)


def test_a_caller_that_went_while_it_waited_is_not_served(serving, hospital, path):
    hospital.go_on.clear()
    first = threading.Thread(target=ask, args=(path, "fit", "m-1"))
    first.start()
    while not hospital.asked:
        time.sleep(0.01)
    with pytest.raises(Refusal) as late:
        ask_agent(str(path), "fit", Packed(), "m-2", deadline_s=0.3)
    assert late.value.code.value == "deadline-passed"
    time.sleep(0.5)
    hospital.go_on.set()
    first.join()
    ask(path, "evaluate", "m-3")
    assert hospital.asked == ["fit", "evaluate"]


def test_a_request_that_cannot_be_decoded_is_a_bad_request(serving, hospital, path):
    with grpc.insecure_channel(f"unix://{path}") as channel:
        reply = agent_pb2_grpc.AgentStub(channel).Fit(agent_pb2.Request(arrays=b"garbage"), timeout=5)
    assert reply.fields[REFUSAL].text == "bad-request"
    assert hospital.asked == []


@pytest.mark.parametrize("content", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, os.urandom(4096), b""])
def test_garbage_on_the_socket_harms_nobody(serving, path, content):
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(2)
            caller.connect(str(path))
            caller.sendall(content)
    assert ask(path).fields == {"calls": 1}


def test_nothing_but_the_contract_is_served(serving, path):
    with grpc.insecure_channel(f"unix://{path}") as channel:
        for method in ("Approve", "Status", "Images"):
            call = channel.unary_unary(f"/consilium.agent.v1.Agent/{method}")
            with pytest.raises(grpc.RpcError) as error:
                call(b"", timeout=5)
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_above_the_limit_is_declined(hospital, path, tmp_path, monkeypatch, serve):
    monkeypatch.setattr(module, "_OPTIONS", (("grpc.max_receive_message_length", 10_000),))
    with held(path):
        running = serve(hospital, path, tmp_path / "state")
        with pytest.raises(Refusal) as error:
            ask_agent(str(path), "fit", Packed({"large": np.zeros(10_000)}), "m", deadline_s=5)
        assert error.value.code.value == "message-too-large"
        running.stop()


def test_what_is_going_on_is_in_the_status(serving, hospital, path, tmp_path):
    hospital.go_on.clear()
    asking = threading.Thread(target=ask, args=(path,))
    asking.start()
    while not hospital.asked:
        time.sleep(0.01)
    assert read_status(tmp_path / "state").doing == "fit"
    hospital.go_on.set()
    asking.join()
    ask(path, message_id="m-2", refuse="yes")
    found = read_status(tmp_path / "state")
    assert (found.doing, found.answered, found.declined) == (None, 1, 1)


def test_a_real_hospital_answers_as_it_does_without_a_socket(
    path, tmp_path, hospital_with, requests_of, phantoms, job, serve
):
    one = hospital_with(phantoms["hospital-a"])
    requests = requests_of(job(), one)
    with held(path):
        running = serve(one, path, tmp_path / "state")
        for kind, request in (
            ("describe", requests.describe()),
            ("fit", requests.fit()),
            ("evaluate", requests.evaluate()),
        ):
            over = ask_agent(str(path), kind, request, kind, deadline_s=60)
            direct = one.answer(kind, request)
            assert dict(over.fields) == dict(direct.fields)
            assert {name: array.tobytes() for name, array in over.arrays.items()} == {
                name: array.tobytes() for name, array in direct.arrays.items()
            }
        running.stop()


def test_nothing_leaves_that_is_not_recorded(phantoms, cache_dir, job, hospital_with):
    class Books:
        def __init__(self, error=None):
            self.error, self.seen = error, []

        def record(self, kind, request, reply, reason, masked=False, epsilon=0.0):
            self.seen.append((kind, reply, reason, masked, epsilon))
            if self.error and reason is None:
                raise self.error

        def spent(self, job_id):
            return 0.0

    file = hospital_with(phantoms["hospital-a"])._file
    request = Packed({}, {"job": job().canonical_json()})
    assert Hospital(file, Books(OSError(28, "No space left on device"))).answer("describe", request).fields == {
        REFUSAL: "disk-full"
    }
    books = Books()
    answer = Hospital(file, books).answer("describe", request)
    assert books.seen == [("describe", answer, None, False, 0.0)]


def test_the_log_says_what_leaves_and_no_more(caplog):
    with caplog.at_level("INFO"):
        log_what_leaves(
            "fit", Packed({}, {"round": 2, "job": "secret"}), Packed({"weight": np.zeros((2, 125), np.float32)})
        )
    assert caplog.messages == ["answers fit of round 2: 1 arrays, 1.0 kB"]


@pytest.fixture
def hospital_file(tmp_path, phantoms):
    file = tmp_path / "hospital.yaml"
    file.write_text(
        f"name: st-marys\ndata: {{folder: {phantoms['hospital-a']}}}\ncache: {tmp_path / 'cache'}\n"
        f"state: {tmp_path / 'state'}\ndevice: cpu\npolicy: {{approve: auto}}\n"
    )
    return file


@pytest.fixture
def start(hospital_file, path, tmp_path):
    """Starts a real agent; kills what is left of it afterwards."""
    started = []

    def run(wait: bool = True) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "cli.main", "hospital", "serve", "--file", hospital_file, "--socket", path]
        process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        started.append(process)
        end = time.monotonic() + 60
        while wait and not is_serving(path) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@pytest.mark.system
def test_an_agent_is_killed_starts_again_and_stops(start, path, tmp_path, job):
    request = Packed({}, {"job": job().canonical_json()})
    first = start()
    described = ask_agent(str(path), "describe", request, "m-1", 60)
    assert read_status(tmp_path / "state").state == "ready"

    second = start(wait=False)
    assert second.wait(60) == 2
    assert "another agent answers on" in second.communicate()[1]
    assert is_serving(path)

    first.kill()
    first.wait()
    assert path.is_socket()
    with pytest.raises(Refusal) as error:
        ask_agent(str(path), "describe", request, "m-2", deadline_s=60, patience_s=0.2)
    assert error.value.code.value == "agent-unavailable"

    asked: list[Packed] = []
    asking = threading.Thread(target=lambda: asked.append(ask_agent(str(path), "describe", request, "m-3", 90, 60)))
    asking.start()
    third = start()
    asking.join(60)
    [again] = asked
    assert again.arrays["sums"].tobytes() == described.arrays["sums"].tobytes()
    assert again.fields["cached"] == described.fields["decoded"]

    third.send_signal(signal.SIGTERM)
    assert third.wait(30) == 0
    assert not path.exists()
    ledger = read_ledger(tmp_path / "state")
    assert (ledger.problems, ledger.note) == ([], None)
    assert [one.kind for one in ledger.entries if one.decision == "sent"] == ["describe"] * 2
    assert read_status(tmp_path / "state").state == "stopped"


@pytest.mark.system
def test_an_agent_killed_in_the_middle_of_a_call(start, path, job):
    request = to_request(Packed({}, {"job": job(image={"size": 224}).canonical_json()}), "m-1")
    process = start()
    with grpc.insecure_channel(f"unix://{path}") as channel:
        call = agent_pb2_grpc.AgentStub(channel).Describe.future(request, timeout=60)
        time.sleep(0.3)
        assert not call.done()
        process.kill()
        assert call.exception(timeout=10).code() is grpc.StatusCode.UNAVAILABLE
