"""Whatever is asked, what leaves is on the allow-list or is a refusal with a known code; nothing is ever raised."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from common.errors import RefusalCode
from common.job import parse_job
from common.wire import PERSONALISED, REFUSAL, Packed, dimensions, problem_with, reply_schema

CODES = {code.value for code in RefusalCode}
KINDS = ("describe", "initial", "statistics", "fit", "evaluate", "own", "personalise")

names = st.sampled_from(["weight", "bias", "mean", "scale", "job", "fingerprint", "round", "part", "images", "paths"])
in_json = st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.booleans(), st.none(), st.just([1.0]))
plain = in_json | st.binary(max_size=8)
shapes = st.sampled_from([(), (0,), (2,), (3,), (512,), (2, 512), (512, 2), (1, 2), (0, 2), (0, 2, 512), (1, 2, 512)])
dtypes = st.sampled_from(["float16", "float32", "float64", "int32", "bool", "<U3", "complex64", "datetime64[s]"])
arrays = st.builds(lambda dtype, shape: np.zeros(shape, dtype), dtypes, shapes) | st_numpy.arrays(
    np.float32, st.just((2, 512)), elements=st.floats(width=32), fill=st.floats(width=32)
)
heads = st.builds(
    lambda weight: {"weight": weight},
    st_numpy.arrays(np.float32, st.sampled_from([(2, 512), (1, 2, 512)]), elements=st.floats(-1e3, 1e3, width=32)),
)
HARMLESS = [{"round": 7}, {"part": "test"}, {"part": "validation"}]
job_changes = st.dictionaries(
    st.sampled_from(["name", "classes", "seed", "image", "method", "tune", "quorum", "features", "other_labels", "x"]),
    in_json | st.sampled_from([["a", "b"], ["normal", "opacity", "c"], {"name": "fedavg"}, {"views": 2}, "skip"]),
    max_size=2,
)


@pytest.fixture(scope="module")
def door(phantoms, hospital_with, requests_of):
    """A hospital, well-formed requests to it by kind, and its job as plain content."""
    content = {
        "name": "test-job",
        "classes": ["normal", "opacity"],
        "backbone": {"name": "squeezenet1_1", "weights": {"name": "random", "seed": 1}},
        "image": {"size": 64},
        "features": {"stages": "last"},
        "method": {"name": "fedavg", "warm_start": "analytic"},
        "evaluation": {"cross_site": True},
        "personalisation": {"epochs": 1},
    }
    job = parse_job(content)
    hospital = hospital_with(phantoms["hospital-a"], allow_backbones=("squeezenet1_1",))
    asked = requests_of(job, hospital)
    good = {
        "describe": asked.describe(),
        "initial": asked.about(),
        "statistics": asked.statistics(),
        "fit": asked.fit(),
        "evaluate": asked.evaluate(heads=1),
        "own": asked.statistics(),
        "personalise": asked.personalise(),
    }
    return hospital, good, json.loads(job.canonical_json())


@st.composite
def changes(draw):
    """A kind, whose request to begin with, and what of it is replaced, added or left out: often a little only."""
    kind = draw(st.sampled_from(KINDS))
    field_change = draw(st.just({}) | st.dictionaries(names, plain, max_size=2) | st.sampled_from(HARMLESS))
    array_change = draw(st.just({}) | st.dictionaries(names, arrays | plain, max_size=2) | heads)
    return (
        draw(st.just(kind) | st.text(max_size=8)),
        draw(st.just(kind) | st.sampled_from([*KINDS, None])),
        field_change,
        array_change,
        draw(st.just(set()) | st.sets(names, max_size=1)),
        draw(st.none() | job_changes),
    )


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(changes())
def test_any_request_gets_an_allowed_reply_or_a_known_refusal(door, change):
    kind, base, fields, new_arrays, left_out, job_change = change
    hospital, good, job = door
    request = good[base] if base else Packed()
    own = (
        {"job": json.dumps({**job, **job_change}, sort_keys=True, separators=(",", ":"), default=str)}
        if job_change
        else {}
    )
    asked = Packed(
        {name: array for name, array in {**request.arrays, **new_arrays}.items() if name not in left_out},
        {name: value for name, value in {**request.fields, **own, **fields}.items() if name not in left_out},
    )
    reply = hospital.answer(kind, asked)
    if REFUSAL in reply.fields:
        assert dict(reply.fields) == {REFUSAL: reply.fields[REFUSAL]}
        assert reply.fields[REFUSAL] in CODES
        assert not reply.arrays
    else:
        answered = parse_job(json.loads(str(asked.fields["job"])))
        heads = len(PERSONALISED) if kind == "personalise" else 1
        assert problem_with(reply, reply_schema(kind, answered, {}), dimensions(answered, heads)) is None


def test_the_requests_that_are_changed_above_are_good_ones(door):
    """But for the pretrained arrays, which a job that trains the head alone does not ask for."""
    hospital, good, _ = door
    for kind in KINDS:
        assert (REFUSAL in hospital.answer(kind, good[kind]).fields) == (kind == "initial")


def test_numbers_at_the_end_of_their_range_are_answered_or_refused(door):
    hospital, good, job = door
    most = np.finfo(np.float32).max
    extremes = {
        "weight": np.full((2, 512), most, np.float32),
        "scale": np.full(512, 6e-8, np.float16),
        "mean": np.full(512, 65504, np.float16),
    }
    for name, array in extremes.items():
        for kind in ("fit", "evaluate", "statistics"):
            if name not in good[kind].arrays:
                continue
            array = array[None] if kind == "evaluate" and name == "weight" else array
            reply = hospital.answer(kind, Packed({**good[kind].arrays, name: array}, good[kind].fields))
            assert reply.fields.get(REFUSAL, "internal-error") == "internal-error"
            if REFUSAL not in reply.fields:
                answered = parse_job(job)
                assert problem_with(reply, reply_schema(kind, answered, {}), dimensions(answered)) is None
