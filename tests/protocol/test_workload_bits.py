from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.workload_bits import BITS, FIRST_FREE_BIT, WORKLOADS, workload_bit, workload_bits


def test_the_bits_of_the_built_in_workloads_never_change() -> None:
    assert [workload_bit(name) for name in ("lora", "embed", "evaluate", "sweep", "map")] == [0, 1, 2, 3, 4]
    assert workload_bits(WORKLOADS) == 0b11111
    assert len(WORKLOADS) <= FIRST_FREE_BIT


@given(st.text())
def test_every_other_name_has_a_bit_of_the_registrys_64_that_no_built_in_one_has(name: str) -> None:
    if name not in WORKLOADS:
        assert FIRST_FREE_BIT <= workload_bit(name) < BITS
        assert workload_bits([name, name]) == 1 << workload_bit(name)


def test_a_third_partys_bit_is_the_same_on_every_machine() -> None:
    assert workload_bit("readability") == 47
