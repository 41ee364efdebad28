"""What follows from what a node has shown: less work where it failed, and what it claims once it has shown that."""

import pytest

from proofyard.protocol.capability import BLOCK_BYTES, Capability
from proofyard.protocol.types import Address
from proofyard.verifier.proven import GIB, LEAST_BLOCKS, SMALL_BYTES, Proven

NODE = Address("0x" + "11" * 20)
SMALL = SMALL_BYTES // BLOCK_BYTES


def claim(blocks: int, steps_per_s: int = 1000) -> Capability:
    return Capability(node=NODE, device="cpu", cores=1, blocks=blocks, steps_per_s=steps_per_s, measured_at=1)


def claiming(blocks: int) -> Proven:
    proven = Proven()
    proven.claims(claim(blocks))
    return proven


def test_who_claims_nothing_is_trusted_with_little() -> None:
    assert Proven().memory_bytes == SMALL_BYTES
    proven = claiming(8 * SMALL)
    assert proven.memory_bytes == SMALL_BYTES, "nor is who was not checked yet"
    assert "not checked yet" in proven.said()
    proven.showed(1.0, 7)
    assert proven.memory_bytes == 8 * SMALL_BYTES and "64.00 GiB of memory were shown" in proven.said()


def test_who_claims_little_and_shows_it_is_no_worse_off_than_who_claims_nothing() -> None:
    proven = claiming(SMALL // 8)
    proven.showed(1.0, 7)
    assert proven.memory_bytes == SMALL_BYTES


def test_a_claim_that_fails_is_halved_until_something_is_shown_and_then_doubled() -> None:
    has, proven, asked = SMALL // 2, claiming(4 * SMALL), []
    for now in range(1, 12):
        asked.append(proven.asks * 4 // SMALL)
        if proven.asks <= has:
            proven.showed(1.0, now)
        else:
            proven.failed("too slow", now)
    assert asked == [16, 8, 4, 2, 4, 2, 4, 2, 4, 2, 4]
    assert proven.memory_bytes == has * BLOCK_BYTES == 4 * GIB and "too slow" in proven.said()
    has = 4 * SMALL
    for now in range(12, 20):
        proven.showed(1.0, now)
        if not proven.reason:
            break
    assert proven.blocks == 4 * SMALL and proven.memory_bytes == 4 * SMALL_BYTES, "it is believed again"


def test_what_was_shown_before_is_kept_through_a_larger_claim_that_fails_and_not_through_its_own() -> None:
    proven = claiming(SMALL)
    proven.showed(1.0, 1)
    proven.claims(claim(2 * SMALL))
    proven.failed("too slow", 2)
    assert proven.blocks == SMALL and proven.memory_bytes == SMALL_BYTES
    proven.failed("too slow", 3)
    assert proven.blocks == 0 and proven.memory_bytes == SMALL_BYTES // 2


def test_a_failure_is_not_forgotten_by_claiming_anew_or_nothing() -> None:
    proven = claiming(4096)
    for now in range(20):
        proven.failed("too slow", now + 1)
    assert proven.asks == LEAST_BLOCKS
    least = proven.memory_bytes
    assert not proven.claims(claim(4096))
    assert proven.claims(None) and proven.claims(claim(1 << 20, 5))
    assert proven.asks == LEAST_BLOCKS and proven.memory_bytes == least


@pytest.mark.parametrize(("steps_per_s", "due_s"), [(1000, 23.0), (10_000, 5.0)])
def test_how_long_a_check_may_take_follows_from_the_claim(steps_per_s: int, due_s: float) -> None:
    proven = Proven()
    proven.claims(claim(10_000, steps_per_s))
    assert proven.due_s == due_s
