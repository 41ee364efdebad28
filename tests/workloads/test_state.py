import json
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors

from proofyard.workloads.errors import StateRefused, to_wire
from proofyard.workloads.state import TensorSpec, decode_state, encode_state, schema_of

DTYPES = ["<f4", "<f8", "<f2", "<i8", "<i4", "|u1"]


@st.composite
def tensors(draw):
    names = draw(
        st.lists(st.text(min_size=1, max_size=12).filter(lambda n: n != "__metadata__"), max_size=5, unique=True)
    )
    result = {}
    for name in names:
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        result[name] = (np.arange(int(np.prod(shape))) - 3).astype(dtype).reshape(shape)
    return result


@given(tensors())
def test_decoding_gives_back_what_was_encoded_and_safetensors_reads_it(original):
    data = encode_state(original)
    decoded, theirs = decode_state(data), load_safetensors(data)
    assert decoded.keys() == original.keys() == theirs.keys()
    for name, array in original.items():
        assert decoded[name].dtype == array.dtype
        np.testing.assert_array_equal(decoded[name], array)
        np.testing.assert_array_equal(theirs[name], array)
    assert encode_state(decoded) == data


def test_bytes_do_not_depend_on_order_memory_layout_or_endianness():
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = encode_state({"b": matrix, "a": np.int64([1])})
    second = encode_state({"a": np.array([1], ">i8"), "b": np.asfortranarray(matrix)})
    assert first == second
    assert struct.unpack("<Q", first[:8])[0] % 8 == 0


def test_bfloat16_words_are_checked_for_nan():
    data = encode_state({"x": np.array([0x3F80, 0x7FC0], np.uint16)})
    assert schema_of({"x": np.zeros(2, np.uint16)})["x"].dtype == "BF16"
    with pytest.raises(StateRefused, match="'x' holds a value that is NaN"):
        decode_state(data)
    assert decode_state(data, finite=False)["x"][0] == 0x3F80


ANYTHING = [None, True, 0, -1, 1.5, 10**400, "", "F32", "x" * 9999, "\ud800", [], [1], {}, {"a": 1}, [[2]]]


@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: repr(value)[:20])
def test_whatever_a_header_says_is_refused_for_everybody(value):
    """A worker that commits to a state which an auditor's code trips over would have no verdict against it."""
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    headers = [value, {"x": value}, *({"x": entry | {field: value}} for field in entry)]
    for header in headers if isinstance(value, str) else [*headers, {"\ud800": entry | {"dtype": value}}]:
        text = json.dumps(header).encode()
        with pytest.raises(StateRefused) as refused:
            decode_state(struct.pack("<Q", len(text)) + text + bytes(4))
        assert len(str(refused.value).encode()) < 300
        assert msgspec.msgpack.encode(to_wire(refused.value))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_tensor(value):
    with pytest.raises(StateRefused, match="'bad'") as caught:
        decode_state(encode_state({"bad": np.array([1, value], np.float32), "good": np.zeros(3, np.float32)}))
    assert caught.value.tensor == "bad"


@pytest.mark.parametrize(
    ("schema", "tensor", "reason"),
    [
        ({}, "x", "does not belong"),
        ({"x": TensorSpec("F32", (2,)), "y": TensorSpec("F32", ())}, "y", "missing"),
        ({"x": TensorSpec("F32", (1, 2))}, "x", "expected F32"),
        ({"x": TensorSpec("F64", (2,))}, "x", "expected F64"),
    ],
)
def test_a_state_that_differs_from_its_schema_is_refused_by_tensor(schema, tensor, reason):
    with pytest.raises(StateRefused, match=reason) as caught:
        decode_state(encode_state({"x": np.zeros(2, np.float32)}), schema=schema)
    assert caught.value.tensor == tensor


def build(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def entry(begin, end, shape, dtype="F32"):
    return {"data_offsets": [begin, end], "dtype": dtype, "shape": shape}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        struct.pack("<Q", 1 << 62) + b"{}",
        build(b"[1]"),
        build(b"{"),
        build(b'{"a":1}'),
        build(b"[" * 100_000),
        build({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"\x00" * 4),
        build({"a": entry(4, 8, [1])}, b"\x00" * 8),
        build({"b": entry(0, 4, [1]), "a": entry(4, 8, [1])}, b"\x00" * 8),
        build({"a": entry(0, 4, [1 << 62, 1 << 62])}, b"\x00" * 4),
        build({"a": entry(0, 4, [-1])}, b"\x00" * 4),
        build({"a": entry(0, 4, [True])}, b"\x00" * 4),
        build({"a": entry(0, 4, [1], "F8")}, b"\x00" * 4),
        build({"a": entry(0, 4, [1])}, b"\x00" * 5),
        build({"__metadata__": {"k": "v"}, "a": entry(0, 4, [1])}, b"\x00" * 4),
        encode_state({"a": np.zeros(1, np.float32)}, metadata={"k": "v"}),
        build(b'{"a": {"data_offsets":[0,4],"dtype":"F32","shape":[1]}}', b"\x00" * 4),
    ],
)
def test_bytes_that_are_not_canonical_are_refused(data):
    with pytest.raises(StateRefused):
        decode_state(data)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_happens(data):
    with pytest.raises(StateRefused):
        decode_state(data)


def test_the_size_is_checked_first():
    with pytest.raises(StateRefused, match="over the limit of 10"):
        decode_state(b"\x00" * 11, max_bytes=10)


def test_types_outside_the_format_are_refused_by_tensor():
    with pytest.raises(StateRefused, match="complex"):
        encode_state({"x": np.zeros(1, np.complex64)})
