"""What a node claims of its machine and what verifiers find, over real connections: an honest node, one that has a
quarter of what it claims, one that makes blocks up, and one that gets work meanwhile."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from stand_ins import DOMAIN

from proofyard.chain import Wallet
from proofyard.node import measuring, proving
from proofyard.node.hardware import Hardware
from proofyard.node.links import VerifierLinks
from proofyard.node.measuring import Measured, machine_of, measure, read_measured, room_blocks, write_measured
from proofyard.node.proving import Proving
from proofyard.node.settings import NodeSettings
from proofyard.protocol.capability import BLOCK_BYTES
from proofyard.protocol.messages import Ack, Announce, FillMemory, MemoryFilled, PrepareMemory, ShowStep, StepShown
from proofyard.protocol.types import Digest
from proofyard.transport import Endpoint, RequestFailed
from proofyard.verifier import proven as rules
from proofyard.verifier.context import Member
from proofyard.verifier.engine.events import NodeJoined
from proofyard.verifier.proven import SMALL_BYTES, Proven
from proofyard.verifier.proving import Proofs
from proofyard.workloads.errors import ExecutorCrashed
from proofyard.workloads.filler_child import Began, Filled
from proofyard.workloads.filling import Block, Committed, Opening, earlier_of, first_block, key_of, leaf_of, next_block

PACE = 200
"""Products a second of every machine here, so that what one takes depends on nothing else."""
BLOCKS = 96
HARDWARE = Hardware("a processor", 2, 1 << 34, 1 << 34, 1 << 34, (), "native")
SEED = Digest(bytes(32))


class Machine:
    """Fills memory in this process, for as long as it is not ended, at `PACE`; with room for `room` blocks."""

    def __init__(self, room: int = BLOCKS) -> None:
        self.began = Began("cpu-int8", 1 << 33, 2)
        self.room = room
        self.ended = threading.Event()
        self._memory: dict[int, Block] = {}
        self._begins = self._products = 0.0

    async def __aenter__(self) -> "Machine":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self.ended.set()

    async def fill(self, seed: bytes, blocks: int, within_s: float) -> Filled:
        return await asyncio.to_thread(self._fill, seed, blocks)

    async def show(self, number: int) -> Opening:
        return await asyncio.to_thread(self._show, number)

    def _fill(self, seed: bytes, blocks: int) -> Filled:
        self._seed, self._memory, self._earlier = seed, {0: first_block(seed)}, [0]
        self._begins, self._products = time.monotonic(), 0
        self._every = max(1, -(-2 * blocks // self.room)) if self.room < blocks else 1
        last, leaves = self._memory[0], [leaf_of(self._memory[0].tobytes())]
        for number in range(1, blocks):
            self._earlier.append(earlier_of(last, number))
            last = self._made(number, last, self._get(self._earlier[number]))
            self._keep(number, last)
            leaves.append(leaf_of(last.tobytes()))
        self.tree = Committed(leaves)
        return Filled(self.tree.root, self.tree.path(0))

    def _made(self, number: int, before: Block, earlier: Block) -> Block:
        if self.ended.is_set():
            raise ExecutorCrashed("it was ended")
        self._products += 1
        time.sleep(max(0.0, self._begins + self._products / PACE - time.monotonic()))
        return next_block(before, earlier, key_of(self._seed, number))

    def _get(self, number: int) -> Block:
        """A block: held, or computed again from those that are."""
        if number in self._memory:
            return self._memory[number]
        before = self._get(number - 1)
        made = self._made(number, before, self._get(self._earlier[number]))
        self._keep(number, made)
        return made

    def _keep(self, number: int, block: Block) -> None:
        """Every n-th block for good, and those that were used last as far as there is room."""
        self._memory[number] = block
        if len(self._memory) > self.room:
            del self._memory[next(each for each in self._memory if each % self._every)]

    def _show(self, number: int) -> Opening:
        before, earlier = self._get(number - 1), self._get(self._earlier[number])
        path = self.tree.path
        places = (path(number - 1), path(self._earlier[number]), path(number))
        return Opening(number, before.tobytes(), earlier.tobytes(), places)


class Faker(Machine):
    """Multiplies for every fourth block alone; the others follow from their numbers, so that none is held."""

    def _made(self, number: int, before: Block, earlier: Block) -> Block:
        return super()._made(number, before, earlier) if number % 4 == 0 else first_block(number.to_bytes(4, "big"))


class Endless(Machine):
    """Is at it until it is ended, however late that is noticed."""

    def _made(self, number: int, before: Block, earlier: Block) -> Block:
        if self._products == 8:
            self.ended.wait(60)
        return super()._made(number, before, earlier)


class Scene:
    """A node that claims `BLOCKS` at `PACE`, joined to a verifier that checks it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.machines: list[Machine] = []
        self.agent = SimpleNamespace(works=[], closed="")
        self.posted: list[Any] = []

    async def begin(self, kind: Callable[[int], Machine], room: int = BLOCKS) -> None:
        async def nothing() -> None:
            """The executor has nothing to do."""

        executor = SimpleNamespace(busy=False, backend="native", rest=nothing)
        wallet = Wallet.generate()
        self.node = await self._stack.enter_async_context(Endpoint(wallet, network=DOMAIN))
        self.verifier = await self._stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN))
        record = SimpleNamespace(node=self.verifier.address, endpoint=f"127.0.0.1:{self.verifier.port}")
        chain = SimpleNamespace(
            chain_id=DOMAIN.chain_id, registry=DOMAIN.registry, now=lambda: 1000, active_verifiers=lambda: [record]
        )
        settings = NodeSettings(registry=DOMAIN.registry, wallet=self._folder, data_dir=self._folder)

        def filler(*_: object) -> Any:
            self.machines.append(kind(room))
            return self.machines[-1]

        links = VerifierLinks(self.node, cast(Any, chain), self._announce)
        parts: list[Any] = [settings, wallet, chain, self.node, links, self.agent, executor, filler]
        self.proving = Proving(*parts)
        self.proving.take(HARDWARE, measured(settings))
        world = SimpleNamespace(nodes={wallet.address: SimpleNamespace(holds=set())})
        runner = SimpleNamespace(post=self.posted.append, recall=[], engine=SimpleNamespace(world=world))
        self.context: Any = SimpleNamespace(domain=DOMAIN, members={}, runner=runner, chain_time=lambda: 1000.0)
        self.proofs = Proofs(self.context)
        self.verifier.on(Announce, self._welcome)
        for part in (links.run(), self.proving._keep_out()):
            running = asyncio.create_task(part)
            self._stack.callback(running.cancel)
        async with asyncio.timeout(60):
            await links.joined()
        self.member: Member = self.context.members[wallet.address]
        self.ask = self.member.connection.request

    def _announce(self) -> Announce:
        return Announce((), 1, 1, "test", capability=self.proving.record)

    async def _welcome(self, connection: Any, message: Announce, _body: Any) -> Ack:
        node: Any = SimpleNamespace(
            node=connection.peer, owner=connection.peer, id=1, stake=1, consecutive_valid=0, active=True
        )
        self.context.members[connection.peer] = Member(
            connection, message, node, 0.0, self.proofs.take(connection.peer, message)
        )
        return Ack()

    async def check(self) -> Proven:
        self.proving._asked.drop(self.verifier.address)
        await self.proofs._check(self.member)
        return self.member.proven


def measured(settings: NodeSettings, blocks: int = BLOCKS) -> Measured:
    machine = machine_of(HARDWARE, settings)
    return Measured(machine=machine, device="cpu-int8", cores=2, blocks=blocks, steps_per_s=PACE, measured_at=1000)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(rules, "LATE_S", 60.0)
    monkeypatch.setattr(rules, "LEAST_BLOCKS", 16)
    async with AsyncExitStack() as stack:
        yield Scene(tmp_path, stack)


async def test_an_honest_node_shows_what_it_claims(scene: Scene) -> None:
    await scene.begin(Machine)
    proven = scene.member.proven
    assert proven.claim == scene.proving.claim and proven.memory_bytes == SMALL_BYTES
    assert (await scene.check()).blocks == BLOCKS
    assert (proven.reason, proven.checked_at) == ("", 1000) and 0 < proven.steps_per_s <= PACE
    assert [type(event) for event in scene.posted] == [NodeJoined]
    claimed, said = scene.proving.said()
    assert "0.01 GiB" in claimed and scene.verifier.address in said
    assert scene.machines[0].ended.is_set(), "nothing is held once the verifier has said what it found"


async def test_a_node_that_claims_four_times_its_memory_is_taken_for_what_it_shows(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.begin(Machine, BLOCKS // 4)
    monkeypatch.setattr(rules, "LATE_S", 0.5)
    proven = await scene.check()
    assert "were not shown within" in proven.reason and not proven.blocks
    assert proven.memory_bytes == BLOCKS // 2 * BLOCK_BYTES == scene.posted[-1].memory_bytes
    assert scene.machines[0].ended.is_set(), "it does not go on for nobody"
    monkeypatch.setattr(rules, "LATE_S", 60.0)
    await scene.check()
    # With half of what is asked it would be in time.
    assert proven.blocks == BLOCKS // 2 and proven.reason
    assert proven.memory_bytes == proven.blocks * BLOCK_BYTES == scene.posted[-1].memory_bytes
    assert "shown within" in scene.proving.said()[1], "its operator is told why"


async def test_a_node_that_makes_blocks_up_has_shown_nothing(scene: Scene) -> None:
    await scene.begin(Faker)
    proven = await scene.check()
    assert "is not in the memory" in proven.reason and not proven.blocks


async def test_work_comes_before_a_check(scene: Scene) -> None:
    await scene.begin(Endless)
    asked = asyncio.create_task(scene.check())
    while not scene.machines or not scene.machines[0]._products:
        await asyncio.sleep(0.01)
    scene.agent.works.append("a task")
    proven = await asked
    assert scene.machines[0].ended.is_set() and scene.machines[0]._products < BLOCKS
    assert (proven.reason, proven.unfinished) == ("", 1), "it is asked again"
    answer = await scene.ask(PrepareMemory(BLOCKS), reply=Ack)
    assert not answer.proceed and answer.reason.startswith("busy")
    scene.agent.works.clear()
    scene.agent.closed = "its hours"
    assert not (await scene.ask(PrepareMemory(BLOCKS), reply=Ack)).proceed
    scene.agent.closed = ""
    proven.broke_off("it has work", 1000)
    proven.broke_off("it has work", 1000)
    assert "3 checks in a row" in proven.reason, "but not for ever"


async def test_a_verifier_asks_for_no_more_than_is_claimed_and_not_often(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.begin(Machine)
    for blocks in (0, 1, BLOCKS + 1, (1 << 63) - 1):
        assert "within" in (await scene.ask(PrepareMemory(blocks), reply=Ack)).reason
    with pytest.raises(RequestFailed, match="no memory is prepared"):
        await scene.ask(FillMemory(SEED), reply=MemoryFilled)
    assert (await scene.ask(PrepareMemory(64), reply=Ack)).proceed
    with pytest.raises(RequestFailed, match="no memory is held"):
        await scene.ask(ShowStep(SEED, 1), reply=StepShown)
    await scene.ask(FillMemory(SEED), reply=MemoryFilled)
    for number in (0, 64):
        with pytest.raises(RequestFailed, match="of 64"):
            await scene.ask(ShowStep(SEED, number), reply=StepShown)
    scene.proving.make_way()
    assert "checked by this verifier" in (await scene.ask(PrepareMemory(64), reply=Ack)).reason
    assert len(scene.machines) == 1, "nothing is begun that is refused"

    scene.proving._asked.drop(scene.verifier.address)
    monkeypatch.setattr(scene.proving, "_saved_s", 0.01)
    assert "of this node's time" in (await scene.ask(PrepareMemory(BLOCKS), reply=Ack)).reason
    stranger = await scene._stack.enter_async_context(Endpoint(Wallet.generate(), network=DOMAIN))
    connection = await stranger.connect_to(f"127.0.0.1:{scene.node.port}", expect=scene.node.address)
    assert "not a verifier" in (await connection.request(PrepareMemory(64), reply=Ack)).reason


async def test_what_is_held_for_nobody_goes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.begin(Machine)
    monkeypatch.setattr(proving, "HOLD_S", 0.05)
    assert (await scene.ask(PrepareMemory(64), reply=Ack)).proceed
    async with asyncio.timeout(60):
        while not scene.machines[0].ended.is_set():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("announced", "counts"),
    [(lambda record: record, True), (lambda record: record[:-1] + b"\0", False), (lambda _: b"", False)],
)
async def test_what_nobody_signed_counts_as_no_claim(
    scene: Scene, announced: Callable[[bytes], bytes], counts: bool
) -> None:
    await scene.begin(Machine)
    message = Announce((), 1, 1, "test", capability=announced(scene.proving.record))
    proven = scene.proofs.take(scene.node.address, message)
    assert (proven.claim is not None) == counts and proven.memory_bytes == SMALL_BYTES


# Measuring


async def test_what_a_machine_can_do_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "TRIAL_BLOCKS", 16)
    settings = NodeSettings(registry="", wallet=tmp_path, data_dir=tmp_path / "data", prove_s=1)
    found = await measure(cast(Any, Machine()), HARDWARE, settings, 1000)
    assert found is not None
    assert 16 <= found.blocks <= 0.9 * PACE and found.steps_per_s <= PACE and found.cores == 2
    write_measured(settings.data_dir, found)
    machine = machine_of(HARDWARE, settings)
    assert read_measured(settings.data_dir, machine, 2000) == found
    assert read_measured(settings.data_dir, machine, 1000 + measuring.RENEWED_S) is None, "too long ago"
    assert read_measured(settings.data_dir, machine, 999) is None, "of another chain"
    other = machine_of(HARDWARE, NodeSettings(registry="", wallet=tmp_path, data_dir=tmp_path, memory_limit_bytes=1))
    assert read_measured(settings.data_dir, other, 2000) is None, "other limits"
    (settings.data_dir / measuring.FILE).write_text("{")
    assert read_measured(settings.data_dir, machine, 2000) is None


def test_a_check_keeps_to_the_operators_limits(tmp_path: Path) -> None:
    def room(**limits: int) -> int:
        settings = NodeSettings(registry="", wallet=tmp_path, data_dir=tmp_path, **limits)  # type: ignore[arg-type]
        return room_blocks(16 << 30, settings, on_gpu=False) * BLOCK_BYTES

    assert 12 << 30 < room() < 13 << 30
    assert room(memory_limit_bytes=4 << 30) < 4 << 30
    assert room(least_free_bytes=10 << 30) < 6 << 30
    assert room(memory_limit_bytes=1) == room(least_free_bytes=1 << 40) == 0


async def test_a_node_measures_itself_in_a_quiet_minute(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "QUIET_S", 0.5)
    monkeypatch.setattr(measuring, "TRIAL_BLOCKS", 16)
    monkeypatch.setattr(proving, "find_hardware", lambda *_: HARDWARE)
    kinds = iter((Endless, Machine))
    await scene.begin(lambda room: next(kinds)(room))
    node = scene.proving
    node.claim, node.record = None, b""
    node._settings = NodeSettings(registry=DOMAIN.registry, wallet=scene._folder, data_dir=scene._folder, prove_s=1)
    scene.agent.works.append("a task")
    finding = asyncio.create_task(node._find_out())
    await asyncio.sleep(0.7)
    assert not scene.machines, "it has work"
    scene.agent.works.clear()
    while not scene.machines:
        await asyncio.sleep(0.01)
    scene.agent.works.append("a task")
    while not scene.machines[0].ended.is_set():
        await asyncio.sleep(0.01)
    assert node.claim is None
    scene.agent.works.clear()
    async with asyncio.timeout(60):
        await finding
        while scene.context.members[scene.node.address].announce.capability != node.record:
            await asyncio.sleep(0.01)
    assert len(scene.machines) == 2 and node.claim is not None
    assert (scene._folder / measuring.FILE).exists()
