"""A whole network around the engine, without time or threads: a chain that may go back, nodes that come, go and cheat,
effects that fail, a process that dies between any two steps. Everything is drawn from one seed.

The engine's own rows are the only thing that survives a crash, as its steps reported them.
"""

import copy
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec

from proofyard.chain.events import (
    BatchCommitted,
    BatchSettled,
    FeesPaid,
    JobCommitted,
    JobOpened,
    JobTaken,
    Position,
)
from proofyard.chain.events import Event as ChainNews
from proofyard.protocol.audit import asked_of, is_late, verdict_of
from proofyard.protocol.cid import cid_digest, make_cid, raw_cid
from proofyard.protocol.codec import decode, encode
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.mark import mark_of
from proofyard.protocol.messages import Decoy, SealOpened, SubmitCommitment
from proofyard.protocol.seal import Opening, seal_of
from proofyard.protocol.settlement import FaultReason, Line, OperatorId
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei
from proofyard.verifier.engine import effects, events
from proofyard.verifier.engine.effects import Effect
from proofyard.verifier.engine.events import DrawnSegment, Event, Now, Place, TaskKey
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import (
    Batch,
    BatchState,
    Fault,
    Job,
    JobState,
    Row,
    Seat,
    SeatState,
    Segment,
    Task,
    TaskState,
    Work,
    WorkState,
)
from proofyard.verifier.engine.world import Rules, Step, place_of

OWN = OperatorId(1)
REQUESTER = Address("0x" + "ee" * 20)
BLOCK_S = 2.0
DEPTH = 4
DAY_S = 86_400.0
WINDOW = 5
"""Blocks after which a settled batch is final."""
K = 2
ONE = 10**18


def address(number: int) -> Address:
    return Address("0x" + hashlib.sha256(f"node {number}".encode()).hexdigest()[:40])


def digest(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


def result_of(manifest: Cid, key: TaskKey, inputs: tuple[Cid, ...], *, false: bool = False) -> Cid:
    """What executing a task on these inputs gives: a pure function."""
    return raw_cid(repr(("result", manifest, key, inputs, false)).encode())


@dataclass
class Block:
    number: int
    hash: Digest
    news: list[ChainNews] = field(default_factory=list)
    sent: list[Callable[[], None]] = field(default_factory=list)
    """The transactions in it, to be sent again where the block goes."""


@dataclass
class OnChain:
    """A batch as the chain has it."""

    root: Digest
    lines: tuple[tuple[JobId, int], ...]
    commit_block: int
    settled: bool = False
    settled_block: int = 0
    final: bool = False
    payload: object = None


class SimChain:
    """Blocks of events. Everything that is on chain follows from the blocks that stand."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.blocks = [Block(0, digest("block", 0))]
        self.pool: list[Callable[[], None]] = []
        self.kept: set[Callable[[], None]] = set()
        """Transactions whose senders send them again until they last."""
        self.batches: dict[BatchId, OnChain] = {}
        self.next_batch = 1
        self.taken: dict[JobId, int] = {}
        self.undo: list[tuple[int, Callable[[], None]]] = []
        self.fork = 0

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def mine(self) -> None:
        number = self.head.number + 1
        self.blocks.append(Block(number, digest("block", number, self.fork)))
        pool, self.pool = self.pool, []
        for transaction in pool:
            transaction()
            self.head.sent.append(transaction)

    def emit(self, make: Callable[[Position], ChainNews]) -> None:
        position = Position(self.head.number, self.head.hash, len(self.head.news))
        self.head.news.append(make(position))

    def on_undo(self, what: Callable[[], None]) -> None:
        self.undo.append((self.head.number, what))

    def go_back(self, depth: int) -> int:
        """Blocks go; their transactions come back, in another order, or are lost."""
        depth = min(depth, len(self.blocks) - 1)
        gone = self.blocks[len(self.blocks) - depth :]
        self.blocks = self.blocks[: len(self.blocks) - depth]
        self.fork += 1
        to = self.head.number
        while self.undo and self.undo[-1][0] > to:
            self.undo.pop()[1]()
        sent = [transaction for block in gone for transaction in block.sent]
        back = [transaction for transaction in sent if transaction in self.kept or self.rng.random() < 0.6]
        self.rng.shuffle(back)
        self.pool = back + self.pool
        return to


@dataclass
class SimNode:
    node: Address
    owner: Address
    operator: int
    cheats: bool = False
    here: bool = False
    holds: dict[TaskKey, tuple[Cid, ...]] = field(default_factory=dict)
    audits: dict[tuple[BatchId, Place], tuple[Digest, Opening]] = field(default_factory=dict)
    """The answers, each with the seed of the draw that asked for it."""


class Network:
    """See the module's docstring. `look_ahead`, `rounds`, `width` shape the job: rounds of tasks that rest on the round
    before."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 6,
        rounds: int = 3,
        width: int = 2,
        look_ahead: int = 1,
        cheats: int = 0,
        jobs: int = 1,
        crash: float = 0.0,
        fail: float = 0.0,
        reorg: float = 0.0,
        churn: float = 0.0,
        decoys: int = 0,
        clock: float = 0.0,
        anchored: bool = True,
    ) -> None:
        """`anchored`: whether the Registry refuses what rests on a block that went."""
        self.rng = random.Random(seed)
        self.crash, self.fail, self.reorg, self.churn = crash, fail, reorg, churn
        self.clock, self.clock_off = clock, 0.0
        """How often the time that the engine is told is wrong from a restart to the next block; by how much now."""
        self.refused = 0
        """Records that did not hold."""
        self.chain = SimChain(self.rng)
        self.rules = Rules(own=OWN, lease_s=20.0, batch_s=4.0, few_tasks=8 * (seed % 2), batch_min_s=0.5)
        self.rules = replace(self.rules, few_s=20.0, first_s=2.0, decoys_bps=decoys, secret=b"of this verifier alone")
        self.decoys = 0
        """Decoys that a settled record opened."""
        self.mono = 0.0
        self.stored: dict[tuple[str, tuple[object, ...]], Row] = {}
        self.engine = Engine(self.rules)
        self.nodes = {
            address(n): SimNode(address(n), address(1000 + n), n + 10, cheats=n < cheats) for n in range(nodes)
        }
        self.caught: set[Address] = set()
        self.inbox: list[tuple[float, int, Event]] = []
        self.asked_jobs: dict[JobId, None] = {}
        self.count = 0
        self.read_to = 0
        self.read_hash = self.chain.head.hash
        self.crashes = 0
        self.begun = False
        self.last_batch = 0
        self.highest = 0
        self.specs = tuple(
            TaskSpec(
                index=TaskIndex(r * width + w),
                kind="train",
                deps=tuple(TaskIndex((r - 1) * width + v) for v in range(width)) if r else (),
                segments=2,
                work_units=10,
                label=f"round {r}, {w}",
            )
            for r in range(rounds)
            for w in range(width)
        )
        self.look_ahead = look_ahead
        self.jobs = [JobId(n + 1) for n in range(jobs)]
        self.anchored = anchored
        self.opened: dict[JobId, int] = {}
        """Which job has a number now: they are numbered as they come."""
        self.swaps = 0
        """How often a number was given to another job than before."""
        self.once: dict[JobId, int] = {}
        self.accepted: dict[TaskKey, Cid] = {}
        self.paid: Counter[TaskKey] = Counter()
        self.paid_in: dict[TaskKey, BatchId] = {}
        for which in range(jobs):
            self.chain.pool.append(partial(self._open, which))
        self.chain.kept = set(self.chain.pool)
        for node in self.nodes.values():
            self.join(node)

    # What happens on chain

    def _open(self, which: int) -> None:
        units, job = sum(spec.work_units for spec in self.specs), JobId(len(self.opened) + 1)
        self.swaps += self.once.setdefault(job, which) != which
        self.once[job] = self.opened[job] = which
        self.chain.on_undo(lambda: self.opened.pop(job))
        self.chain.emit(
            lambda at: JobOpened(
                at,
                job,
                REQUESTER,
                digest("manifest", which),
                Wei(100 * ONE),
                Wei(10 * ONE),
                Wei(ONE),
                units,
                10**9,
                K,
                1,
                0,
            )
        )

    def _rests_on(self, anchor: Digest) -> bool:
        """Whether the block of the youngest of the jobs that a transaction names is in the chain."""
        return not self.anchored or any(block.hash == anchor for block in self.chain.blocks[:-1])

    def _anchor(self, jobs: Iterable[JobId]) -> Digest:
        return Digest(self.engine.world.rows.jobs[max(jobs)].opened_hash)

    def _take(self, job: JobId, anchor: Digest) -> None:
        if job in self.opened and job not in self.chain.taken and self._rests_on(anchor):
            self.chain.taken[job] = OWN
            self.chain.on_undo(lambda: self.chain.taken.pop(job))
            self.chain.emit(lambda at: JobTaken(at, job, OWN))

    def _commit(self, root: Digest, lines: tuple[tuple[JobId, int], ...], anchor: Digest) -> None:
        """A batch with the units that are free; what was posted and is not settled is not posted again."""
        if not self._rests_on(anchor):
            return
        for job, units in lines:
            if job not in self.opened:
                return
            if units + self.open_units(job) + self.paid_units(job) > sum(spec.work_units for spec in self.specs):
                return
        if any(batch.root == root and not batch.settled for batch in self.chain.batches.values()):
            return
        number = BatchId(self.chain.next_batch)
        self.chain.next_batch += 1
        self.chain.batches[number] = OnChain(root, lines, self.chain.head.number)

        def undo() -> None:
            del self.chain.batches[number]
            self.chain.next_batch -= 1

        self.chain.on_undo(undo)
        named = tuple(Line(job, units, Wei(0), 0, Wei(0)) for job, units in lines)
        self.chain.emit(lambda at: BatchCommitted(at, number, OWN, root, 1, digest("list", root), named, 1))
        for job, _ in lines:
            self.chain.emit(lambda at, job=job: JobCommitted(at, job, number))  # type: ignore[misc]

    def _settle(
        self, number: BatchId, signed: OnChain, told: events.RecordSettled, results: dict[TaskKey, Cid]
    ) -> None:
        """The signatures are over the batch as it was: after a reorganisation its number may be another one's."""
        batch = self.chain.batches.get(number)
        if self.chain.head.number <= signed.commit_block + self.rules.draw_delay:
            return
        if batch is None or batch.settled or (batch.root, batch.commit_block) != (signed.root, signed.commit_block):
            return
        good = [key for key, outcome, _ in told.outcomes if outcome == "accepted"]
        paid: Counter[JobId] = Counter()
        for job, task in good:
            paid[job] += self.specs[task].work_units
        batch.settled, batch.settled_block, batch.payload = True, self.chain.head.number, told
        for key in good:
            self.paid[key] += 1
            self.accepted[key], self.paid_in[key] = results[key], number

        def undo() -> None:
            batch.settled, batch.payload = False, None
            for key in good:
                self.paid[key] -= 1
                self.accepted.pop(key, None)
                self.paid_in.pop(key, None)

        self.chain.on_undo(undo)
        lines = tuple(Line(job, units, Wei(0), paid.get(job, 0), Wei(0)) for job, units in batch.lines)
        zero, record = Digest(bytes(32)), raw_cid(repr(number).encode())
        self.chain.emit(lambda at: BatchSettled(at, number, 0, zero, 1, Wei(0), Wei(0), zero, record, 1, 0, lines))

    def _finalize(self, number: BatchId) -> None:
        """Its window is longer than any reorganisation."""
        batch = self.chain.batches.get(number)
        if batch is None or batch.final or not batch.settled or self.chain.head.number < batch.settled_block + WINDOW:
            return
        batch.final = True

        def undo() -> None:
            batch.final = False

        self.chain.on_undo(undo)
        assert isinstance(batch.payload, events.RecordSettled)
        if any(outcome == "accepted" for _, outcome, _ in batch.payload.outcomes):
            self.chain.emit(lambda at: FeesPaid(at, number, Wei(1), 1))

    def open_units(self, job: JobId) -> int:
        open_ = [batch for batch in self.chain.batches.values() if not batch.settled]
        return sum(units for batch in open_ for each, units in batch.lines if each == job)

    def paid_units(self, job: JobId) -> int:
        return sum(self.specs[key[1]].work_units * times for key, times in self.paid.items() if key[0] == job)

    # The clock

    def now(self) -> Now:
        return Now(self.chain_time() + self.clock_off, self.mono, self.chain.head.number)

    def chain_time(self) -> float:
        return 1_000_000 + self.mono

    def later(self, event: Event, most: float = 3.0) -> None:
        self.count += 1
        self.inbox.append((self.mono + self.rng.random() * most, self.count, event))

    def run(self, until: float) -> None:
        """Until everything is done, or fail at a time."""
        self.run_to(self.done, until)

    def run_to(self, reached: Callable[[], bool], until: float = 3000.0) -> None:
        if not self.begun:
            self.begun = True
            self._take_step(self.engine.resume(self.now()))
        block_at = 0.0
        while not reached():
            assert self.mono < until, self.story()
            self.mono += 0.1
            if self.mono >= block_at:
                block_at, self.clock_off = self.mono + BLOCK_S, 0.0
                if self.rng.random() < self.reorg:
                    self._go_back()
                self.chain.pool += [partial(self._finalize, n) for n, b in self.chain.batches.items() if not b.final]
                self.chain.mine()
                self._read_chain()
                self._read_jobs()
                for number in [n for n, batch in self.chain.batches.items() if batch.final]:
                    self.tell(events.Finalized(number))
            if self.rng.random() < self.churn:
                self._churn()
            due = sorted(item for item in self.inbox if item[0] <= self.mono)
            self.inbox = [item for item in self.inbox if item[0] > self.mono]
            for _, _, event in due:
                self.tell(event)
            wake = self.engine.next_wake
            if wake is not None and wake <= self.mono:
                self.tell(events.Tick())

    def done(self) -> bool:
        rows = self.engine.world.rows
        stored = [row for (table, _), row in self.stored.items() if table == "job"]
        over = [row.state == JobState.DONE for row in stored]  # type: ignore[attr-defined]
        return (
            len(over) == len(self.jobs)
            and all(over)
            and all(b.settled for b in self.chain.batches.values())
            and not (rows.batches and any(batch.state == "formed" for batch in rows.batches.values()))
        )

    def final(self) -> bool:
        """Whether nothing of any batch is open any more."""
        over = (BatchState.FINAL, BatchState.DROPPED, BatchState.TAKEN)
        return all(row.state in over for row in self.stored.values() if isinstance(row, Batch))

    def story(self) -> str:
        rows = self.engine.world.rows
        tasks = [(t.job, t.index, t.state, t.attempt) for t in rows.tasks.values()]
        works = [(w.job, w.task, w.attempt, w.state, w.batch, w.outcome) for w in rows.works.values()]
        batches = [(b.id, b.chain_id, b.state, b.results_due) for b in rows.batches.values()]
        jobs = [(j.id, j.state, j.reason, j.units_open, j.units_paid) for j in rows.jobs.values()]
        wanted = list(self.engine.world._wanted)
        segments = [
            (s.batch, place_of(s), s.verdict, s.looked) for s in rows.segments.values() if s.verdict == "pending"
        ]
        return f"stuck at {self.mono}: {jobs}\n{tasks}\n{works}\n{batches}\n{segments}\nwanted {wanted}"

    # The engine's process

    def tell(self, event: Event) -> str:
        """One event; the process may die before its step lasts, or before what follows from it is begun."""
        step = self.engine.handle(event, self.now())
        chance = self.rng.random()
        if chance < self.crash / 2:
            self._restart()
            return "crashed"
        self._store(step)
        if chance < self.crash:
            self._restart()
            return "crashed"
        for effect in step.effects:
            self.perform(effect)
        return step.refusal

    def _take_step(self, step: Step) -> None:
        self._store(step)
        for effect in step.effects:
            self.perform(effect)

    def _store(self, step: Step) -> None:
        for row in step.deleted:
            self.stored.pop((row.table, row.key), None)
        for row in step.rows:
            if isinstance(row, Batch):
                before = self.stored.get((row.table, row.key))
                assert before is None or row.members == before.members, "a batch has another one's number"  # type: ignore[attr-defined]
                self.last_batch = max(self.last_batch, row.id)
            self.stored[row.table, row.key] = copy.deepcopy(row)

    def _live(self) -> list[Row]:
        """What an engine begins with: as `Database.load` gives it."""
        rows = list(self.stored.values())
        batches = {
            b.id: b for b in rows if isinstance(b, Batch) and b.state not in (BatchState.FINAL, BatchState.DROPPED)
        }
        promised = {w.job for w in rows if isinstance(w, Work) and w.state in (WorkState.COMMITTED, WorkState.BATCHED)}
        jobs = {job for batch in batches.values() for job, _ in batch.lines} | {
            job.id
            for job in rows
            if isinstance(job, Job)
            and (
                job.state not in (JobState.DONE, JobState.FAILED)
                or (job.state == JobState.DONE and job.units_paid < job.units)
                or job.id in promised
            )
        }
        return [
            row
            for row in rows
            if isinstance(row, Fault)
            or (isinstance(row, Batch | Segment | Seat) and getattr(row, "batch", row.key[0]) in batches)
            or (isinstance(row, Job) and row.id in jobs)
            or (isinstance(row, Task) and row.job in jobs)
            or (isinstance(row, Work) and (row.job in jobs or row.batch in batches))
        ]

    def _restart(self) -> None:
        self.crashes += 1
        self.inbox = []
        self.asked_jobs = {}
        if self.rng.random() < self.clock:
            self.clock_off = self.rng.choice((-DAY_S, -700.0, 700.0, DAY_S))
        self.engine = Engine(self.rules, map(copy.deepcopy, self._live()), self.last_batch)
        for node in self.nodes.values():
            if node.here:
                self.join(node)
                self._deliver_again(node)
        self._take_step(self.engine.resume(self.now()))

    def _deliver_again(self, node: SimNode) -> None:
        """A node knows no answer to the seals that it sent: it sends them again, those of another draw as well."""
        for (number, place), (seed, opening) in node.audits.items():
            batch = self.chain.batches.get(number)
            if batch and not batch.settled:
                seal = seal_of(opening, node.node)
                self.later(events.AuditSealed(node.node, number, place, seed, seal, Signature(bytes(65))))

    # The chain's follower: its cursor lasts with the rows of the last event

    def _go_back(self) -> None:
        """Never further than `DEPTH` blocks behind the highest that there was."""
        head = self.chain.head.number
        self.highest = max(self.highest, head)
        depth = min(self.rng.randint(1, DEPTH), head - (self.highest - DEPTH))
        if depth < 1:
            return
        to = self.chain.go_back(depth)
        if to < self.read_to:
            self.tell_surely(events.RolledBack(to))
            self.read_to = to

    def _read_chain(self) -> None:
        for block in self.chain.blocks:
            if block.number > self.read_to:
                for news in block.news:
                    self.tell_surely(events.ChainEvent(news, 1_000_000 + int(self.mono)))
                self.read_to = block.number

    def tell_surely(self, event: Event) -> None:
        """An event whose cursor lasts with it: told again where the process died before."""
        while True:
            step = self.engine.handle(event, self.now())
            if self.rng.random() < self.crash / 2:
                self._restart()
                continue
            self._take_step(step)
            return

    # Nodes

    def join(self, node: SimNode) -> None:
        node.here = True
        self.later(
            events.NodeJoined(
                node.node, node.owner, node.operator, Wei(1000 * ONE), 20, frozenset({"sim"}), tasks=2, audits=4
            ),
            most=1.0,
        )

    def _churn(self) -> None:
        node = self.rng.choice(list(self.nodes.values()))
        if node.here and sum(other.here for other in self.nodes.values()) > 4:
            node.here = False
            node.holds, node.audits = ({}, node.audits) if self.rng.random() < 0.5 else (node.holds, node.audits)
            self.later(events.NodeLeft(node.node), most=0.5)
        elif not node.here:
            self.join(node)

    # Effects

    def perform(self, effect: Effect) -> None:
        messages = (effects.OfferTasks, effects.CancelTasks, effects.OfferAudits, effects.OpenSeals)
        if not isinstance(effect, messages) and self.rng.random() < self.fail:
            self.later(events.EffectFailed(effect.key, "it went wrong"))
            return
        getattr(self, "_do_" + type(effect).__name__)(effect)

    def _do_OfferTasks(self, effect: effects.OfferTasks) -> None:
        node = self.nodes[effect.node]
        for key, attempt, inputs, _ in effect.tasks:
            if not node.here:
                self.later(events.TaskAnswered(node.node, key, taken=False, reason="it has disconnected"))
                continue
            if self.rng.random() < self.fail / 4:
                self.later(events.TaskAnswered(node.node, key, taken=False, declined=True, reason="no"))
                continue
            node.holds[key] = inputs
            self.later(events.TaskAnswered(node.node, key, taken=True), most=0.2)
            self._work(node, key, inputs, decoy=self.engine.world.rows.works[*key, attempt].decoy)

    def _work(self, node: SimNode, key: TaskKey, inputs: tuple[Cid, ...], *, decoy: bool) -> None:
        manifest = self.engine.world.rows.jobs[key[0]].manifest
        result = result_of(manifest, key, inputs, false=node.cheats)
        spec = self.specs[key[1]]
        trace = tuple(raw_cid(repr(("state", key, inputs, n, node.cheats and n > 0)).encode()) for n in range(3))
        commitment = Commitment(
            job=key[0],
            task=key[1],
            node=node.node,
            manifest=Digest(cid_digest(manifest)),
            inputs=digest("inputs", inputs),
            trace_root=digest("trace", trace),
            segments=spec.segments,
            result=result,
            work_units=spec.work_units,
            mark=mark_of(bytes(32), decoy=False),
        )
        submission = SubmitCommitment(commitment, Signature(bytes(65)), trace, bytes(32))
        if decoy and self.rng.random() < 0.9:
            false = (trace[0], *(raw_cid(repr(("false", state)).encode()) for state in trace[1:]))
            shown = replace(
                commitment,
                trace_root=digest("trace", false),
                result=raw_cid(repr(("false", result)).encode()),
                mark=mark_of(bytes(32), decoy=True),
            )
            submission = msgspec.structs.replace(submission, decoy=Decoy(shown, Signature(bytes(65)), false, bytes(32)))
        leaf = digest("leaf", manifest, key, inputs, node.node)
        self.later(
            events.WorkCommitted(
                *(node.node, key, inputs, encode(submission), leaf, result, 10**8, manifest),
                decoy=submission.decoy is not None,
            ),
            most=6.0,
        )

    def _do_CancelTasks(self, effect: effects.CancelTasks) -> None:
        for key in effect.tasks:
            self.nodes[effect.node].holds.pop(key, None)

    def _do_OfferAudits(self, effect: effects.OfferAudits) -> None:
        node, batch = self.nodes[effect.node], self.engine.world.rows.batches[effect.batch]
        assert batch.chain_id is not None
        for place in effect.places:
            segment = self.engine.world.rows.segments[effect.batch, place]
            if not node.here or self.rng.random() < self.fail / 4:
                self.later(
                    events.AuditAnswered(node.node, batch.chain_id, place, batch.seed, taken=False, busy=node.here)
                )
                continue
            work = self._work_at(batch, segment)
            cheat = self.nodes[work.node].cheats or work.decoy_batch == batch.id
            after = digest("true", place) if cheat else segment.claimed
            keyed = digest("keyed", batch.seed, node.node)
            opening = Opening(after, keyed, "", bytes(32))
            node.audits[batch.chain_id, place] = batch.seed, opening
            seal, signature = seal_of(opening, node.node), Signature(bytes(65))
            self.later(events.AuditSealed(node.node, batch.chain_id, place, batch.seed, seal, signature), most=4.0)

    def _works_in(self, batch: Batch) -> list[Work]:
        """The works of a batch, and those whose decoys it holds."""
        rows = self.engine.world.rows
        return sorted([*rows.works_of[batch.id], *rows.decoys_in.get(batch.id, ())], key=lambda w: (w.job, w.task))

    def _work_at(self, batch: Batch, segment: Segment) -> Work:
        works = self._works_in(batch)
        return next(w for w in works if (w.job, w.task) == (segment.job, segment.task))

    def _do_OpenSeals(self, effect: effects.OpenSeals) -> None:
        node, batch = self.nodes[effect.node], self.engine.world.rows.batches[effect.batch]
        assert batch.chain_id is not None
        for place in effect.places:
            _, opening = node.audits.get((batch.chain_id, place), (None, None)) if node.here else (None, None)
            self.later(events.SealAnswered(node.node, batch.chain_id, place, batch.seed, opening))

    def _do_Expand(self, effect: effects.Expand) -> None:
        self.later(events.Expanded(effect.job, effect.manifest, "sim", True, self.look_ahead, self.specs))

    def _do_LookAtState(self, effect: effects.LookAtState) -> None:
        self.later(events.StateLooked(effect.batch, effect.place))

    def _do_LookAtResult(self, effect: effects.LookAtResult) -> None:
        self.later(events.ResultLooked(effect.batch, effect.task))

    def _do_WeighAnswers(self, effect: effects.WeighAnswers) -> None:
        answers = tuple((auditor, decode(raw, SealOpened).after) for auditor, raw in effect.openings)
        self.later(events.AnswersWeighed(effect.batch, effect.place, effect.seed, answers))

    def _do_Pack(self, effect: effects.Pack) -> None:
        self.later(events.Packed(effect.job, raw_cid(repr(("package", effect.job)).encode())))

    def _do_Draw(self, effect: effects.Draw) -> None:
        batch = self.engine.world.rows.batches[effect.batch]
        on_chain = self.chain.batches.get(batch.chain_id or BatchId(0))
        if on_chain is None or on_chain.root != batch.root:
            self.later(events.EffectFailed(effect.key, "unknown batch"))
            return
        if self.chain.head.number < on_chain.commit_block + self.rules.draw_delay:
            self.later(events.EffectFailed(effect.key, "too early to draw"))
            return
        segments = []
        for work in self._works_in(batch):
            drawn = random.Random(repr((work.leaf, self.seed_of(on_chain)))).random()
            if not self.nodes[work.node].cheats and drawn > 0.4:
                continue
            order = sorted(self.nodes, key=lambda a: digest(a, work.leaf, self.seed_of(on_chain)))
            auditors = tuple(a for a in order if self.nodes[a].owner != work.owner)
            claimed = digest("claimed", work.key)
            place = (work.job, work.task, SegmentIndex(0))
            segments.append(DrawnSegment(place, auditors, K, claimed, work.node, weigh=drawn < 0.1, workload="sim"))
        chain_now = 1_000_000 + int(self.mono)
        self.later(
            events.Drawn(
                effect.batch,
                effect.fork,
                self.seed_of(on_chain),
                tuple(segments),
                b"",
                0,
                on_chain.commit_block,
                chain_now,
                chain_now,
            ),
            most=4.0,
        )

    def seed_of(self, batch: OnChain) -> Digest:
        """That of the draw's block, as it is now."""
        number = batch.commit_block + self.rules.draw_delay
        return next(block.hash for block in self.chain.blocks if block.number == number)

    def does_not_hold(self, batch: Batch) -> str:
        """Why everybody refuses the record of a judged batch; empty where it holds."""
        rows, late = self.engine.world.rows, is_late(batch.drawn_at, self.chain_time())
        for segment in rows.segments_of[batch.id]:
            seats = rows.seats.get((batch.id, place_of(segment)), {})
            opened = {a: seat for a, seat in seats.items() if seat.state == SeatState.OPENED}
            verdict = verdict_of(
                [seat.answer for seat in opened.values() if seat.answer],
                segment.claimed,
                K,
                votes=len(opened),
                asked=asked_of(segment.auditors, opened),
                listed=len(segment.auditors),
                late=late,
                decoy=segment.decoy,
            )
            if segment.verdict != verdict and not segment.unvoted:
                return f"the votes on {place_of(segment)} say {verdict}, not {segment.verdict}"
        return ""

    def told(self, batch: Batch, settled_block: int) -> events.RecordSettled:
        """The record of a judged batch, by the rules of the protocol."""
        rows = self.engine.world.rows
        on_chain = self.chain.batches[batch.chain_id or BatchId(0)]
        for segment in rows.segments_of[batch.id]:
            for seat in rows.seats.get((batch.id, place_of(segment)), {}).values():
                if seat.opening:
                    assert decode(seat.opening, SealOpened).keyed == digest(
                        "keyed", self.seed_of(on_chain), seat.auditor
                    )
        outcomes, good = [], {}
        faulty = {(s.job, s.task) for s in rows.segments_of[batch.id] if s.verdict == "fault"}
        undecided = {(s.job, s.task) for s in rows.segments_of[batch.id] if s.verdict == "undecided"}
        works = self._works_in(batch)
        decoys = {(work.job, work.task) for work in works if work.decoy_batch == batch.id}
        assert {key for key in decoys if key in faulty | undecided} == {
            (s.job, s.task) for s in rows.segments_of[batch.id] if s.decoy
        }, "somebody found a decoy right"
        faulty, undecided = faulty - decoys, undecided - decoys
        guilty = {work.owner for work in works if (work.job, work.task) in faulty}
        for work in works:
            key = (work.job, work.task)
            if key in decoys:
                outcomes.append((key, "unpaid" if work.owner in guilty else "decoy", ""))
                continue
            deps = decode(rows.tasks[key].spec, TaskSpec).deps
            known = tuple(good.get((work.job, d)) or self.accepted.get((work.job, d)) for d in deps)
            if self.paid_in.get(key, batch.chain_id) != batch.chain_id:
                outcome = "repeated"
            elif key in faulty:
                outcome = "faulty"
            elif known != work.inputs:
                outcome = "stale"
            elif key in undecided:
                outcome = "undecided"
            elif work.owner in guilty:
                outcome = "unpaid"
            else:
                outcome, good[key] = "accepted", work.result
            outcomes.append((key, outcome, outcome))
        faults = tuple(
            ((w.job, w.task), w.node, w.owner, 1, 0, int(FaultReason.MISMATCH), "false")
            for w in works
            if (w.job, w.task) in faulty
        )
        self.caught |= {fault[2] for fault in faults}
        return events.RecordSettled(batch.id, 0, raw_cid(b"record"), tuple(outcomes), (), faults, settled_block, 0)

    def _do_Settle(self, effect: effects.Settle) -> None:
        batch = self.engine.world.rows.batches[effect.batch]
        number = batch.chain_id
        if number is None or number not in self.chain.batches or self.chain.batches[number].root != batch.root:
            self.later(events.EffectFailed(effect.key, "unknown batch"))
            return
        drawn = self.chain.batches[number].commit_block + self.rules.draw_delay
        if self.chain.head.number < drawn or self.seed_of(self.chain.batches[number]) != batch.seed:
            # The chain went back, and the engine is about to be told.
            self.later(events.EffectFailed(effect.key, "its seed is another one"))
            return
        reason = self.does_not_hold(batch)
        if reason:
            self.refused += 1
            self.later(events.RecordRefused(batch.id, reason))
            return
        told = self.told(batch, 0)
        self.decoys += sum(outcome == "decoy" for _, outcome, _ in told.outcomes)
        signed = replace(self.chain.batches[number])
        results = {(w.job, w.task): w.result or Cid("") for w in self.engine.world.rows.works_of[batch.id]}
        self.chain.pool.append(lambda: self._settle(number, signed, told, results))
        self.later(events.Signed(batch.id, raw_cid(b"record")), most=1.0)
        self.count += 1
        self.inbox.append((self.mono + 20.0, self.count, events.EffectFailed(effect.key, "its event has not come")))

    def _do_ReadRecord(self, effect: effects.ReadRecord) -> None:
        batch = self.engine.world.rows.batches[effect.batch]
        on_chain = self.chain.batches.get(batch.chain_id or BatchId(0))
        if on_chain is None or not on_chain.settled or on_chain.root != batch.root:
            self.later(events.EffectFailed(effect.key, "not settled"))
            return
        told = on_chain.payload
        assert isinstance(told, events.RecordSettled)
        self.later(replace(told, batch=batch.id, fork=effect.fork, settled_block=batch.settled_block))

    def _do_TakeJob(self, effect: effects.TakeJob) -> None:
        if effect.job in self.engine.world.rows.jobs:
            anchor = self._anchor([effect.job])
            self.chain.pool.append(lambda: self._take(effect.job, anchor))
        self._again_unless_seen(effect)

    def _do_CommitBatch(self, effect: effects.CommitBatch) -> None:
        rows = self.engine.world.rows
        lines, root = rows.batches[effect.batch].lines, effect.root
        told = {cid for work in rows.works_of[effect.batch] for cid in (*work.inputs, work.result)}
        decoys = {w.result for w in rows.works.values() if w.decoy and (w.decoy_batch or w.state != WorkState.LOST)}
        assert not decoys & told, "the list tells which is the decoy"
        whole = sum(spec.work_units for spec in self.specs)
        if any(self.paid_units(job) + units > whole for job, units in lines):
            self.later(events.EffectFailed(effect.key, "its units are paid already", retry=False))
            return
        anchor = self._anchor(job for job, _ in lines)
        self.chain.pool.append(lambda: self._commit(root, lines, anchor))
        self._again_unless_seen(effect)

    def _again_unless_seen(self, effect: Effect) -> None:
        self.count += 1
        self.inbox.append((self.mono + 30.0, self.count, events.EffectFailed(effect.key, "its event has not come")))

    def _do_TakeBatch(self, effect: effects.TakeBatch) -> None:
        """Nobody voids here."""

    def _do_ReadJob(self, effect: effects.ReadJob) -> None:
        self.asked_jobs[effect.job] = None

    def _read_jobs(self) -> None:
        """As the follower does it: what jobs are after the last event that was told."""
        for job in list(self.asked_jobs):
            which = self.opened.get(job)
            manifest = None if which is None else make_cid(digest("manifest", which))
            units = (self.open_units(job), self.paid_units(job))
            if self.tell(events.JobRead(job, manifest, self.chain.taken.get(job, 0), 0, *units)) != "crashed":
                self.asked_jobs.pop(job, None)


def honest_results(job: JobId, manifest: Cid, specs: tuple[TaskSpec, ...]) -> dict[TaskKey, Cid]:
    """What every task gives where nobody cheats."""
    found: dict[TaskKey, Cid] = {}
    for spec in specs:
        key = (job, spec.index)
        found[key] = result_of(manifest, key, tuple(found[job, dep] for dep in spec.deps))
    return found


__all__ = ["FeesPaid", "Network", "TaskState", "honest_results"]
