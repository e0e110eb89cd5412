import numpy as np
import pytest

from common.packed import arrays_from_bytes, arrays_to_bytes


def test_arrays_come_back_bit_by_bit():
    arrays = {
        "a": np.array([[1.5, -0.0], [np.inf, 2]], np.float32).T,
        "b": np.array(7),
        "c": np.zeros((0, 3), np.float16),
    }
    found = arrays_from_bytes(arrays_to_bytes(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_no_arrays_are_some_bytes():
    assert arrays_from_bytes(arrays_to_bytes({})) == {}


def test_nothing_but_arrays_is_decoded():
    with pytest.raises(ValueError, match="safetensors"):
        arrays_from_bytes(b"\x80\x04\x95")


def test_a_dtype_that_the_format_has_not():
    with pytest.raises(ValueError, match="dtype"):
        arrays_to_bytes({"text": np.array(["a"])})
