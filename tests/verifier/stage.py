"""A chain that is made of Python, and nodes and verifiers on it: the real services without sockets.

`FakeChain` holds what a Registry would say, and the events that it would tell; every `Verifier` has a real engine,
database, block store, desk and co-signer. A `Link` is a connection between two of them: requests go straight to the
other's handlers.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from proofyard.artifacts import BlockStore
from proofyard.chain import (
    Anchor,
    ChainClient,
    Cursor,
    Drawn,
    NodeRecord,
    Params,
    Role,
    Rollback,
    VerifierRecord,
    Wallet,
)
from proofyard.chain import Event as ChainNews
from proofyard.chain.errors import NotDrawn
from proofyard.chain.events import (
    BatchCommitted,
    BatchDrawn,
    BatchDropped,
    BatchSettled,
    BatchTaken,
    FeesPaid,
    JobClosed,
    JobCommitted,
    JobOpened,
    JobTaken,
    Position,
)
from proofyard.chain.following import Checkpoint
from proofyard.chain.refusals import AlreadySettled, UnknownBatch, UnknownJob
from proofyard.protocol import bls
from proofyard.protocol.codec import encode
from proofyard.protocol.commitment import Domain
from proofyard.protocol.messages import Announce
from proofyard.protocol.settlement import (
    Header,
    Line,
    OperatorId,
    Settlement,
    draw_seed,
    header_hash,
    settlement_digest,
)
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Wei
from proofyard.protocol.view import BatchView, JobFacts, OpenBatch, OperatorFacts, Seat
from proofyard.transport import Connection, RequestFailed
from proofyard.verifier.context import Context, Member
from proofyard.verifier.cosigning import CoSigner
from proofyard.verifier.desk import Desk
from proofyard.verifier.engine.effects import Effect
from proofyard.verifier.engine.rows import Row
from proofyard.verifier.engine.world import Rows, Step
from proofyard.verifier.follower import Follower
from proofyard.verifier.runner import InternalError, Runner
from proofyard.verifier.service import perform, rules_of
from proofyard.verifier.standing import joined
from proofyard.verifier.store.database import Database

CREDIT = 10**18
DOMAIN = Domain(31337, Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"))
TRUSTED = 10**9
"""Consecutive valid audits of who is next to never drawn."""
STAKE = Wei(1000 * CREDIT)
PARAMS = Params()
UNDRAWN = Digest(bytes(32))


@dataclass
class ChainBatch:
    """A batch as `chain.batch` tells it, and its header."""

    id: BatchId
    content: Header
    verifier: OperatorId
    commit_block: int
    committed_at: int
    attempt: int = 0
    settled_at: int = 0
    claimable_at: int = 0
    open_challenges: int = 0
    unfinal: bool = False
    dropped: bool = False
    voided: bool = False
    seed: Digest = UNDRAWN
    leader_since: int = 0
    opened_at: int = 0
    settlement: Settlement | None = None

    @property
    def header(self) -> Digest:
        return header_hash(self.content)


@dataclass
class FakeChain:
    """What all share: blocks of a second each, operators, jobs, batches."""

    params_: Params = PARAMS
    clock: int = field(default_factory=lambda: int(time.time()))
    block: int = 100
    facts: list[OperatorFacts] = field(default_factory=list)
    seats: list[VerifierRecord] = field(default_factory=list)
    jobs: dict[JobId, JobFacts] = field(default_factory=dict)
    taken: dict[JobId, OperatorId] = field(default_factory=dict)
    batches: dict[BatchId, ChainBatch] = field(default_factory=dict)
    closed: set[JobId] = field(default_factory=set)
    last_active: dict[JobId, int] = field(default_factory=dict)
    retired_keys: dict[Address, tuple[OperatorId, Address]] = field(default_factory=dict)
    salt: int = 0
    sent: list[tuple[str, object]] = field(default_factory=list)
    log: list[ChainNews | Rollback] = field(default_factory=list)

    # Building

    def tell(self, kind: Callable[..., ChainNews], **what: Any) -> None:
        """An event in a block of its own."""
        self.log.append(kind(position=Position(self.block, Digest(bytes(32)), len(self.log)), **what))

    def cursor(self) -> bytes:
        """How far somebody has read who knows all of it."""
        return encode(self.cursor_at(len(self.log)))

    def cursor_at(self, events: int) -> Cursor:
        """That of somebody who has read so many events, and all blocks."""
        return Cursor(self.block + 1, (Checkpoint(events, Digest(bytes(32))),))

    def add_node(
        self, wallet: Wallet, *, valid: int = TRUSTED, stake: Wei = STAKE, owner: Address | None = None
    ) -> OperatorFacts:
        number = OperatorId(len(self.facts) + len(self.seats) + 1)
        facts = OperatorFacts(number, wallet.address, owner or Wallet.generate().address, valid, stake, True, True)
        self.facts.append(facts)
        return facts

    def add_verifier(self, wallet: Wallet) -> VerifierRecord:
        number = OperatorId(len(self.facts) + len(self.seats) + 1)
        key = bls.public_key(wallet.bls_secret())
        owner = Wallet.generate().address
        record = VerifierRecord(number, len(self.seats), True, wallet.address, owner, STAKE, key, f"{wallet.address}:1")
        self.seats.append(record)
        return record

    def add_job(self, facts: JobFacts) -> JobId:
        job = JobId(len(self.jobs) + 1)
        self.jobs[job] = facts
        names = ("requester", "manifest", "reward", "audit_fee", "verifier_fee", "units", "deadline")
        terms = ("auditors_per_segment", "segments_per_audit", "workload")
        self.tell(JobOpened, job=job, **{name: getattr(facts, name) for name in (*names, *terms)})
        return job

    def for_wallet(self, wallet: Wallet) -> "ChainOf":
        return ChainOf(self, wallet)

    def owners(self) -> dict[Address, tuple[OperatorId, Address]]:
        known = {o.node: (o.id, o.owner) for o in self.facts} | {s.node: (s.id, s.owner) for s in self.seats}
        return known | self.retired_keys

    def mine(self, blocks: int = 1) -> None:
        self.block += blocks
        self.clock += blocks


class ChainOf:
    """The chain as one wallet's client shows it."""

    first_block = 0

    def __init__(self, chain: FakeChain, wallet: Wallet) -> None:
        self._chain = chain
        self._wallet = wallet
        self.events = SimpleNamespace(read=self._read)

    def _read(self, cursor: Cursor) -> tuple[list[ChainNews | Rollback], Cursor]:
        """Events by their number instead of their block."""
        read = cursor.checkpoints[-1].block if cursor.checkpoints else cursor.next_block
        found = self._chain.log[read:]
        return found, self._chain.cursor_at(read + len(found))

    def params(self) -> Params:
        return self._chain.params_

    def now(self) -> int:
        return self._chain.clock

    def block_number(self) -> int:
        return self._chain.block

    def head(self) -> tuple[int, int]:
        return self._chain.block, self._chain.clock

    def next_time(self) -> int:
        return self._chain.clock

    def gas_price(self) -> int:
        return 10**9

    def payee(self, key: Address) -> Address:
        return self._chain.owners().get(key, (0, key))[1]

    def pay(self, to: Address, amount: Wei) -> None:
        self._chain.sent.append(("pay", (to, amount)))

    def operator_of(self, key: Address) -> OperatorId | None:
        known = self._chain.owners().get(key)
        return known[0] if known else None

    def active_verifiers(self) -> list[VerifierRecord]:
        return list(self._chain.seats)

    def signers_of(self, _batch: BatchId) -> list[VerifierRecord]:
        return list(self._chain.seats)

    def active_nodes(self) -> list[NodeRecord]:
        return [record_of(facts) for facts in self._chain.facts if facts.active]

    def operator(self, operator: OperatorId) -> NodeRecord:
        return next(record_of(facts) for facts in self._chain.facts if facts.id == operator)

    def history(self) -> Any:
        opened = tuple(OpenBatch(b.id, b.content) for b in self._chain.batches.values() if _open(b))
        chain = self._chain
        return SimpleNamespace(
            read_to=chain.block,
            open_batches=lambda _block: opened,
            job=lambda job: chain.jobs[job],
            owners=lambda _block: chain.owners(),
        )

    def job(self, job: JobId, *, block: int | str | None = None) -> Any:
        if job not in self._chain.jobs:
            raise UnknownJob("UnknownJob", {"job": job})
        facts, closed = self._chain.jobs[job], job in self._chain.closed
        lines = [(b, line) for b in self._chain.batches.values() for line in b.content.lines if line.job == job]
        paid = sum(line.paid_units for _, line in lines)
        opened = sum(line.units for batch, line in lines if _open(batch))
        # As of `block`: here a cursor counts the events. What came after them is told later, and counts then.
        for event in self._chain.log[block + 1 :] if isinstance(block, int) else ():
            for line in event.lines if isinstance(event, BatchCommitted | BatchSettled) else ():
                if line.job == job:
                    settled = isinstance(event, BatchSettled)
                    opened += line.units if settled else -line.units
                    paid -= line.paid_units if settled else 0
        end = self._chain.clock if closed else facts.deadline
        return SimpleNamespace(
            manifest=facts.manifest,
            units=facts.units,
            units_paid=paid,
            units_open=opened,
            units_left=facts.units - paid - opened,
            closed=closed,
            over=closed or paid >= facts.units,
            closed_at=self._chain.clock if closed else 0,
            verifier=self._chain.taken.get(job, 0),
            last_active=self._chain.last_active.get(job, self._chain.clock),
            commits_end=lambda receipt_time: min(end, facts.deadline) + receipt_time,
        )

    def settled(self, job: JobId) -> list[BatchSettled]:
        told = [event for event in self._chain.log if isinstance(event, BatchSettled)]
        return [event for event in told if any(line.job == job for line in event.lines)]

    def take_job(self, job: JobId, anchor: Anchor | None = None) -> None:
        own = self.operator_of(self._wallet.address)
        assert own is not None
        self._chain.taken[job] = own
        self._chain.tell(JobTaken, job=job, verifier=own)

    def take_jobs(self, jobs: Sequence[JobId], anchor: Anchor | None = None) -> frozenset[JobId]:
        for job in jobs:
            self.take_job(job, anchor)
        return frozenset(jobs)

    def batch(self, batch: BatchId) -> ChainBatch:
        if batch not in self._chain.batches:
            raise UnknownBatch("UnknownBatch", {"batch": batch})
        return replace(self._chain.batches[batch])

    def header(self, batch: BatchId) -> Header:
        return self._chain.batches[batch].content

    def find_batches(self, root: Digest, verifier: OperatorId | None = None, *, since: int = 0) -> list[Any]:
        found = [b for b in self._chain.batches.values() if b.content.root == root and b.verifier == verifier]
        return [SimpleNamespace(batch=b.id) for b in found]

    def commit_batch(
        self,
        root: Digest,
        size: int,
        members: Digest,
        lines: Sequence[tuple[JobId, int]],
        anchor: Anchor | None = None,
    ) -> BatchId:
        chain = self._chain
        own = self.operator_of(self._wallet.address)
        assert own is not None
        full = []
        for job, units in lines:
            facts = chain.jobs[job]
            total = facts.reward + facts.audit_fee + facts.verifier_fee
            full.append(Line(job, units, Wei(-(-total * units // facts.units))))
        number = BatchId(len(chain.batches) + 1)
        header = Header(root, size, members, tuple(full))
        chain.batches[number] = ChainBatch(number, header, own, chain.block, chain.clock)
        chain.batches[number].leader_since = chain.batches[number].opened_at = chain.clock
        what = {"root": root, "size": size, "members": members, "lines": tuple(full), "quorum": 1}
        chain.tell(BatchCommitted, batch=number, verifier=own, **what)
        for line in full:
            chain.tell(JobCommitted, job=line.job, batch=number)
        chain.mine(3)
        return number

    def view(self, batch: BatchId, attempt: int | None = None) -> BatchView:
        chain, state = self._chain, self._chain.batches[batch]
        draw_block = state.commit_block + chain.params_.draw_delay
        if draw_block > chain.block:
            raise NotDrawn(batch, draw_block)
        committed = Header(
            state.content.root,
            state.content.size,
            state.content.members,
            tuple(replace(line, paid_units=0, amount=Wei(0)) for line in state.content.lines),
        )
        block_hash = draw_block.to_bytes(16, "big") + chain.salt.to_bytes(16, "big")
        opened = [b for b in chain.batches.values() if b.id == batch or (_open(b) and b.commit_block <= draw_block)]
        own_jobs = {line.job for line in committed.lines}
        mine = [b for b in chain.batches.values() if b.id != batch and own_jobs & {x.job for x in b.content.lines}]
        return BatchView(
            chain_id=DOMAIN.chain_id,
            registry=DOMAIN.registry,
            batch=batch,
            attempt=state.attempt,
            leader=state.verifier,
            header=committed,
            quorum=tuple(Seat(seat.slot, seat.id, seat.owner) for seat in chain.seats),
            commit_block=state.commit_block,
            draw_block=draw_block,
            drawn_at=state.committed_at + chain.params_.draw_delay,
            seed=draw_seed(block_hash, batch, header_hash(committed)),
            jobs=dict(chain.jobs),
            operators=tuple(chain.facts),
            owners=chain.owners(),
            open_batches=tuple(
                OpenBatch(b.id, committed if b.id == batch else b.content) for b in sorted(opened, key=lambda b: b.id)
            ),
            claimed_before=tuple(OpenBatch(b.id, b.content) for b in mine if _open(b) and b.id < batch),
            settled_before=tuple((b.id, b.settlement.record) for b in mine if b.settlement and b.id < batch),
            collusion_bps=chain.params_.collusion_bps,
            slash_requester_bps=chain.params_.slash_requester_bps,
            slash_auditor_bps=chain.params_.slash_auditor_bps,
            slash_redress_bps=chain.params_.slash_redress_bps,
        )

    def settle_batch(self, batch: BatchId, settlement: Settlement, signers: int, signature: bls.BlsSignature) -> None:
        chain, state = self._chain, self._chain.batches[batch]
        digest = settlement_digest(DOMAIN, self.view(batch).ref, settlement)
        keys = [seat.public_key for seat in chain.seats if signers >> seat.slot & 1]
        assert 3 * len(keys) >= 2 * len(chain.seats)
        assert bls.verify_aggregate(keys, digest, signature)
        if not _open(state):
            raise AlreadySettled("AlreadySettled", {"batch": batch})
        lines = tuple(
            replace(line, paid_units=share.paid_units, amount=share.amount)
            for line, share in zip(state.content.lines, settlement.shares, strict=True)
        )
        state.content = replace(state.content, lines=lines)
        state.settlement, state.settled_at, state.voided = settlement, chain.clock, False
        state.claimable_at = chain.clock + chain.params_.challenge_window
        chain.tell(
            BatchSettled,
            batch=batch,
            attempt=state.attempt,
            payout_root=Digest(bytes(32)),
            payout_count=0,
            payout_total=Wei(0),
            fees=Wei(0),
            audit_root=Digest(bytes(32)),
            record=settlement.record,
            signers=signers,
            claimable_at=state.claimable_at,
            lines=lines,
        )
        chain.mine()

    def take_batch(self, batch: BatchId) -> None:
        own, chain = self.operator_of(self._wallet.address), self._chain
        assert own is not None
        state = chain.batches[batch]
        before, state.verifier, state.voided, state.leader_since = state.verifier, own, False, chain.clock
        state.attempt += 1
        chain.sent.append(("take", batch))
        what = {"lines": state.content.lines, "quorum": 1, "attempt": state.attempt}
        chain.tell(BatchTaken, batch=batch, verifier=own, before=before, **what)

    def drop_batch(self, batch: BatchId) -> None:
        self._chain.batches[batch].dropped = True
        self._chain.sent.append(("drop", batch))
        self._chain.tell(BatchDropped, batch=batch)

    def draw(self, batch: BatchId) -> None:
        self._chain.batches[batch].seed = self.view(batch).seed
        self._chain.sent.append(("draw", batch))
        self._chain.tell(BatchDrawn, batch=batch, seed=self._chain.batches[batch].seed)

    def seed(self, batch: BatchId) -> Any:
        view = self.view(batch)
        return Drawn(view.seed, view.draw_block)

    def finalize(self, batch: BatchId) -> None:
        self._chain.batches[batch].unfinal = False
        self._chain.sent.append(("finalize", batch))
        self._chain.tell(FeesPaid, batch=batch, amount=Wei(0), signers=1)

    def attend(self) -> None:
        self._chain.sent.append(("attend", self._wallet.address))

    def close_job(self, job: JobId, anchor: Anchor | None = None) -> None:
        self._chain.closed.add(job)
        self._chain.sent.append(("close", job))
        self._chain.tell(JobClosed, job=job)


def _open(batch: ChainBatch) -> bool:
    return not batch.dropped and (not batch.settled_at or batch.voided)


def record_of(facts: OperatorFacts) -> NodeRecord:
    return NodeRecord(
        *(facts.id, Role.NODE, facts.active, facts.node, facts.owner, facts.stake, facts.consecutive_valid),
        last_fault=0,
        workloads=(1 << 64) - 1,
        endpoint="",
    )


class Handlers:
    """A verifier's endpoint: what it serves, by kind of request."""

    def __init__(self) -> None:
        self.served: dict[type, Callable[..., Awaitable[Any]]] = {}
        self.peers: dict[Address, Any] = {}

    def on(self, kind: type, handler: Callable[..., Awaitable[Any]]) -> None:
        self.served[kind] = handler

    async def connect_to(self, endpoint: str, *, expect: Address) -> Any:
        if expect not in self.peers:
            raise RequestFailed("away", f"{expect} does not answer")
        return self.peers[expect]


class Link:
    """A connection as the handler at its far end sees it: `peer` is who asks, its blocks are in `store`."""

    def __init__(self, peer: Address, store: BlockStore, served: Handlers | None = None) -> None:
        self.peer = peer
        self.name = peer
        self.remote = ("127.0.0.1", 1)
        self.subnet = "127.0.0.1:1"
        self._store = store
        self._served = served
        self.asker: Link | None = None
        self.closed = asyncio.Event()
        self.points = 0.0
        """What is held against the peer."""
        self.vouched = False
        self.silent_s = 0.0

    async def blocks(self, cids: Sequence[Cid]) -> AsyncGenerator[tuple[Cid, bytes | None], None]:
        for cid in cids:
            yield cid, self._store.get_block(cid) if self._store.has(cid) else None

    async def lacks(self, cids: Sequence[Cid]) -> list[Cid]:
        return [cid for cid in cids if not self._store.has(cid)]

    def penalise(self, points: float, reason: str) -> None:
        self.points += points

    def vouch(self) -> None:
        self.vouched = True

    async def request(self, message: Any, *, reply: type, timeout: float) -> Any:
        assert self._served is not None and self.asker is not None
        try:
            return await self._served.served[type(message)](cast(Connection, self.asker), message, cast(Any, None))
        except Exception as error:
            raise RequestFailed("failed", str(error)) from error


@dataclass
class Verifier:
    """One verifier's parts. Nothing of it runs by itself before `running`."""

    context: Context
    endpoint: Handlers
    desk: Desk
    cosigner: CoSigner
    wallet: Wallet
    runner: Runner
    _loops: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def rows(self) -> Rows:
        return self.context.rows

    def start(self, *, follow: bool = True) -> None:
        works = (self.runner.run(), *([self._follow()] if follow else []))
        self._loops = [asyncio.create_task(work) for work in works]

    def renew(self) -> None:
        """A new engine on the same database, as after a restart."""
        old = self.runner
        self.runner = self.context.runner = Runner(old.rules, self.context.database, old._perform, old._clock)
        self.runner.recall = old.recall

    async def stop(self, *, close: bool = True) -> None:
        """As at the end of its process; `close` false keeps what asks the chain."""
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        ends = await asyncio.gather(*loops, return_exceptions=True)
        if close:
            await self.context.close()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    @asynccontextmanager
    async def running(self, *, close: bool = True) -> AsyncGenerator[None]:
        self.start()
        try:
            await self.until(lambda: self.context.caught_up_at > float("-inf"))
            with suppress(InternalError):
                await self.runner.tell_all([])
            yield
        finally:
            await self.stop(close=close)

    @asynccontextmanager
    async def without(self, kind: type[Effect]) -> AsyncGenerator[None]:
        """It runs, and never does one kind of effect."""
        does = self.runner._perform

        async def perform(effect: Effect) -> float | None:
            return await (asyncio.Event().wait() if isinstance(effect, kind) else does(effect))  # type: ignore[return-value]

        self.runner._perform = perform
        async with self.running(close=False):
            yield
        self.renew()
        self.runner._perform = does

    async def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)
                for loop in self._loops:
                    if loop.done():
                        loop.result()

    async def put(self, *rows: Row) -> None:
        """What the database has when the verifier starts; it has read the chain so far."""
        state = self.context.chain._chain.cursor()  # type: ignore[attr-defined]
        await self.context.database.write(Step(rows, (), ()), state)

    def stored(self, kind: type[Row]) -> list[Any]:
        return self.context.database.rows(kind)

    async def _follow(self) -> None:
        follower, caught_up = Follower(self.context), False
        while True:
            try:
                more = await follower.advance()
            except InternalError:
                more = True
            if not more and not caught_up:
                caught_up = True
                self.context.saw_block(*self.context.chain.head())
            if not more or caught_up:
                await asyncio.sleep(0.01)


def settings(**changes: Any) -> Any:
    usual = {
        "lease_s": 3.0,
        "audit_s": 3.0,
        "state_due_s": 0.5,
        "receipt_blocks": 0,
        "recheck_s": 0.2,
        "max_state_bytes": 1 << 30,
        "batch_tasks": 32,
        "batch_s": 0.2,
        "decoys_bps": 0,
        "takeover": True,
        "least_fee_bps": 0,
        "token_per_ether": 1,
        "job_tasks": 50_000,
        "relay_price": "",
        "relay_fee_bps": 1000,
        "relay_a_day": "1",
        "all_tasks": 200_000,
        "keep_s": 1e9,
        "cache_bytes": 1 << 30,
        "blind": False,
        "from_block": 0,
    }
    return SimpleNamespace(**usual | changes)


_numbers = itertools.count()


def make_verifier(chain: FakeChain, folder: Path, *, workload: Any = None, **changes: Any) -> Verifier:
    """A seated verifier; all verifiers of a chain are linked by `introduce`."""
    wallet = Wallet.generate()
    chain.add_verifier(wallet)
    return verifier_of(wallet, cast(Any, chain.for_wallet(wallet)), DOMAIN, folder, workload=workload, **changes)


def verifier_of(
    wallet: Wallet, client: ChainClient, domain: Domain, folder: Path, *, workload: Any = None, **changes: Any
) -> Verifier:
    folder = folder / f"verifier-{next(_numbers)}"
    folder.mkdir(parents=True)
    chosen = settings(data_dir=folder, **changes)
    database = Database(f"sqlite:///{folder / 'verifier.db'}")
    return assemble(chosen, wallet, client, domain, database, BlockStore(folder / "blocks"), workload)


def assemble(
    chosen: Any,
    wallet: Wallet,
    client: ChainClient,
    domain: Domain,
    database: Database,
    store: BlockStore,
    workload: Any = None,
) -> Verifier:
    """A verifier's process on what it left behind, if it did."""
    endpoint = Handlers()
    context = Context(*(chosen, wallet, domain, client, database, store), cast(Any, endpoint))
    context.saw_block(*client.head())
    if workload is not None:
        context.workload = lambda _: workload  # type: ignore[method-assign]
    rules = rules_of(chosen, client.params(), client.operator_of(wallet.address) or 0)
    context.runner = Runner(rules, database, partial(perform, context), context.clock)
    return Verifier(context, endpoint, Desk(context), CoSigner(context), wallet, context.runner)


def introduce(*verifiers: Verifier) -> None:
    """Let each verifier reach all others."""
    for one, other in itertools.permutations(verifiers, 2):
        link = Link(other.wallet.address, other.context.store, other.endpoint)
        link.asker = Link(one.wallet.address, one.context.store, one.endpoint)
        one.endpoint.peers[other.wallet.address] = link


OFFERS = Announce(("lora",), 0, 0, "")


def join(verifier: Verifier, connection: Any, record: NodeRecord, announce: Announce = OFFERS) -> None:
    """A node is connected to a verifier: the engine is told when it begins, or at once if it runs."""
    member = verifier.context.members[record.node] = Member(cast(Connection, connection), announce, record)
    verifier.runner.post(joined(member))


def leave(verifier: Verifier, node: Address) -> None:
    verifier.desk.left(verifier.context.members[node].connection)
