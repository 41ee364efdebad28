"""Shows verifiers that this machine has the memory and the speed that it claims, whenever it has nothing else to do.

Filling memory costs electricity and keeps nothing else away: it begins only while nothing is held and nothing executed,
is ended the moment that changes, and takes at most `SHARE` of the time, whoever asks. A verifier that asks more often
than `EVERY_S` is refused before anything is computed.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from proofyard.chain import ChainClient, Wallet
from proofyard.node.agent import Agent
from proofyard.node.hardware import Hardware, find_hardware
from proofyard.node.links import VerifierLinks
from proofyard.node.measuring import (
    SHARE_OF_FREE,
    SLACK,
    Measured,
    filler_for,
    machine_of,
    measure,
    read_measured,
    room_blocks,
    shown,
    write_measured,
)
from proofyard.node.settings import NodeSettings
from proofyard.protocol.capability import BLOCK_BYTES, Capability, seal_capability
from proofyard.protocol.commitment import Domain
from proofyard.protocol.messages import Ack, FillMemory, MemoryChecked, MemoryFilled, PrepareMemory, ShowStep, StepShown
from proofyard.protocol.types import Address, ProofyardError
from proofyard.runtime.recent import Recent
from proofyard.transport import Body, Connection, Endpoint, RequestFailed
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.executor import Executor
from proofyard.workloads.filler import Filler
from proofyard.workloads.filling import seed_of

logger = logging.getLogger("proofyard.node")

EVERY_S = 1800.0
"""Between two checks of one verifier."""
SHARE, SAVED_S = 0.02, 240.0
"""Of all time, the part that checks may take, and how many seconds of it may be saved up."""
QUIET_S = 60.0
"""How long nothing was to be done before this machine is measured: a start is for work."""
HOLD_S = 30.0
"""How long a filled memory is held for the next question about it."""
LOOK_S = 0.1
ASKERS = 1024


@dataclass
class Held:
    """A process that fills memory, for a verifier or for this node itself; `until` by the loop's clock. `seed` is the
    verifier's, once it was named."""

    verifier: Address
    blocks: int
    filler: Filler
    until: float
    seed: bytes = b""


class Proving:
    """The handlers of checks, and the record that a node announces. `fillers` makes the process that fills."""

    def __init__(
        self,
        settings: NodeSettings,
        wallet: Wallet,
        chain: ChainClient,
        endpoint: Endpoint,
        links: VerifierLinks,
        agent: Agent,
        executor: Executor,
        fillers: Callable[[Hardware, NodeSettings], Filler] = filler_for,
    ) -> None:
        self._settings, self._wallet, self._chain = settings, wallet, chain
        self._links, self._agent, self._executor, self._fillers = links, agent, executor, fillers
        self._domain = Domain(chain.chain_id, chain.registry)
        self._hardware: Hardware | None = None
        self.claim: Capability | None = None
        self.record = b""
        """The claim as it is announced; empty while nothing is claimed."""
        self._held: Held | None = None
        self._holds = asyncio.Event()
        self._own_turn = False
        """While the executor is busy for no more than being ended for a check."""
        self._asked: Recent[Address, float] = Recent(ASKERS)
        self._saved_s, self._saved_at = SAVED_S, math.inf
        self._said: dict[Address, str] = {}
        endpoint.on(PrepareMemory, self.prepare)
        endpoint.on(FillMemory, self.fill)
        endpoint.on(ShowStep, self.show)
        endpoint.on(MemoryChecked, self.checked)

    def said(self) -> tuple[str, ...]:
        """What is claimed, and what verifiers said of it, in words."""
        claim = self.claim
        if claim is None:
            return ()
        text = f"{shown(claim.blocks)} at {claim.steps_per_s} steps a second on {claim.device}"
        return (text, *(said for verifier, said in self._said.items() if self._links.connection(verifier) is not None))

    # The claim

    async def run(self) -> None:
        """Claim what is known of this machine, measuring it where nothing is, and keep out of the way of work."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_out())
                if self._settings.prove_s and self._executor.backend:
                    group.create_task(self._find_out())
        finally:
            self.make_way()

    async def _keep_out(self) -> None:
        while True:
            await self._holds.wait()
            held = self._held
            if held is not None and (_now() >= held.until or not self._idle()):
                self.make_way()
            await asyncio.sleep(LOOK_S)

    async def _find_out(self) -> None:
        """What is known of this machine, or a measurement once nothing is to be done: work that comes ends it, and it
        is begun anew."""
        try:
            hardware = await asyncio.to_thread(find_hardware, self._settings.data_dir, self._executor.backend)
            now = await asyncio.to_thread(self._chain.now)
            machine = machine_of(hardware, self._settings)
            found = await asyncio.to_thread(read_measured, self._settings.data_dir, machine, now)
            while found is None:
                await self._until_quiet()
                found, ended = await self._measure(hardware, now)
                if found is None and not ended:
                    return
            self.take(hardware, found)
        except (ProofyardError, OSError) as error:
            logger.warning("this node claims no memory and speed: %s", error)
        except Exception:
            logger.exception("this node claims no memory and speed")

    async def _measure(self, hardware: Hardware, now: int) -> tuple[Measured | None, bool]:
        """A measurement, and whether it was ended for work."""
        filler = self._fillers(hardware, self._settings)
        held = self._hold(Held(self._wallet.address, 0, filler, math.inf))
        try:
            await self._rest()
            async with filler:
                found = await measure(filler, hardware, self._settings, now)
            if found is not None:
                await asyncio.to_thread(write_measured, self._settings.data_dir, found)
            return found, False
        except WorkloadError:
            if self._held is held:
                raise
            return None, True
        finally:
            if self._held is held:
                self.make_way()

    def take(self, hardware: Hardware, measured: Measured) -> None:
        """Claim what was measured."""
        self._hardware, self.claim = hardware, measured.capability(self._wallet.address)
        signature = self._wallet.sign_digest(self._domain.typed_digest(self.claim.struct_hash()))
        self.record = seal_capability(self.claim, signature)
        logger.info("claims %s", self.said()[0])
        self._links.announce_again()

    async def _until_quiet(self) -> None:
        since = _now()
        while _now() - since < QUIET_S:
            await asyncio.sleep(1.0)
            if not self._idle():
                since = _now()

    # Checks

    async def prepare(self, connection: Connection, message: PrepareMemory, _body: Body) -> Ack:
        """Start a process that can fill so much memory, if this is the time for it."""
        verifier, claim, hardware = connection.peer, self.claim, self._hardware
        if self._links.connection(verifier) is None:
            return Ack(False, f"{verifier} is not a verifier this node has joined")
        if claim is None or hardware is None:
            return Ack(False, "this node claims no memory and speed")
        if not 2 <= message.blocks <= claim.blocks:
            return Ack(False, f"{message.blocks} blocks are not within the {claim.blocks} that this node claims")
        reason = "" if self._idle() and self._held is None else "busy: it has work, or is checked by another verifier"
        reason = reason or self._too_often(verifier, message.blocks / claim.steps_per_s)
        if reason:
            return Ack(False, reason)
        filler = self._fillers(hardware, self._settings)
        held = self._hold(Held(verifier, message.blocks, filler, math.inf))
        try:
            if hardware.on_gpu or psutil.virtual_memory().available * SHARE_OF_FREE < message.blocks * BLOCK_BYTES:
                await self._rest()
            await filler.__aenter__()
            room = room_blocks(filler.began.free_bytes, self._settings, on_gpu=hardware.on_gpu, share=1.0)
            reason = "" if message.blocks <= room else f"busy: only {shown(room)} of memory are free now"
        except (WorkloadError, OSError) as error:
            reason = f"busy: {error}"[:300]
        finally:
            held.until = _now() + HOLD_S
        if reason and self._held is held:
            self.make_way()
        return Ack(not reason, reason)

    async def fill(self, connection: Connection, message: FillMemory, _body: Body) -> MemoryFilled:
        """Fill a memory for a verifier that has prepared it, and hold it for its questions."""
        held = self._held
        if held is None or held.verifier != connection.peer or held.seed or held.until == math.inf:
            raise RequestFailed("no-memory", "no memory is prepared for this verifier")
        held.seed, held.until = message.seed, math.inf
        seed = seed_of(self._domain, self._wallet.address, message.seed)
        try:
            filled = await held.filler.fill(seed, held.blocks, SLACK * max(1, self._settings.prove_s) + HOLD_S)
        except WorkloadError as error:
            if self._held is not held:
                raise RequestFailed("busy", "this node has work") from None
            self.make_way()
            raise RequestFailed("no-memory", str(error)[:300]) from None
        except asyncio.CancelledError:
            if self._held is held:
                self.make_way()
            raise
        held.until = _now() + HOLD_S
        return MemoryFilled(filled.root, filled.path)

    def _hold(self, held: Held) -> Held:
        self._held = held
        self._holds.set()
        return held

    def make_way(self) -> None:
        """There is work, or nothing more to show: give up the memory at once."""
        held, self._held = self._held, None
        self._holds.clear()
        if held is not None:
            held.filler.end()

    async def show(self, connection: Connection, message: ShowStep, _body: Body) -> StepShown:
        held = self._held
        if held is None or (held.verifier, held.seed) != (connection.peer, message.seed):
            raise RequestFailed("no-memory", "no memory is held for this seed")
        if not 1 <= message.number < held.blocks:
            raise RequestFailed("too-large", f"step {message.number} of {held.blocks}")
        try:
            opening = await held.filler.show(message.number)
        except ProofyardError as error:
            raise RequestFailed("no-memory", str(error)[:300]) from None
        return StepShown(opening.before, opening.earlier, opening.paths)

    async def checked(self, connection: Connection, message: MemoryChecked, _body: Body) -> Ack:
        """A verifier says what it found: for this node's operator."""
        if self._links.connection(connection.peer) is None:
            return Ack(False, "not joined")
        text = f"{connection.peer} takes {shown(message.blocks)} as shown"
        text += f": {message.reason}" if message.reason else ""
        self._said[connection.peer] = text
        (logger.warning if message.reason else logger.info)("%s", text)
        if self._held is not None and self._held.verifier == connection.peer:
            self.make_way()
        return Ack()

    def _too_often(self, verifier: Address, seconds: float) -> str:
        """Count a check that takes so long; why it is one too many, empty where it is not."""
        now = _now()
        last = self._asked.get(verifier)
        if last is not None and now - last < EVERY_S:
            return f"busy: checked by this verifier {now - last:.0f} s ago; once in {EVERY_S:.0f} s"
        self._saved_s = min(SAVED_S, self._saved_s + SHARE * max(0.0, now - self._saved_at))
        self._saved_at = now
        if self._saved_s < min(seconds, SAVED_S):
            return f"busy: checks have taken {SHARE:.0%} of this node's time"
        self._saved_s -= seconds
        self._asked.put(verifier, now)
        return ""

    def _idle(self) -> bool:
        agent = self._agent
        return not agent.works and not agent.closed and (self._own_turn or not self._executor.busy)

    async def _rest(self) -> None:
        """Have the memory that the executor's child takes, if it is idle."""
        self._own_turn = not self._executor.busy
        try:
            await self._executor.rest()
        finally:
            self._own_turn = False


def _now() -> float:
    return asyncio.get_running_loop().time()
