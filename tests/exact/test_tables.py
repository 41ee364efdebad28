"""Rotary tables are what sines and cosines are, and integers before they are anything else."""

import time

import numpy as np
import pytest

from proofyard.workloads.exact.tables import frequency, rotary


@pytest.mark.parametrize(
    ("theta", "size", "positions"), [(10000.0, 64, 8192), (1e6, 128, 2048), (500000.0, 80, 4096), (1.0, 2, 10)]
)
def test_tables_are_cosines_and_sines(theta: float, size: int, positions: int) -> None:
    cos, sin = rotary(theta, size, positions)
    angle = np.arange(positions)[:, None] * (theta ** (-np.arange(0, size, 2) / size))[None]
    assert cos.dtype == sin.dtype == np.float32
    assert cos.shape == sin.shape == (positions, size // 2)
    np.testing.assert_allclose(cos, np.cos(angle), rtol=0, atol=1e-7)
    np.testing.assert_allclose(sin, np.sin(angle), rtol=0, atol=1e-7)


def test_the_fastest_pair_turns_one_radian_per_position() -> None:
    assert frequency(10000.0, 64, 0) == 2935890503282001226
    cos, sin = rotary(10000.0, 64, 1)
    assert (cos == 1).all() and (sin == 0).all()


def test_a_shorter_table_is_the_beginning_of_a_longer_one() -> None:
    long, short = rotary(10000.0, 16, 300), rotary(10000.0, 16, 7)
    assert all(np.array_equal(a[:7], b) for a, b in zip(long, short, strict=True))


def test_tables_are_made_fast_and_once() -> None:
    start = time.process_time()
    first = rotary(12345.0, 64, 8192)
    assert time.process_time() - start < 1
    assert rotary(12345.0, 64, 8192) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0][0, 0] = 2


@pytest.mark.parametrize(("theta", "size", "positions"), [(0.5, 64, 8), (10000.0, 7, 8), (10000.0, 64, 0)])
def test_senseless_tables_are_refused(theta: float, size: int, positions: int) -> None:
    with pytest.raises(ValueError, match="no rotary table"):
        rotary(theta, size, positions)
