import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client.proto import agent_pb2
from client.proto.convert import METHODS, to_packed, to_reply, to_request
from common.packed import REFUSAL, Packed
from common.wire import REQUESTS

PROJECT = Path(__file__).resolve().parents[3]
GENERATED = ("agent_pb2.py", "agent_pb2.pyi", "agent_pb2_grpc.py")


def test_the_generated_stubs_are_those_of_the_proto_file(tmp_path):
    (tmp_path / "client" / "proto").mkdir(parents=True)
    shutil.copy(PROJECT / "client" / "proto" / "agent.proto", tmp_path / "client" / "proto")
    outputs = [f"--{kind}_out=." for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, "client/proto/agent.proto"]
    subprocess.run(command, cwd=tmp_path, check=True)
    for name in GENERATED:
        current = (PROJECT / "client" / "proto" / name).read_text()
        assert (tmp_path / "client" / "proto" / name).read_text() == current, f"{name} is not current: run make proto"


def test_there_is_one_method_for_each_kind_of_request_and_no_other():
    assert set(METHODS) == set(REQUESTS)
    service = agent_pb2.DESCRIPTOR.services_by_name["Agent"]
    assert {method.name for method in service.methods} == set(METHODS.values())


@pytest.mark.parametrize("convert", [lambda packed: to_request(packed, "m-1"), to_reply])
def test_a_message_comes_back_as_it_was(convert):
    dtypes = (np.float16, np.float32, np.float64, np.int32, np.int64)
    arrays = {np.dtype(one).name: np.arange(6, dtype=one).reshape(2, 3) for one in dtypes}
    packed = Packed(
        {**arrays, "none": np.zeros((0, 4), np.float32)}, {"text": "ä", "whole": 2**62, "real": 0.1, "zero": 0}
    )
    found = to_packed(type(convert(packed)).FromString(convert(packed).SerializeToString()))
    assert dict(found.fields) == dict(packed.fields)
    assert [type(value) for value in found.fields.values()] == [type(found.fields[name]) for name in found.fields]
    assert found.arrays.keys() == packed.arrays.keys()
    for name, array in packed.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)


def test_a_refusal_is_one_field():
    reply = to_reply(Packed({}, {REFUSAL: "bad-request"}))
    assert to_packed(reply) == Packed({}, {REFUSAL: "bad-request"})


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, True, None, object()])
def test_a_field_that_the_contract_has_not_is_refused(value):
    with pytest.raises(ValueError, match="expected fields of text"):
        to_request(Packed({}, {"odd": value}), "m")


def test_an_array_of_objects_is_refused():
    with pytest.raises(ValueError, match="dtype"):
        to_request(Packed({"odd": np.array([object()])}, {}), "m")


@pytest.mark.parametrize(
    "data", [b"garbage", b"\xff" * 8, b"\x02\x00\x00\x00\x00\x00\x00\x00{}x", b"\x80" + bytes(7) + b"{" * 128]
)
def test_bytes_that_are_no_arrays_are_refused(data):
    with pytest.raises(ValueError, match="safetensors"):
        to_packed(agent_pb2.Request(arrays=data))


def test_a_field_without_a_value_is_refused():
    request = to_request(Packed(), "m")
    request.fields["empty"].SetInParent()
    with pytest.raises(ValueError, match="no value"):
        to_packed(request)
