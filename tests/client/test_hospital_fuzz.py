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
KINDS = ("describe", "initial", "statistics", "fit", "evaluate", "own", "personalise", "groups")

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
        "evaluation": {"cross_site": True, "groups": ["sex"]},
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
        "groups": asked.fit(),
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


# ------------------------------------------------------------------------------------- any policy, and any well-formed request

LAX = {
    "approve": "auto",
    "allow_backbones": None,
    "allow_tuning": ("head",),
    "allow_groups": ("sex", "age_band"),
    "allow_methods": None,
    "min_examples": 1,
    "min_patients": 1,
    "min_count": 1,
    "max_rounds": None,
    "max_payload_mb": None,
    "require_secure_aggregation": False,
}
RULES = {
    "approve": st.just("manual"),
    "allow_backbones": st.sampled_from([("squeezenet1_1",), ("resnet50",), (f"squeezenet1_1@{'0' * 64}",)]),
    "allow_tuning": st.sampled_from([("head", "full"), ()]),
    "allow_groups": st.sampled_from([(), ("age_band",), ("sex",)]),
    "allow_methods": st.sampled_from([("analytic",), ("fedavg",), ("analytic", "fedavg", "scaffold")]),
    "min_examples": st.integers(1, 40),
    "min_patients": st.integers(1, 40),
    "min_count": st.integers(2, 6),
    "max_rounds": st.sampled_from([1, 3, 20]),
    "max_payload_mb": st.sampled_from([256.0, 1.0, 0.02, 0.001]),
    "require_secure_aggregation": st.just(True),
}
policies = st.sets(st.sampled_from(list(RULES)), max_size=3).flatmap(
    lambda keys: st.fixed_dictionaries({key: RULES[key] if key in keys else st.just(LAX[key]) for key in LAX})
)
jobs = st.fixed_dictionaries(
    {
        "method": st.sampled_from(
            [
                {"name": "analytic"},
                {"name": "fedavg", "rounds": 2},
                {"name": "fedavg", "rounds": 8, "warm_start": "analytic"},
                {"name": "scaffold", "rounds": 3, "momentum": 0.0},
            ]
        ),
        "evaluation": st.builds(
            lambda test, cross, groups: {
                "test_fraction": test,
                "validation_fraction": 0.3,
                "cross_site": cross,
                "groups": groups,
            },
            st.sampled_from([0.2, 0.4]),
            st.booleans(),
            st.sampled_from([[], ["sex"]]),
        ),
        "personalisation": st.sampled_from([None, {"epochs": 1}]),
        "features": st.sampled_from([{"stages": "last"}, {"stages": "last", "views": 2}]),
    }
)
numbers = st.sampled_from([1, 1, 1, 0, 2, 9])
parts = st.sampled_from(["validation", "test", "test", "train"])
asks = st.lists(st.tuples(st.sampled_from(KINDS[::-1]), numbers, parts, st.integers(1, 5)), min_size=3, max_size=6)


def request_of(asked, kind: str, number: int, part: str, heads: int) -> Packed:
    if kind == "fit" and asked.job.method.name == "scaffold":
        plain = asked.fit(number)
        drift = {f"correction.{name}": np.zeros_like(plain.arrays[name]) for name in ("weight", "bias")}
        return Packed({**plain.arrays, **drift}, plain.fields)
    return {
        "describe": asked.describe,
        "initial": asked.about,
        "statistics": asked.statistics,
        "own": asked.statistics,
        "fit": lambda: asked.fit(number),
        "evaluate": lambda: asked.evaluate(part, heads, number),
        "personalise": lambda: asked.personalise(part, number),
        "groups": lambda: asked.fit(number),
    }[kind]()


def may_be_answered(policy: dict, job, train: np.ndarray, patients: int) -> bool:
    """The rules once more, in other words than `client/policy.py` has them."""
    used = {job.method.name} | ({"analytic"} if job.method.warm_start == "analytic" else set())
    return (
        policy["approve"] == "auto"
        and policy["allow_backbones"] in (None, ("squeezenet1_1",))
        and "head" in policy["allow_tuning"]
        and used <= set(policy["allow_methods"] or used)
        and set(job.evaluation.groups) <= set(policy["allow_groups"])
        and train.sum() >= policy["min_examples"]
        and patients >= policy["min_patients"]
        and all(images == 0 or images >= policy["min_count"] for images in train)
        and job.method.rounds <= (policy["max_rounds"] or job.method.rounds)
        and not policy["require_secure_aggregation"]
    )


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(policies, jobs, asks)
def test_what_is_answered_keeps_to_the_policy_whatever_it_is(
    door, phantoms, hospital_with, requests_of, rules, choice, asked
):
    """And what is allowed is answered: a hospital that refuses everything would pass the first half."""
    _, _, content = door
    job = parse_job({**content, "name": "any", **choice})
    lax = hospital_with(phantoms["hospital-a"])
    requests = requests_of(job, lax)
    described = lax.answer("describe", requests.describe())
    train, patients = described.arrays["images"][0], int(described.arrays["patients"][0])
    hospital = hospital_with(phantoms["hospital-a"], **rules)
    for kind, number, part, heads in asked:
        request = request_of(requests, kind, number, part, heads)
        reply = hospital.answer(kind, request)
        largest = max(sum(array.nbytes for array in one.arrays.values()) for one in (request, reply))
        most = (rules["max_payload_mb"] or 1e9) * 1e6
        if REFUSAL in reply.fields:
            assert (set(reply.fields), dict(reply.arrays)) == ({REFUSAL}, {})
            assert reply.fields[REFUSAL] in CODES - {"internal-error"}
            unasked = lax.answer(kind, request)
            if may_be_answered(rules, job, train, patients) and REFUSAL not in unasked.fields:
                assert max(largest, sum(array.nbytes for array in unasked.arrays.values())) > most
            continue
        assert may_be_answered(rules, job, train, patients)
        assert largest <= most
        assert number <= job.method.rounds or kind not in ("fit", "evaluate", "personalise", "groups")
        assert part != "train" or kind not in ("evaluate", "personalise")
        base = rules["min_count"]
        told = [reply.arrays[name] for name in ("confusion", "histograms", "patients") if name in reply.arrays]
        told += [reply.arrays["calibration"][:, :2]] if "calibration" in reply.arrays else []
        told += [reply.arrays["images"][1:]] if "images" in reply.arrays else []
        told += [np.array([reply.fields[name]]) for name in ("decoded", "cached", "unreadable") if name in reply.fields]
        assert all((one % base == 0).all() for one in told)
