"""What is packed comes back, and passes the contract."""

from dataclasses import fields
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common import messages
from common.head import Head, Standardisation, softmax
from common.messages import Description, Space
from common.metrics import ClassificationCounts, count
from common.wire import REPLIES, REQUESTS, ArraySpec, Packed, problem_with

DIMS = {"C": 3, "D": 5, "M": 2, "B": 256, "K": 15}
finite = {"allow_nan": False, "allow_infinity": False}


@st.composite
def descriptions(draw: Any) -> Description:
    whole = st.integers(0, 2**40)
    return Description(
        Space(*(draw(st.text()) for _ in fields(Space))),
        images=draw(arrays(np.int64, (3, 3), elements=whole)),
        patients=draw(arrays(np.int64, 3, elements=whole)),
        sums=draw(arrays(np.float64, 5, elements=st.floats(**finite))),
        squares=draw(arrays(np.float64, 5, elements=st.floats(**finite))),
        **{one.name: draw(whole) for one in fields(Description) if one.type is int},
    )


@given(descriptions())
@settings(max_examples=50, deadline=None)
def test_a_description_round_trips(description: Description) -> None:
    packed = description.pack()
    assert problem_with(packed, REPLIES["describe"], DIMS) is None
    back = Description.unpack(packed)
    for one in fields(Description):
        assert np.array_equal(getattr(back, one.name), getattr(description, one.name))


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_counts_round_trip_and_pass_the_contract(seed: int, heads: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 40)
    counts = [count(softmax(4 * rng.normal(size=(40, 3))), labels) for _ in range(heads)]
    fields_ = {"job-id": "j", "fingerprint": "f", "part": "test", "round": 3}
    packed = Packed(messages.pack_counts(counts), fields_)
    assert problem_with(packed, REPLIES["evaluate"], {**DIMS, "M": heads}) is None
    assert problem_with(packed, REPLIES["personalise"], {**DIMS, "M": heads}) is None
    back = messages.unpack_counts(packed.arrays)
    assert len(back) == heads
    for one, other in zip(counts, back, strict=True):
        for name in ("confusion", "histograms", "calibration", "losses"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
            assert getattr(other, name).dtype == np.int64


def test_unpacked_counts_add_beyond_the_range_of_int32() -> None:
    counts = ClassificationCounts.zeros(2)
    counts.confusion[0, 0] = 2**31 - 1
    (back,) = messages.unpack_counts(messages.pack_counts([counts]))
    assert (back + back).n == 2**32 - 2


single = arrays(np.float32, (2, 3, 5), elements=st.floats(width=32, **finite))


@given(single, arrays(np.float32, (2, 3), elements=st.floats(width=32, **finite)))
@settings(max_examples=50, deadline=None)
def test_heads_round_trip(weights: Any, biases: Any) -> None:
    heads = [Head(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    many = messages.unpack_heads(messages.pack_heads(heads))
    assert len(many) == 2
    for head, other in zip(heads, many, strict=True):
        assert np.array_equal(head.weight, other.weight)
        assert np.array_equal(head.bias, other.bias)
        assert (other.weight.dtype, other.bias.dtype) == (np.float32, np.float32)


def of_ones(spec: ArraySpec) -> Any:
    return np.ones([DIMS[letter] if isinstance(letter, str) else letter for letter in spec.shape], spec.dtype)


def test_a_standardisation_round_trips_and_passes_the_contract() -> None:
    sent = Standardisation.from_sums(4, np.arange(5.0), np.arange(5.0) ** 2)
    packed = messages.pack_standardisation(sent)
    schema = REQUESTS["fit"]
    others = {name: of_ones(spec) for name, spec in schema.arrays.items()}
    request = Packed({**others, **packed}, {"job": "j", "fingerprint": "f", "round": 1})
    assert problem_with(request, schema, DIMS) is None
    back = messages.unpack_standardisation(packed)
    assert np.array_equal(back.mean, sent.mean)
    assert np.array_equal(back.scale, sent.scale)
    assert (back.mean.dtype, back.scale.dtype) == (np.float16, np.float16)
