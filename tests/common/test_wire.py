"""The contract: what each kind of job adds to it, and that every departure from a schema is found."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype, scalar_dtypes

from common import wire
from common.job import Job, parse_job
from common.methods import METHODS
from common.wire import (
    ASKED_BY,
    REPLIES,
    REQUESTS,
    Packed,
    Schema,
    dimensions,
    problem_with,
    reply_schema,
    request_schema,
)

SHAPES = {"features.18.0.weight": (4, 1, 2), "features.18.1.bias": (4,)}


def job(**changes: Any) -> Job:
    content = {"name": "j", "classes": ["a", "b", "c"], "backbone": {"name": "mobilenet_v2", "weights": "random"}}
    return parse_job({**content, **changes})


JOBS: dict[str, tuple[Job, wire.Shapes]] = {
    "analytic": (job(), {}),
    "fedavg": (job(method="fedavg"), {}),
    "scaffold": (job(method="scaffold"), {}),
    "fednova": (job(method="fednova"), {}),
    "deep": (job(method="fedavg", tune="last-blocks"), SHAPES),
    "deep-scaffold": (job(method="scaffold", tune="last-blocks"), SHAPES),
}
DIMS = {**dimensions(JOBS["analytic"][0], heads=2), "D": 5, "S": 6, "T": 21, "P": 3, "L": 7, "G": 2, "I": 4}
"""Of the schemas below; D is small to be quick."""


def _schemas() -> Iterator[tuple[str, Schema]]:
    seen = []
    for name, (one, tuned) in JOBS.items():
        for kind in REQUESTS:
            for says, schema in (("ask", request_schema(kind, one, tuned)), ("say", reply_schema(kind, one, tuned))):
                if (says, kind, schema) not in seen:
                    seen.append((says, kind, schema))
                    yield f"{name}-{says}-{kind}", schema


SCHEMAS = list(_schemas())
WITH_ARRAYS = [pair for pair in SCHEMAS if pair[1].arrays]
EXAMPLE: dict[type, Any] = {str: "x", int: 1, float: 1.0}


def valid(schema: Schema) -> Packed:
    """A message of ones that the schema accepts."""
    shapes = {
        name: tuple(DIMS[letter] if isinstance(letter, str) else letter for letter in spec.shape)
        for name, spec in schema.arrays.items()
    }
    return Packed(
        {name: np.ones(shapes[name], spec.dtype) for name, spec in schema.arrays.items()},
        {name: EXAMPLE[kind] for name, kind in schema.fields.items()},
    )


def with_array(packed: Packed, name: str, array: Any) -> Packed:
    return Packed({**packed.arrays, name: array}, packed.fields)


def with_field(packed: Packed, name: str, value: Any) -> Packed:
    return Packed(packed.arrays, {**packed.fields, name: value})


def one_array(array: Any, dtype: str = "float32", shape: tuple[str | int, ...] = ("D",)) -> str | None:
    return problem_with(Packed({"a": array}), Schema({"a": wire.ArraySpec(dtype, shape)}, {}), DIMS)


def one_field(value: Any, kind: type) -> str | None:
    return problem_with(Packed({}, {"f": value}), Schema({}, {"f": kind}), DIMS)


@pytest.mark.parametrize(("_", "schema"), SCHEMAS)
def test_a_valid_message_has_no_problem(_: str, schema: Schema) -> None:
    assert problem_with(valid(schema), schema, DIMS) is None


@pytest.mark.parametrize(("_", "schema"), SCHEMAS)
def test_every_missing_or_extra_entry_is_found(_: str, schema: Schema) -> None:
    good = valid(schema)
    for name in good.arrays:
        left = {other: array for other, array in good.arrays.items() if other != name}
        assert problem_with(Packed(left, good.fields), schema, DIMS) == f"missing array '{name}'"
    for name in good.fields:
        rest = {other: value for other, value in good.fields.items() if other != name}
        assert problem_with(Packed(good.arrays, rest), schema, DIMS) == f"missing field '{name}'"
    array = problem_with(with_array(good, "doe-john.png", np.ones(5)), schema, DIMS)
    field = problem_with(with_field(good, "doe-john.png", "x"), schema, DIMS)
    assert (array or "").startswith("unexpected array (expected: ")
    assert (field or "").startswith("unexpected field (expected: ")
    assert "doe-john" not in f"{array}{field}"


@pytest.mark.parametrize(("_", "schema"), WITH_ARRAYS)
def test_every_departure_of_every_array_is_found(_: str, schema: Schema) -> None:
    good = valid(schema)
    for name, array in good.arrays.items():
        bad: list[Any] = [
            array.astype(np.int64 if array.dtype == np.uint64 else np.uint64),  # and uint8 is neither
            array.astype(bool),
            array.astype(object),
            array[None],
            array[..., :-1],
            array.ravel()[:1],
            array.ravel()[0],
            array.tolist(),
            None,
        ]
        if array.dtype.itemsize > 1:
            bad.append(array.astype(">" + array.dtype.str[1:]))
        if array.dtype.kind != "u":
            bad.append(-array if array.dtype.kind == "i" else array * np.nan)
        if array.dtype.kind == "f":
            bad += [np.full_like(array, np.inf), np.full_like(array, -np.inf)]
        for wrong in bad:
            problem = problem_with(with_array(good, name, wrong), schema, DIMS)
            assert problem is not None
            assert problem.startswith(f"array '{name}': expected ")


@pytest.mark.parametrize(("_", "schema"), SCHEMAS)
def test_every_departure_of_every_field_is_found(_: str, schema: Schema) -> None:
    good = valid(schema)
    wrong: dict[type, list[Any]] = {
        str: [None, 1, b"x", ["x"], np.str_("x")],
        int: [None, True, "1", 1.0, -1, 2**63, 10**5000, np.int64(1), [1]],
        float: [None, True, "1", 1, float("nan"), float("inf"), -0.5, 1e300, np.float64(1), [1.0]],
    }
    for name, kind in {**schema.fields, **schema.optional}.items():
        for value in wrong[kind]:
            problem = problem_with(with_field(good, name, value), schema, DIMS)
            assert problem is not None
            assert problem.startswith(f"field '{name}': expected {kind.__name__}")


@pytest.mark.parametrize(("value", "kind"), [("", str), (0, int), (2**63 - 1, int), (0.0, float), (1e18, float)])
def test_fields_at_the_ends_of_their_range_are_accepted(value: Any, kind: type) -> None:
    assert one_field(value, kind) is None


def test_optional_fields_may_be_absent_but_not_of_another_type() -> None:
    schema = Schema({}, {}, {"hospital": str})
    assert problem_with(Packed(), schema, DIMS) is None
    assert problem_with(Packed({}, {"hospital": "a"}), schema, DIMS) is None
    assert problem_with(Packed({}, {"hospital": None}), schema, DIMS) is not None  # type: ignore[dict-item]


@pytest.mark.parametrize("kind", ["statistics", "fit", "evaluate", "own", "personalise", "groups"])
def test_a_scale_that_would_divide_by_zero_is_refused(kind: str) -> None:
    good = valid(REQUESTS[kind])
    for number in (0.0, -1.0):
        scale = np.ones(5, np.float16)
        scale[3] = number
        problem = problem_with(with_array(good, "scale", scale), REQUESTS[kind], DIMS)
        assert problem == "array 'scale': expected numbers above 0, got 0 or less"


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()] * 5, dtype=object),
        np.array([[1], [1, 2], [], [3], [4]], dtype=object),
        np.array(1.0, np.float32),
        np.zeros(5, [("a", "f4"), ("b", "O")]),
        np.zeros(5, [("name " * 50, "f4")]),
        np.array(["a"] * 5),
        np.array(["2020-01-01"] * 5, "datetime64[D]"),
        np.zeros(5, np.complex64),
        np.ma.masked_array(np.full(5, np.nan, np.float32), mask=True),
        np.zeros(5, np.float32).view(np.recarray),
        np.zeros((0,), np.float32),
        [1.0] * 5,
        {"a": 1},
        b"12345",
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}"[:40],
)
def test_hostile_arrays_are_refused_without_an_exception(array: Any) -> None:
    problem = one_array(array)
    assert problem is not None
    assert len(problem) < 200


def test_hostile_names_are_refused_without_an_exception() -> None:
    empty = Schema({}, {})
    for names in ({1: 1, "a": 1}, {("a",): 1}, {None: 1, 2.5: 1}, {"x" * 10_000: 1}, {"\ud800": 1}):
        for packed in (Packed(names, {}), Packed({}, names)):  # type: ignore[arg-type]
            problem = problem_with(packed, empty, DIMS)
            assert problem is not None
            assert problem.startswith("unexpected ")
            assert len(problem) < 100


def test_a_problem_repeats_no_value_of_the_message() -> None:
    problem = one_field("Jane Roe, born 1950", int)
    assert problem == "field 'f': expected int, got str"
    assert "4711" not in str(one_field(-4711, int))


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers()),
        st.dictionaries(st.text(), st.integers()), scalar_dtypes().flatmap(from_dtype),
    )
)  # fmt: skip
def test_only_the_exact_type_and_range_passes(value: Any) -> None:
    assert (one_field(value, str) is None) == (type(value) is str)
    assert (one_field(value, int) is None) == (type(value) is int and 0 <= value < 2**63)
    assert (one_field(value, float) is None) == (type(value) is float and 0 <= value < 2**63)


@given(
    st.one_of(scalar_dtypes(), st.sampled_from([np.dtype("float32"), np.dtype("int32")])).flatmap(
        lambda dtype: arrays(dtype, st.one_of(array_shapes(max_dims=3, max_side=6), st.sampled_from([(), (5,), (0,)])))
    )
)
@settings(max_examples=200, deadline=None)
def test_only_the_exact_dtype_shape_and_range_passes(array: Any) -> None:
    floats = array.dtype == np.float32 and array.shape == (5,) and bool(np.isfinite(array).all())
    whole = array.dtype == np.int32 and array.shape == (5,) and bool((array >= 0).all())
    assert (one_array(array, "float32") is None) == floats
    assert (one_array(array, "int32") is None) == whole


def test_the_whole_list_of_what_may_leave_a_hospital() -> None:
    """A change here is a change of what leaves: change `docs/privacy.md` with it."""
    counts = {"confusion", "histograms", "calibration", "losses"}
    identity = {"job-id", "fingerprint"}
    known = {
        "backbone-digest",
        "tuned-digest",
        "examples",
        "other-labels",
        "unreadable",
        "decoded",
        "cached",
        "hospital",
    }
    assert {name: set(reply.arrays) for name, reply in REPLIES.items()} == {
        "describe": {"images", "patients", "sums", "squares"},
        "initial": set(),
        "statistics": {"gram", "class-sums"},
        "fit": {"weight", "bias"} | counts,
        "evaluate": counts,
        "distances": {"distances"},
        "own": {"weight", "bias"},
        "personalise": counts,
        "duplicates": {"exact", "near"},
        "collisions": set(),
        "groups": {"confusion"},
        "keys": {"encryption-key", "mask-key", "commitment", "signature"},
        "shares": {"ciphertexts", "digests"},
        "masked": {"vector"},
        "confirm": {"signature"},
        "unmask": {"seed-shares", "key-shares"},
    }
    assert {name: {*reply.fields, *reply.optional} for name, reply in REPLIES.items()} == {
        "describe": identity | known,
        "initial": identity,
        "statistics": identity | {"examples"},
        "fit": identity | {"round", "examples", "loss-sum"},
        "evaluate": identity | {"part", "round"},
        "distances": identity,
        "own": identity | {"examples"},
        "personalise": identity | {"part", "round"},
        "duplicates": identity,
        "collisions": identity,
        "groups": identity | {"round"},
        "keys": identity | {"session", "hospital"},
        "shares": identity | {"session"},
        "masked": identity | {"session", "purpose"},
        "confirm": identity | {"session"},
        "unmask": identity | {"session"},
    }
    secure = reply_schema("describe", job(privacy={"secure_aggregation": True}), {})
    assert set(secure.arrays) == set()
    assert {*secure.fields, *secure.optional} == identity | {"backbone-digest", "tuned-digest", "hospital"}
    own = job(
        method={"name": "fedavg"},
        evaluation={},
        privacy={"differential_privacy": {"epsilon": 3, "noise": "own"}},
    )
    noised = {kind: reply_schema(kind, own, {}) for kind in ("describe", "fit")}
    assert {kind: set(schema.arrays) for kind, schema in noised.items()} == {
        "describe": {"centre"},
        "fit": {"weight", "bias"},
    }
    assert {kind: {*schema.fields, *schema.optional} for kind, schema in noised.items()} == {
        "describe": identity | {"backbone-digest", "tuned-digest", "hospital"},
        "fit": identity | {"round"},
    }
    assert {kind for kind in REPLIES if ASKED_BY[kind](own)} == {"describe", "fit", "evaluate"}


TUNED = {"tuned.features.18.0.weight", "tuned.features.18.1.bias"}


def added(name: str, replies: bool) -> dict[str, set[str]]:
    """The arrays and fields that a job adds to the plain schemas, by kind."""
    one, tuned = JOBS[name]
    plain = REPLIES if replies else REQUESTS
    found = {}
    for kind in plain:
        schema = (reply_schema if replies else request_schema)(kind, one, tuned)
        assert set(plain[kind].arrays) <= set(schema.arrays)
        assert set(plain[kind].fields) <= set(schema.fields)
        assert schema.optional == plain[kind].optional
        more = {*schema.arrays, *schema.fields} - {*plain[kind].arrays, *plain[kind].fields}
        found |= {kind: more} if more else {}
    return found


def test_what_a_job_adds_to_what_may_leave_a_hospital() -> None:
    """A change here is a change of what leaves: change `docs/privacy.md` with it."""
    assert added("analytic", replies=True) == added("fedavg", replies=True) == {}
    assert added("scaffold", replies=True) == added("fednova", replies=True) == {"fit": {"steps"}}
    assert added("deep", replies=True) == {"initial": TUNED, "fit": TUNED}
    assert added("deep-scaffold", replies=True) == {"initial": TUNED, "fit": TUNED | {"steps"}}


@pytest.mark.parametrize("name", METHODS)
def test_steps_are_a_whole_number_and_leave_for_the_methods_that_count_them_only(name: str) -> None:
    private = {"privacy": {"secure_aggregation": True, "differential_privacy": {"epsilon": 1}}}
    one = job(method=name, **(private if name == "dp-gd" else {}))
    assert one.method.counts_steps == (name in ("scaffold", "fednova"))
    assert reply_schema("fit", one, {}).fields.get("steps") == (int if one.method.counts_steps else None)
    for kind in set(REPLIES) - {"fit", "describe"}:
        assert reply_schema(kind, one, {}) == REPLIES[kind]


@pytest.mark.parametrize("name", JOBS)
def test_a_control_variate_never_leaves_a_hospital(name: str) -> None:
    one, tuned = JOBS[name]
    arrays = [array for kind in REPLIES for array in reply_schema(kind, one, tuned).arrays]
    assert not [array for array in arrays if "control" in array or "correction" in array]


ASKS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "analytic": ({"method": "analytic"}, {"statistics"}),
    "iterative": ({"method": "fedavg"}, {"fit"}),
    "warm": ({"method": {"name": "fedavg", "warm_start": "analytic"}}, {"statistics", "fit"}),
    "deep": ({"method": "fedavg", "tune": "full"}, {"fit", "initial"}),
    "cross-site": ({"evaluation": {"cross_site": True}}, {"statistics", "own"}),
    "personalised": ({"personalisation": {}}, {"statistics", "personalise"}),
    "duplicates": ({"duplicates": "check"}, {"statistics", "duplicates", "collisions"}),
    "groups": ({"evaluation": {"groups": ["sex"]}}, {"statistics", "groups"}),
}


@pytest.mark.parametrize("name", ASKS)
def test_which_kinds_a_job_asks_for_by_hand(name: str) -> None:
    changes, kinds = ASKS[name]
    asked = {kind for kind, asks in ASKED_BY.items() if asks(job(**changes))}
    assert asked == {"describe", "evaluate", "distances"} | kinds
    assert set(ASKED_BY) == set(REQUESTS) == set(REPLIES)


def test_what_a_job_adds_to_what_is_asked() -> None:
    corrections = {"correction.weight", "correction.bias"}
    assert added("analytic", replies=False) == added("fedavg", replies=False) == added("fednova", replies=False) == {}
    assert added("scaffold", replies=False) == {"fit": corrections}
    assert added("deep", replies=False) == {"fit": TUNED, "evaluate": TUNED, "personalise": TUNED, "groups": TUNED}
    deep_corrections = corrections | {f"correction.{name}" for name in TUNED}
    assert added("deep-scaffold", replies=False) == {
        "fit": TUNED | deep_corrections,
        "evaluate": TUNED,
        "personalise": TUNED,
        "groups": TUNED,
    }


def test_tuned_arrays_are_float32_of_the_shapes_of_the_network() -> None:
    request, reply = (function("fit", *JOBS["deep-scaffold"]).arrays for function in (request_schema, reply_schema))
    for name, shape in SHAPES.items():
        expected = wire.ArraySpec("float32", shape)
        assert reply[f"tuned.{name}"] == request[f"tuned.{name}"] == request[f"correction.tuned.{name}"] == expected
    for name in ("weight", "bias"):
        assert request[f"correction.{name}"] == request[name] == reply[name]


def test_the_dimensions_by_hand() -> None:
    """mobilenet_v2: the stage features.3 has 24 channels, the last 1280; T is half of the square with the diagonal."""
    small = job(features={"stages": ["features.3"], "pool": ["mean"]})
    by_hand = {"C": 3, "D": 24, "M": 7, "B": 256, "K": 15, "S": 25, "T": 325, "R": 23, "V": 24, "G": 0, "I": 0}
    assert dimensions(small, heads=7) == by_hand
    assert (dimensions(job())["R"], dimensions(job(method="fedavg"))["R"]) == (64, 0)
    assert dimensions(job(method="fedavg"))["D"] == 1280
    assert dimensions(job())["M"] == 1
    projected = dimensions(job(method={"name": "analytic", "projection": 4, "stage_subsets": False}))
    assert (projected["S"], projected["T"]) == (5, 15)
    assert projected["D"] == job().num_features > 1280
