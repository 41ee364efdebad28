import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol import merkle
from proofyard.protocol.bisect import first_difference
from proofyard.protocol.types import Digest


def counting(leaves: list[bytes], reads: list[tuple[int, int]]) -> Callable[[int, int], Digest]:
    rows = merkle.levels(leaves)

    def node(level: int, index: int) -> Digest:
        reads.append((level, index))
        return rows[level][index]

    return node


@given(st.integers(1, 300), st.sets(st.integers(0, 299)))
def test_descent_finds_the_first_difference_with_a_logarithmic_number_of_digests(size: int, changed: set[int]) -> None:
    one = [i.to_bytes(4, "big") for i in range(size)]
    other = [leaf + b"!" if i in changed else leaf for i, leaf in enumerate(one)]
    reads: list[tuple[int, int]] = []
    found = first_difference(size, counting(one, reads), counting(other, reads))
    assert found == min((i for i in changed if i < size), default=None)
    assert len(reads) <= 2 * (1 + math.ceil(math.log2(size)))


def test_a_trace_without_states_has_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="at least one leaf"):
        first_difference(0, counting([b""], []), counting([b""], []))
