"""Filling memory: what is computed wrongly shows in the step in which it is, and what is not kept has to be computed
again and again."""

import asyncio
from collections.abc import Iterator
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.protocol.capability import BLOCK_BYTES
from proofyard.protocol.commitment import Domain
from proofyard.protocol.types import Address
from proofyard.workloads.errors import ExecutorCrashed, OutOfMemory
from proofyard.workloads.filler import Filler
from proofyard.workloads.filling import (
    Block,
    Committed,
    Opening,
    StepRefused,
    check_root,
    check_step,
    earlier_of,
    first_block,
    key_of,
    leaf_of,
    next_block,
    seed_of,
)

SEED, BLOCKS = bytes(range(32)), 48


def filled(seed: bytes, blocks: int, fakes: dict[int, Block] | None = None) -> list[Block]:
    """A memory as it is defined, but for blocks that are made up; what follows from these is computed honestly."""
    memory = [first_block(seed)]
    for number in range(1, blocks):
        before = memory[-1]
        made = next_block(before, memory[earlier_of(before, number)], key_of(seed, number))
        memory.append((fakes or {}).get(number, made))
    return memory


@cache
def honest() -> tuple[list[Block], Committed]:
    memory = filled(SEED, BLOCKS)
    return memory, committed(memory)


def committed(memory: list[Block]) -> Committed:
    return Committed(leaf_of(block.tobytes()) for block in memory)


def opening(memory: list[Block], tree: Committed, number: int) -> Opening:
    earlier = earlier_of(memory[number - 1], number)
    paths = (tree.path(number - 1), tree.path(earlier), tree.path(number))
    return Opening(number, memory[number - 1].tobytes(), memory[earlier].tobytes(), paths)


def holds(memory: list[Block], tree: Committed, number: int, seed: bytes = SEED) -> bool:
    try:
        check_step(seed, tree.root, len(memory), opening(memory, tree, number))
    except StepRefused:
        return False
    return True


def made_up(number: int) -> Block:
    return first_block(b"made up" + bytes([number]))


def test_every_step_of_an_honest_memory_holds() -> None:
    memory, tree = honest()
    check_root(SEED, tree.root, BLOCKS, tree.path(0))
    assert all(holds(memory, tree, number) for number in range(1, BLOCKS))
    entries = np.concatenate([block.ravel() for block in memory[1:]])
    counts = np.bincount(entries.astype(int) + 64, minlength=128)
    assert counts.min() > 0.95 * counts.mean(), "entries are spread over all 7 bits, so that they do not shrink"


@settings(max_examples=12, deadline=None)
@given(st.sets(st.integers(1, BLOCKS - 1), min_size=1, max_size=BLOCKS // 2))
def test_each_faked_block_shows_in_its_step_and_in_no_other(places: set[int]) -> None:
    """So who fakes a share f of its steps is found by one of n drawn steps with probability 1 - (1 - f)^n."""
    memory = filled(SEED, BLOCKS, {number: made_up(number) for number in places})
    tree = committed(memory)
    assert {number for number in range(1, BLOCKS) if not holds(memory, tree, number)} == places


@settings(max_examples=25, deadline=None)
@given(st.integers(1, BLOCKS - 1), st.integers(0, BLOCK_BYTES - 1), st.sampled_from(["before", "earlier"]))
def test_a_single_wrong_entry_is_refused(number: int, place: int, which: str) -> None:
    memory, tree = honest()
    shown = opening(memory, tree, number)
    data = bytearray(getattr(shown, which))
    data[place] = data[place] ^ 1
    parts = {"before": shown.before, "earlier": shown.earlier} | {which: bytes(data)}
    with pytest.raises(StepRefused):
        check_step(SEED, tree.root, BLOCKS, Opening(number, parts["before"], parts["earlier"], shown.paths))


def test_what_was_computed_for_another_seed_holds_in_no_step() -> None:
    memory, tree = honest()
    other = bytes(32)
    with pytest.raises(StepRefused, match="begin"):
        check_root(other, tree.root, BLOCKS, tree.path(0))
    assert not any(holds(memory, tree, number, other) for number in range(1, BLOCKS))


def test_a_seed_is_one_nodes_on_one_network() -> None:
    registry = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
    node, other = Address("0x" + "11" * 20), Address("0x" + "22" * 20)
    seeds = {seed_of(Domain(chain, registry), each, SEED) for chain in (1, 2) for each in (node, other)}
    assert len(seeds) == 4


@pytest.mark.parametrize("data", [b"", bytes(BLOCK_BYTES - 1), b"\x40" + bytes(BLOCK_BYTES - 1)])
def test_what_is_no_block_is_refused(data: bytes) -> None:
    _, tree = honest()
    paths = (tree.path(0), tree.path(0), tree.path(1))
    with pytest.raises(StepRefused):
        check_step(SEED, tree.root, BLOCKS, Opening(1, data, data, paths))


def products_with(share: float, blocks: int = 3000, most: float = 50.0) -> float:
    """Products, as a multiple of an honest node's, of one that holds such a share of the memory: one half of that every
    n-th block, the other half those that it used last."""
    random, room = Random(1), int(blocks * share / 2)
    earlier = [0, *(random.randrange(max(1, number - 1)) for number in range(1, blocks))]
    every = round(blocks / room)
    lately: dict[int, None] = {}

    def needed(number: int) -> Iterator[int]:
        """Blocks to compute, in order, until this one is there."""
        if number % every == 0 or lately.pop(number, 0) is None:
            if number % every:
                lately[number] = None
            return
        yield from needed(number - 1)
        yield from needed(earlier[number])
        yield number
        keep(number)

    def keep(number: int) -> None:
        lately[number] = None
        if len(lately) > room:
            del lately[next(iter(lately))]

    count = 0
    for number in range(1, blocks):
        for _ in needed(earlier[number]):
            count += 1
            if count > most * blocks:
                return most
        count += 1
        if number % every:
            keep(number)
    return count / blocks


def test_less_memory_takes_more_products_than_a_deadline_has_room_for() -> None:
    assert products_with(0.75) < products_with(0.5) < 2 < 5 < products_with(1 / 3) < 20 < products_with(0.25)


async def test_the_process_that_fills_computes_what_is_defined() -> None:
    memory, tree = honest()
    async with Filler(device="cpu", threads=1) as filler:
        assert filler.began.device in ("cpu-int8", "cpu-float32") and filler.began.free_bytes > 0
        done = await filler.fill(SEED, BLOCKS, 30)
        assert (done.root, done.path) == (tree.root, tree.path(0))
        for number in (1, 2, BLOCKS // 2, BLOCKS - 1):
            assert await filler.show(number) == opening(memory, tree, number)
        with pytest.raises(OutOfMemory):
            await filler.fill(SEED, 1 << 40, 30)
        assert (await filler.fill(SEED, 300, 30)).root == committed(filled(SEED, 300)).root, "over a slab's border"
        late = asyncio.create_task(filler.fill(SEED, 100_000, 300))
        await asyncio.sleep(0.2)
        filler.end()
        with pytest.raises(ExecutorCrashed):
            await late
