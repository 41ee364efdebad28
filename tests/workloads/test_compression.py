"""Encodings of numbers: what is kept, and that bytes and numbers name each other."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.workloads.compression import INT4, INT8, SignCodec, TopKCodec, TwoBitCodec
from proofyard.workloads.compression.ranks import KEPT, pack, rank, rank_bits, unpack, unrank
from proofyard.workloads.errors import StateRefused
from proofyard.workloads.randomness import uniform

VECTORS = Path(__file__).parents[1] / "vectors" / "compression.json"
CODECS = {
    "int8": INT8,
    "int4": INT4,
    "two-bit": TwoBitCodec(),
    "topk-2bit/16": TopKCodec(16),
    "topk-2bit/400": TopKCodec(400),
    "topk-2bit/512": TopKCodec(512),
    "sign": SignCodec(1, 0),
    "sign/3": SignCodec(3, 1),
}
each_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
a_codec = st.sampled_from(list(CODECS.values()))
numbers = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=700)


def vector(count, seed=0, scale=1e-3):
    """Numbers of many sizes, some of them 0."""
    values = np.random.default_rng(seed).standard_normal(count).astype(np.float32) * np.float32(scale)
    values[np.arange(count) % 7 == 3] = 0
    return values


@each_codec
@pytest.mark.parametrize("count", [0, 1, 7, 8, 63, 256, 399, 401, 5000])
def test_how_many_bytes_there_are_follows_from_the_count(codec, count):
    data = codec.encode(vector(count))
    assert data.dtype == np.uint8 and data.shape == (codec.size(count),)
    found = codec.decode(data, count)
    assert found.dtype == np.float32 and found.shape == (count,)


@settings(max_examples=150, deadline=None)
@given(a_codec, numbers)
def test_neither_what_is_kept_nor_what_is_lost_is_larger_than_the_largest_number(codec, values):
    array = np.array(values, np.float32)
    found = codec.decode(codec.encode(array), array.size)
    largest = np.abs(array).max(initial=0)
    assert np.isfinite(found).all()
    assert np.abs(found).max(initial=0) <= largest
    with np.errstate(over="ignore"):
        assert np.abs(array.astype(np.float64) - found).max(initial=0) <= largest


@settings(max_examples=300, deadline=None)
@given(a_codec, st.integers(0, 900), st.data())
def test_mutated_bytes_are_refused_or_name_other_numbers(codec, count, data):
    right = codec.encode(vector(count, seed=count))
    if not right.size:
        return
    changed = right.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, right.size - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = codec.decode(changed, count)
    except StateRefused:
        return
    assert np.isfinite(found).all()
    same = found.tobytes() == codec.decode(right, count).tobytes()
    assert same == (changed.tobytes() == right.tobytes())


@settings(max_examples=100, deadline=None)
@given(a_codec, st.integers(0, 600), st.binary(max_size=900))
def test_any_other_bytes_end_in_one_error_or_in_numbers(codec, count, data):
    try:
        assert codec.decode(np.frombuffer(data, np.uint8), count).shape == (count,)
    except StateRefused as error:
        assert "encoding" in str(error) or "scale" in str(error)


@pytest.mark.parametrize("codec", [INT8, INT4, SignCodec(1, 0), TopKCodec(64)])
def test_what_was_decoded_is_encoded_in_the_same_bytes(codec):
    data = codec.encode(vector(64 * 256))
    np.testing.assert_array_equal(codec.encode(codec.decode(data, 64 * 256)), data)


def test_int8_loses_little_and_the_others_about_what_their_bits_allow():
    values = np.random.default_rng(1).standard_normal(1 << 16).astype(np.float32)
    lost = {
        name: float(np.square(values - CODECS[name].decode(CODECS[name].encode(values), values.size)).mean())
        for name in ("int8", "int4", "two-bit", "sign", "topk-2bit/16", "topk-2bit/400")
    }
    assert lost["int8"] < 1e-4
    assert lost["int4"] < 0.02
    assert abs(lost["two-bit"] - 0.1175) < 0.01, "J. Max, table I"
    assert abs(lost["sign"] - (1 - 2 / math.pi)) < 0.01
    assert lost["topk-2bit/16"] < 0.2
    assert lost["topk-2bit/400"] < 0.9


def test_the_largest_are_kept_and_of_equal_ones_the_first():
    values = np.zeros(32, np.float32)
    values[[3, 5, 8, 13, 21, 30]] = -2.0
    values[[6, 7, 9]] = 1.0
    found = TopKCodec(32).decode(TopKCodec(32).encode(values), 32)
    assert found.nonzero()[0].tolist() == [3, 5, 6, 7, 8, 13, 21, 30]
    assert set(found.tolist()) == {0.0, -2.0, 1.0}


def test_signs_are_sent_in_turn():
    values = vector(256 * 7)
    rows = [SignCodec(3, turn).decode(SignCodec(3, turn).encode(values), values.size) for turn in range(3)]
    sent = [np.flatnonzero(row.reshape(7, 256).any(axis=1)).tolist() for row in rows]
    assert sent == [[0, 3, 6], [1, 4], [2, 5]]
    whole = SignCodec(1, 0)
    np.testing.assert_array_equal(sum(rows), whole.decode(whole.encode(values), values.size))


def test_what_is_left_out_is_sent_in_the_end():
    values, residual, sent = vector(4096, scale=1.0), np.zeros(4096, np.float32), np.zeros(4096, np.float32)
    for number in range(400):
        codec = (TopKCodec(64), SignCodec(5, number % 5))[number % 2]
        kept = codec.decode(codec.encode(values + residual), 4096)
        residual, sent = values + residual - kept, sent + kept
    assert np.abs(sent / 400 - values).max() < 0.05


@pytest.mark.parametrize("n", [8, 9, 64, 400, 512])
def test_sets_and_ranks_name_each_other(n):
    rng = np.random.default_rng(n)
    sets = np.sort(np.array([rng.choice(n, KEPT, replace=False) for _ in range(200)]), axis=1)
    ranks = rank(sets, n)
    assert (ranks < math.comb(n, KEPT)).all()
    np.testing.assert_array_equal(unrank(ranks, n), sets)
    ends = unrank(np.array([0, math.comb(n, KEPT) - 1], np.uint64), n)
    assert ends.tolist() == [list(range(KEPT)), list(range(n - KEPT, n))]
    numbers, clean = unpack(pack(ranks, rank_bits(n)), len(ranks), rank_bits(n))
    np.testing.assert_array_equal(numbers, ranks)
    assert clean


@each_codec
@pytest.mark.parametrize("size", [-1, 1, 1000])
def test_another_length_is_refused(codec, size):
    data = codec.encode(vector(1000))
    other = np.concatenate([data, np.zeros(size, np.uint8)]) if size > 0 else data[:size]
    with pytest.raises(StateRefused, match=f"expected {data.size}"):
        codec.decode(other, 1000)


@each_codec
@pytest.mark.parametrize("bits", [0x0001, 0x0FFF, 0x7B81, 0x7F80, 0x7FC0, 0x8000, 0xFFFF])
def test_a_scale_that_is_none_is_refused(codec, bits):
    data = codec.encode(vector(1000)).copy()
    data[:2] = np.frombuffer(np.array([bits], "<u2").tobytes(), np.uint8)
    with pytest.raises(StateRefused, match="scale"):
        codec.decode(data, 1000)


def golden():
    """The digests of all encodings of the same numbers."""
    values = uniform(3001, 0.01, "compression vectors").astype(np.float32)
    values[500:1100] = 0
    values[::5] *= np.float32(2.0**-20)
    found = {}
    for name, codec in CODECS.items():
        data = codec.encode(values)
        decoded = codec.decode(data, values.size)
        found[name] = {
            "bytes": data.size,
            "sha256": hashlib.sha256(data.tobytes()).hexdigest(),
            "decoded": hashlib.sha256(decoded.astype("<f4").tobytes()).hexdigest(),
            "first": data[:16].tobytes().hex(),
        }
    return found


def test_the_bytes_are_the_golden_ones():
    assert golden() == json.loads(VECTORS.read_text())
