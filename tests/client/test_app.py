import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, RecordDict

from client import app as courier
from common.errors import RefusalCode
from common.flower_records import from_records, to_records
from common.wire import REFUSAL, REPLIES, Packed, dimensions, problem_with
from server.exchange import Exchange
from simulation.grid import InProcessGrid

PROJECT = Path(__file__).resolve().parents[2]
SECRET = "/data/patient-0815/Doe^Jane.dcm"


@pytest.fixture(autouse=True)
def no_hospitals_yet(monkeypatch):
    monkeypatch.setattr(courier, "hospitals", {})


@pytest.fixture
def ask():
    """What a node with this config answers, over the in-process Grid."""

    def put(node: dict, kind: str, request: Packed, run: dict | None = None) -> Packed:
        def app(message, context):
            context.run_config = dict(run or {})
            return courier.app(message, context)

        grid = InProcessGrid(app, {"a": node})
        asked = Exchange(grid, poll_s=0.01).ask(kind, request, [2], 1, 30)
        assert asked.failures == {}
        [answer] = asked.answers[2]
        return answer

    return put


@pytest.fixture
def node(phantoms, cache_dir):
    return {"hospital-dir": str(phantoms["hospital-a"]), "cache-dir": str(cache_dir), "device": "cpu"}


@pytest.fixture
def request_of(job):
    return Packed({}, {"job": job().canonical_json()})


def only_refusal(answer: Packed) -> str:
    assert not answer.arrays
    assert set(answer.fields) == {REFUSAL}
    return str(answer.fields[REFUSAL])


def test_a_hospital_s_folder_answers(ask, node, request_of, job, requests_of, hospital_with, phantoms):
    described = ask(node, "describe", request_of)
    assert problem_with(described, REPLIES["describe"], dimensions(job())) is None
    assert "hospital" not in described.fields
    requests = requests_of(job(), hospital_with(phantoms["hospital-a"]))
    assert problem_with(ask(node, "fit", requests.fit()), REPLIES["fit"], dimensions(job())) is None
    assert (
        problem_with(ask(node, "evaluate", requests.evaluate(heads=1)), REPLIES["evaluate"], dimensions(job())) is None
    )


def test_an_agent_behind_its_socket_answers(ask, node, request_of, monkeypatch):
    called = []

    def agent(*arguments):
        called.append(arguments)
        return Packed({}, {REFUSAL: "too-few-examples"})

    monkeypatch.setattr(courier, "ask_agent", agent)
    hostile = {"hospital-dir": "/etc", "agent-socket": "/run/other.sock"}
    # The node config decides, whatever else stands in it or in the run config.
    answer = ask({**node, "agent-socket": "/run/agent.sock"}, "describe", request_of, hostile)
    assert only_refusal(answer) == "too-few-examples"
    [(socket, kind, request, message_id, deadline_s)] = called
    assert (socket, kind, request.fields) == ("/run/agent.sock", "describe", request_of.fields)
    assert deadline_s > 0
    assert message_id
    assert courier.hospitals == {}


def test_an_agent_that_is_away_is_a_neutral_word(ask, request_of, monkeypatch, tmp_path):
    monkeypatch.setattr(courier.ask_agent, "__defaults__", (0.1,))
    answer = ask({"agent-socket": str(tmp_path / "patient-0815.sock")}, "describe", request_of)
    assert only_refusal(answer) == "agent-unavailable"


def test_a_hospital_is_opened_once_for_all_messages(ask, node, request_of, monkeypatch):
    opened = []
    real = courier._open
    monkeypatch.setattr(courier, "_open", lambda settings: opened.append(settings) or real(settings))
    for _ in range(3):
        ask(node, "describe", request_of)
    assert len(opened) == 1


@pytest.mark.parametrize("config", [{}, {"partition-id": 0}, {"hospital-file": "/some/hospital.yaml"}])
def test_a_node_without_a_usable_config_declines(ask, request_of, config):
    assert only_refusal(ask(config, "describe", request_of)) == "internal-error"


def test_a_folder_with_an_odd_name_is_a_hospital(ask, request_of, phantoms, cache_dir, tmp_path):
    folder = tmp_path / "St. Mary's (Ward 7)"
    folder.symlink_to(phantoms["hospital-a"])
    node = {"hospital-dir": str(folder), "cache-dir": str(cache_dir), "device": "cpu"}
    assert REFUSAL not in ask(node, "describe", request_of).fields


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError, OSError, RecursionError])
@pytest.mark.parametrize("where", ["opening", "answering"])
def test_no_text_of_a_raising_hospital_leaves(ask, node, request_of, monkeypatch, caplog, error, where):
    def fail(*arguments):
        raise error(SECRET)

    class Raising:
        answer = staticmethod(fail)

    monkeypatch.setattr(courier, "_open", fail if where == "opening" else lambda settings: Raising)
    with caplog.at_level(logging.INFO):
        assert only_refusal(ask(node, "describe", request_of)) == RefusalCode.INTERNAL.value
    assert SECRET not in caplog.text


def test_an_answer_that_cannot_be_packed_declines(ask, node, request_of, monkeypatch):
    class Odd:
        answer = staticmethod(lambda kind, request: Packed({}, {"job": object()}))

    monkeypatch.setattr(courier, "_open", lambda settings: Odd)
    assert only_refusal(ask(node, "describe", request_of)) == "internal-error"


@pytest.mark.parametrize(
    "content", [RecordDict(), RecordDict({"arrays": ArrayRecord()}), RecordDict({"config": ArrayRecord()})]
)
def test_a_message_that_is_none_of_ours_is_a_bad_request(node, request_of, content):
    grid = InProcessGrid(courier.app, {"a": node})
    [reply] = grid.send_and_receive([grid.create_message(content, "query", 2, "1")])
    assert only_refusal(from_records(reply.content)) == "bad-request"


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
def test_every_message_type_is_its_own_request(node, request_of, kind):
    grid = InProcessGrid(courier.app, {"a": node})
    [reply] = grid.send_and_receive([grid.create_message(to_records(request_of), kind, 2, "1")])
    answer = from_records(reply.content)
    assert (REFUSAL in answer.fields) == (kind != "query")


SIMULATED = {"num-partitions": 2, "partition-id": 1}


@pytest.fixture
def run_config(tmp_path, phantoms, cache_dir):
    folders = {f"st-{name[-1]}": str(phantoms[name]) for name in ("hospital-b", "hospital-a")}
    (tmp_path / "hospitals.json").write_text(json.dumps(folders))
    return {"hospitals": str(tmp_path / "hospitals.json"), "cache-dir": str(cache_dir), "device": "cpu"}


def test_a_simulated_node_plays_the_hospital_of_its_number(ask, node, request_of, run_config, job):
    own = ask(node, "describe", request_of)
    played = ask(SIMULATED, "describe", request_of, run_config)
    assert problem_with(played, REPLIES["describe"], dimensions(job())) is None
    assert played.fields["hospital"] == "st-a"
    assert (played.arrays["sums"] == own.arrays["sums"]).all()
    other = ask({**SIMULATED, "partition-id": 0}, "describe", request_of, run_config)
    assert other.fields["hospital"] == "st-b"
    assert (other.arrays["sums"] != own.arrays["sums"]).any()


def test_only_a_description_says_which_hospital(ask, request_of, run_config, job, requests_of, hospital_with, phantoms):
    requests = requests_of(job(), hospital_with(phantoms["hospital-a"]))
    assert problem_with(ask(SIMULATED, "fit", requests.fit(), run_config), REPLIES["fit"], dimensions(job())) is None
    unknown = Packed({}, {"job": "{}"})
    assert only_refusal(ask(SIMULATED, "describe", unknown, run_config)) == "bad-request"


@pytest.mark.parametrize("content", ["not json", "[1, 2]", None])
def test_a_simulation_without_a_usable_list_of_hospitals_declines(ask, request_of, run_config, content):
    path = Path(run_config["hospitals"])
    path.unlink() if content is None else path.write_text(content)
    assert only_refusal(ask(SIMULATED, "describe", request_of, run_config)) == "internal-error"


def test_more_nodes_than_hospitals_decline(ask, request_of, run_config):
    node = {"num-partitions": 3, "partition-id": 2}
    assert only_refusal(ask(node, "describe", request_of, run_config)) == "internal-error"


def test_a_simulation_without_hospitals_makes_itself_phantoms(ask, job, monkeypatch, tmp_path):
    monkeypatch.setenv("CONSILIUM_CACHE_DIR", str(tmp_path))
    request = Packed({}, {"job": job().canonical_json()})
    for _ in range(2):
        answer = ask({"num-partitions": 1, "partition-id": 0}, "describe", request, {"device": "cpu"})
        assert answer.fields["hospital"] == "hospital-a"
    assert [path.name for path in tmp_path.glob("phantoms*")] == ["phantoms-1"]


def test_a_run_config_does_not_choose_what_a_deployed_hospital_opens(ask, node, request_of, run_config, phantoms):
    expected = ask(node, "describe", request_of)
    hostile = {**run_config, "hospital-dir": str(phantoms["hospital-b"]), "hospital-file": "/etc/passwd"}
    found = ask({**node, **SIMULATED}, "describe", request_of, hostile)
    assert (found.arrays["sums"] == expected.arrays["sums"]).all()
    assert "hospital" not in found.fields
    assert only_refusal(ask({}, "describe", request_of, hostile)) == "internal-error"


def test_the_courier_imports_neither_torch_nor_an_image_library():
    script = "import client.app, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert {"flwr", "grpc"} <= set(found.stdout.split())
    assert not {"torch", "torchvision", "PIL", "pydicom", "imagehash"} & set(found.stdout.split())
