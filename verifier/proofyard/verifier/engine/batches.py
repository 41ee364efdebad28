"""A batch from its forming to its settlement: over all jobs, by the clock, in the order in which results rest on each
other.

Commitments wait for company, few of them longer, but never longer than `Rules` say, nor while a job can do nothing
without its verdicts, nor until a receipt falls due, nor a decoy that the next tasks wait for. A batch that is formed
for jobs that wait has what those committed, and nothing of others: each job in a batch costs gas, so one that goes on
comes into few. Jobs for which nobody has to work any more wait a moment for each other. What the chain does to a batch
(`chain`) and what its audits come to (`audits`) lead here.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec

from proofyard.protocol import merkle
from proofyard.protocol.audit import Verdict
from proofyard.protocol.certificate import Certificate
from proofyard.protocol.codec import encode
from proofyard.protocol.members import Member, decode_members, encode_members
from proofyard.protocol.settlement import FaultReason
from proofyard.protocol.types import Address, JobId
from proofyard.verifier.engine import audits, backing, jobs, tasks
from proofyard.verifier.engine.decoys import decoys_of, shown
from proofyard.verifier.engine.effects import AskMarks, CommitBatch, Draw, LookAtResult, ReadRecord, Settle, TakeBatch
from proofyard.verifier.engine.events import (
    Adopted,
    Drawn,
    EffectFailed,
    LooksDue,
    MarksTold,
    Now,
    RecordRefused,
    RecordSettled,
    ResultLooked,
    Signed,
    TaskKey,
)
from proofyard.verifier.engine.rows import Batch, BatchState, Fault, Work, WorkState
from proofyard.verifier.engine.world import World, backoff

OVER = frozenset((BatchState.SETTLED, BatchState.FINAL, BatchState.DROPPED))
"""Batches in which nothing is in flight."""
UNJUDGED = frozenset((BatchState.FORMED, BatchState.SENT, BatchState.COMMITTED, BatchState.AUDITING))
"""Batches that wait for their audits, or are audited."""
SLACK_S = 0.05
LOOK_S = 0.25
"""Between two looks at who waits for a batch."""
FORGET_S = 60.0
"""Between two looks at whether what is final may leave the memory."""
DEEP_BLOCKS = 64
"""So many blocks on a settlement are taken to stay."""
MAX_REASON = 500
OF_BATCHES = frozenset(
    ("CommitBatch", "Draw", "Settle", "ReadRecord", "AskMarks", "LookAtState", "LookAtResult", "WeighAnswers")
)
"""Effects whose keys begin with the row of a batch."""
MAX_LIST_BYTES = 32 << 20
"""Of the commitments in a batch as they came, half of what a member list may have: long tasks name many states."""
MAX_LINES = 128
"""Jobs of one batch: the contract takes no more."""


@dataclass
class Memory:
    """What begins anew with a restart. Times by the monotonic clock."""

    waiting_since: float | None = None
    not_before: float = float("-inf")
    """When it may be tried again to form one."""
    company: int = 0
    """How many jobs waited for others when that was last looked at; 0 when none does."""
    alone_since: float = 0.0
    joined_at: float = 0.0
    """When the first of them came to wait, and the last."""
    newest: int = 0
    """The row of the batch that was formed last."""
    alarm: float = float("-inf")
    """When `form` looks again."""
    due: dict[int, set[TaskKey]] = field(default_factory=dict)
    """The results of a batch that were not looked at; its row says so until all of them were."""
    unbacked: JobId | None = None
    """The job whose commitments wait for this verifier's stake to back their batch."""
    reserved: Counter[JobId] = field(default_factory=Counter)
    """Work units of batches that are formed and not on chain."""
    after: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Judged batches that wait until another one is settled, because they rest on its results."""
    apart: set[JobId] = field(default_factory=set)
    """Jobs of batches that came to nothing by an error: each has batches of its own from then on, so that it shows
    whose error it is."""
    refused: Counter[int] = field(default_factory=Counter)
    """How often the record of a judged batch did not hold."""
    troubled: set[int] = field(default_factory=set)
    """Batches that this verifier has met errors with, again and again."""


# Forming


def form(world: World, now: Now) -> None:
    """Put what is committed into a batch, if its time has come."""
    memory, rules = world.memory(Memory), world.rules
    if not tasks.waiting(world)[0]:
        memory.waiting_since = None
        return
    if memory.waiting_since is None:
        memory.waiting_since = now.mono
    if now.mono < memory.not_before:
        _look_again(world, memory, memory.not_before, now)
        return
    due = _due_at(world, memory.waiting_since, now)
    whose = None if now.mono >= due else tasks.waiting_jobs(world, now)
    if whose is not None and not whose:
        _look_again(world, memory, due, now)
        return
    if whose and _company_comes(world, memory, whose, now):
        memory.not_before = now.mono + min(LOOK_S, rules.company_gap_s)
        _look_again(world, memory, memory.not_before, now)
        return
    memory.not_before, memory.company = now.mono + rules.batch_min_s, 0
    chosen = _fitting(world, memory, tasks.to_batch(world, whose), now)
    if chosen:
        _form(world, memory, chosen, now)
        # What is left out for those that wait has waited all the same.
        memory.waiting_since = memory.waiting_since if whose else None
    elif rules.batch_min_s:
        _look_again(world, memory, memory.not_before, now)


def _due_at(world: World, since: float, now: Now) -> float:
    """When everything is put into a batch that has waited `since` then, by the monotonic clock."""
    (count, first), rules = tasks.waiting(world), world.rules
    enough = rules.batch_tasks if _under_way(world) else min(rules.first_tasks, rules.batch_tasks)
    if count >= enough:
        return now.mono
    few = count < rules.few_tasks and not tasks.rounds_wait(world)
    until = since + (max(rules.batch_s, rules.few_s) if few else rules.batch_s)
    return min(now.mono + first - now.chain - rules.receipt_margin_s, until)


def _under_way(world: World) -> bool:
    """Whether the newest batch has no verdicts yet."""
    newest = world.rows.batches.get(world.memory(Memory).newest)
    return newest is not None and newest.state in UNJUDGED


def _company_comes(world: World, memory: Memory, waiting: Collection[JobId], now: Now) -> bool:
    """Whether jobs that wait wait for more: each batch costs gas, each job in it less. Not where nodes idle for want of
    verdicts, nor where nobody works, be it for a job that is being taken, nor where no batch holds more, nor longer
    than the rules say."""
    if not tasks.anybody_works(world) or any(tasks.starves(world, job) for job in waiting):
        return False
    if len(waiting) >= MAX_LINES:
        return False
    if not memory.company:
        memory.alone_since = memory.joined_at = now.mono
    rules = world.rules
    if jobs.cannot_commit_yet(world, now):
        memory.company, memory.joined_at = len(waiting), now.mono + rules.come_again_s
    elif len(waiting) > memory.company:
        memory.company, memory.joined_at = len(waiting), max(memory.joined_at, now.mono)
    return now.mono < min(memory.joined_at + rules.company_gap_s, memory.alone_since + rules.company_s)


def _look_again(world: World, memory: Memory, at: float, now: Now) -> None:
    """Have `form` look at a time by the monotonic clock, with one timer for all that it waits for."""
    if not now.mono < memory.alarm <= at + SLACK_S:
        memory.alarm = at + SLACK_S
        world.wake_at(memory.alarm, ("batches", "clock"))


def _fitting(world: World, memory: Memory, waiting: Sequence[Work], now: Now) -> list[Work]:
    """The oldest works that a batch can hold: no task twice, no more jobs than the contract takes, none with others
    that is to be apart, no more units of a job than it has free on chain, nor a larger budget than this verifier's
    stake backs now. What rests on a work comes after it, and after the batch of the decoy beside it; what comes after a
    work that waits for units waits too. What no batch can hold any more is given up, with its job."""
    chosen: list[Work] = []
    later: set[JobId] = set()
    keys: set[TaskKey] = set()
    free: dict[JobId, int] = {}
    budgets: dict[JobId, int] = {}
    budget = 0
    held: Counter[JobId] = Counter()
    order = tasks.Order(world, waiting)
    size = 0
    for work in waiting:
        if len(chosen) >= world.rules.batch_tasks or size > MAX_LIST_BYTES:
            break
        world.about = (work.job,)
        job, key = world.rows.jobs[work.job], (work.job, work.task)
        if now.chain >= jobs.commits_end(world, job):
            tasks.lost(world, work, "its time for commits is over", now)
            jobs.fail(world, job.id, "it takes no more work: its time for commits is over", now)
            continue
        units = tasks.units(world, work)
        if units > job.units - job.units_paid:
            tasks.lost(world, work, "its units are paid already", now)
            continue
        if job.id in later or (job.id not in free and not _may_join(memory, job.id, free)):
            continue
        left = free.setdefault(job.id, job.units - job.units_open - job.units_paid - memory.reserved[job.id])
        if key in keys or units > left:
            later.add(job.id)
            continue
        if order.has_to_wait(work):
            continue
        grown = backing.budget(world, job, held[job.id] + units)
        more = grown - budgets.get(job.id, 0)
        unbacked = backing.for_batch(world, budget + more)
        if unbacked:
            if not chosen:
                memory.unbacked = job.id
                jobs.say(world, job, f"its commitments wait for their batch: {unbacked}", now)
            break
        order.place(work)
        free[job.id] = left - units
        budgets[job.id] = grown
        budget += more
        held[job.id] += units
        keys.add(key)
        size += len(work.submission)
        chosen.append(work)
    return chosen


def _may_join(memory: Memory, job: JobId, others: Collection[JobId]) -> bool:
    """Whether a job can come into a batch with these."""
    alone = job in memory.apart or not memory.apart.isdisjoint(others)
    return not others if alone else len(others) < MAX_LINES


def _certified_once(marked: Sequence[tuple[Member, bytes]]) -> list[tuple[Member, bytes]]:
    """The members of a list, each certificate with the first task alone that came with it."""
    seen: set[tuple[JobId, Certificate]] = set()
    once = []
    for member, salt in marked:
        job, certificate = member.commitment.job, member.certificate
        if certificate is not None and (job, certificate) in seen:
            member = msgspec.structs.replace(member, certificate=None)
        elif certificate is not None:
            seen.add((job, certificate))
        once.append((member, salt))
    return once


def _form(world: World, memory: Memory, works: Sequence[Work], now: Now) -> None:
    works = sorted(works, key=lambda work: (work.job, work.task))
    units: Counter[JobId] = Counter()
    for work in works:
        units[work.job] += tasks.units(world, work)
    marked = _certified_once([shown(work) for work in works])
    leaves = [m.commitment.struct_hash() if w.decoy else w.leaf for w, (m, _) in zip(works, marked, strict=True)]
    batch = Batch(
        id=world.new_row(),
        root=merkle.root(leaves),
        members=encode_members([member for member, _ in marked]),
        salts=encode([salt for _, salt in marked]),
        lines=tuple(sorted(units.items())),
        claimed_by=world.rules.process,
    )
    world.rows.add(batch)
    memory.newest = batch.id
    true = [work for work in works if not work.decoy]
    for work in works:
        if work.decoy:
            world.rows.put_decoy_into(work, batch.id)
    for work in true:
        work.state = WorkState.BATCHED
        world.rows.put_into(work, batch.id)
    tasks.batched(world, true)
    tasks.decoys_batched(world, [work for work in works if work.decoy], now)
    memory.reserved.update(units)
    backing.formed(world, batch)
    if memory.unbacked is not None and memory.unbacked in units:
        jobs.say_nothing(world, memory.unbacked)
        memory.unbacked = None
    for job, count in Counter(work.job for work in works).items():
        world.log(job, now, "batch", f"batch of {len(works)} commitments formed, {count} of this job")
    world.want(CommitBatch(batch.id, batch.root))


# On chain


def committed(world: World, batch: Batch, chain_id: int, block: int, now: Now) -> None:
    """Its root is on chain."""
    world.done(CommitBatch(batch.id, batch.root).key)
    batch.commit_block = block
    backing.committed(world, batch)
    _unreserve(world, batch)
    world.rows.bind(batch, chain_id)  # type: ignore[arg-type]
    batch.state = BatchState.COMMITTED
    log_batch(world, batch, now, "batch", f"batch {chain_id}: root of {_size(world, batch)} commitments on chain")
    world.want(Draw(batch.id, world.forks))


def uncommitted(world: World, batch: Batch, now: Now) -> None:
    """Its commit went with a block: it is sent again."""
    audits.end(world, batch)
    for effect in (
        Draw(batch.id, world.forks),
        Settle(batch.id, batch.attempt),
        ReadRecord(batch.id, batch.attempt, world.forks),
    ):
        world.done(effect.key)
    unsettled(world, batch, now)
    if not world.rows.works_of[batch.id] and not world.rows.decoys_in.get(batch.id):
        # It was taken over: whoever made it sends it again.
        world.rows.bind(batch, None)
        dropped(world, batch, "its commit went with a block, and it is another verifier's to send", now)
        return
    world.rows.bind(batch, None)
    batch.state, batch.commit_block, batch.attempt = BatchState.FORMED, 0, 0
    world.memory(Memory).reserved.update(dict(batch.lines))
    backing.formed(world, batch)
    world.want(CommitBatch(batch.id, batch.root))


def dissolve(world: World, job: JobId, now: Now) -> None:
    """The job is another one: a batch with work for what it was, and that is not on chain, is given up, and what else
    it holds is put into others."""
    for batch in [b for b in world.rows.batches.values() if b.state == BatchState.FORMED]:
        if any(job == line for line, _ in batch.lines):
            _dissolve(world, batch, f"job {job} is another one after a reorganisation of the chain")
            _over(world, batch, now)


def _dissolve(world: World, batch: Batch, reason: str) -> None:
    """A batch that is not on chain is none: its works wait for others."""
    world.done(CommitBatch(batch.id, batch.root).key)
    _unreserve(world, batch)
    batch.state, batch.reason = BatchState.DROPPED, reason
    world.rows.touch(batch)
    tasks.unbatch(world, batch)


def forget_reads(world: World, batch: Batch) -> None:
    """What the chain is being asked about a batch is of a chain that is no more."""
    world.done(Draw(batch.id, world.forks).key)
    world.done(ReadRecord(batch.id, batch.attempt, world.forks).key)


def read_again(world: World, batch: Batch) -> None:
    """A batch that a reorganisation left where it was: what was being asked about it is asked again."""
    if batch.state == BatchState.COMMITTED:
        world.want(Draw(batch.id, world.forks))
    elif batch.state == BatchState.SETTLED and _unread(world, batch):
        world.want(ReadRecord(batch.id, batch.attempt, world.forks))
    settle_maybe(world, batch)


def _unread(world: World, batch: Batch) -> bool:
    waiting = any(work.state == WorkState.BATCHED for work in world.rows.works_of[batch.id])
    return waiting or any(
        work.decoy and work.state == WorkState.COMMITTED for work in world.rows.decoys_in.get(batch.id, ())
    )


def undrawn(world: World, batch: Batch) -> None:
    """Its draw's block is another one: the plan is drawn again."""
    audits.end(world, batch)
    world.done(Draw(batch.id, world.forks).key)
    world.done(Settle(batch.id, batch.attempt).key)
    batch.state = BatchState.COMMITTED
    world.rows.touch(batch)
    world.want(Draw(batch.id, world.forks))


def drawn(world: World, event: Drawn, now: Now) -> None:
    batch = world.rows.batches.get(event.batch)
    if batch is None or batch.state != BatchState.COMMITTED or event.fork != world.forks:
        return
    if event.commit_block != batch.commit_block:
        # The draw has moved meanwhile.
        world.failed(Draw(batch.id, world.forks).key, now)
        return
    world.done(Draw(batch.id, world.forks).key)
    if batch.seed != event.seed:
        # What was answered is keyed with another seed.
        audits.clear(world, batch)
    batch.state, batch.seed, batch.counted = BatchState.AUDITING, event.seed, event.counted
    batch.drawn_at, batch.opened_at = event.drawn_at, event.opened_at
    batch.results_due = tuple(member.key for member in decode_members(batch.members))
    world.rows.touch(batch)
    text = f"batch {batch.chain_id}: {len(event.segments)} segments drawn for audit, {event.skipped} tasks skipped"
    log_batch(world, batch, now, "drawn", text)
    audits.create(world, batch, event.segments, decoys_of(batch))
    audits.begin(world, batch, now)
    _ask_marks(world, batch)
    _look_at_results(world, batch)
    judged_maybe(world, batch, now)


def _ask_marks(world: World, batch: Batch) -> None:
    """Workers give what opens their marks with their commitments, and to nobody else as long as they need not."""
    if not batch.salts:
        world.want(AskMarks(batch.id))


def marks_told(world: World, event: MarksTold, now: Now) -> None:
    """What auditors answered to what turns out to be a decoy says something else now."""
    batch = world.rows.batches.get(event.batch)
    world.done(AskMarks(event.batch).key)
    if batch is None or batch.state in OVER:
        return
    before = decoys_of(batch)
    batch.salts = encode(list(event.salts))
    world.rows.touch(batch)
    if batch.state == BatchState.AUDITING:
        audits.mark_decoys(world, batch, decoys_of(batch) - before, now)
    judged_maybe(world, batch, now)


def _look_at_results(world: World, batch: Batch) -> None:
    world.memory(Memory).due[batch.id] = set(batch.results_due)
    for key in batch.results_due:
        world.want(LookAtResult(batch.id, key))


def result_looked(world: World, event: ResultLooked, now: Now) -> None:
    batch = world.rows.batches.get(event.batch)
    world.done(LookAtResult(event.batch, event.key).key)
    due = world.memory(Memory).due.get(event.batch, set())
    if batch is None or event.key not in due:
        return
    due.discard(event.key)
    if not due:
        batch.results_due = ()
        world.rows.touch(batch)
    # A decoy's result is looked at like others, so that nothing shows which it is, and is nobody's fault.
    if event.kind and event.key not in decoys_of(batch):
        node = next(m.commitment.node for m in decode_members(batch.members) if m.key == event.key)
        job, task = event.key
        world.log(job, now, "fault", f"task {task} by this node is faulty: {event.reason}", task=task, node=node)
        world.rows.add(_fault(world, batch, node, event))
    judged_maybe(world, batch, now)


def _fault(world: World, batch: Batch, node: Address, event: ResultLooked) -> Fault:
    """Its owner is that of the work; of a batch that was taken over the record says it."""
    work = next((w for w in world.rows.works_of[batch.id] if (w.job, w.task) == event.key), None)
    job, task = event.key
    return Fault(
        batch=batch.id,
        job=job,
        task=task,
        node=node,
        owner=Address("") if work is None else work.owner,
        operator=0,
        kind=event.kind,
        reason=event.reason,
    )


def judged_maybe(world: World, batch: Batch, now: Now) -> None:
    """Every drawn segment has its verdict and every result was looked at: the batch is judged."""
    if batch.state != BatchState.AUDITING or batch.results_due or audits.undecided(world, batch):
        return
    if not batch.salts or world.wanted(AskMarks(batch.id).key):
        return
    batch.state = BatchState.JUDGED
    world.rows.touch(batch)
    audits.end(world, batch)
    settle_maybe(world, batch)


def settle_maybe(world: World, batch: Batch) -> None:
    """Settle a judged batch, once those are settled on whose results its works rest: until then nobody can say whether
    these are the accepted ones."""
    if batch.state != BatchState.JUDGED:
        return
    before = {other for other in tasks.rests_on(world, batch) if _is_waited_for(world, world.rows.batches[other])}
    before.discard(batch.id)
    if before:
        world.memory(Memory).after[min(before)].add(batch.id)
    else:
        world.want(Settle(batch.id, batch.attempt))


def _is_waited_for(world: World, batch: Batch) -> bool:
    """Whether a batch will be settled without others being settled first. After a reorganisation the units that it
    needs may be held by what rests on it: then that is settled, as stale, and done again."""
    if batch.state in OVER:
        return False
    if batch.state != BatchState.FORMED:
        return True
    jobs_ = ((world.rows.jobs.get(job), units) for job, units in batch.lines)
    return all(job is not None and units <= job.units - job.units_open - job.units_paid for job, units in jobs_)


def not_committed(world: World, row: int) -> None:
    """A batch's commit did not come to anything this time."""
    _let_settle(world, row)


def signed(world: World, event: Signed, now: Now) -> None:
    batch = world.rows.batches.get(event.batch)
    if batch is not None and batch.state == BatchState.JUDGED:
        batch.state, batch.record = BatchState.SIGNED, event.record
        world.rows.touch(batch)


def looks_due(world: World, event: LooksDue, now: Now) -> None:
    """Signers know more than this verifier did: the plan is drawn again with their member lists, or what they could
    reach is judged again."""
    batch = world.rows.batches.get(event.batch)
    if batch is None or batch.state not in (BatchState.JUDGED, BatchState.SIGNED):
        return
    world.done(Settle(batch.id, batch.attempt).key)
    world.rows.touch(batch)
    if event.redraw:
        batch.state = BatchState.COMMITTED
        world.want(Draw(batch.id, world.forks))
        return
    batch.state = BatchState.AUDITING
    for key in event.results:
        for fault in [f for f in world.rows.faults.values() if f.batch == batch.id and (f.job, f.task) == key]:
            if fault.segment < 0:
                world.rows.delete(fault)
    batch.results_due = event.results
    audits.begin(world, batch, now)
    audits.retake(world, batch, event.places, now)
    audits.shown(world, batch, event.shown, now)
    if event.marks:
        world.want(AskMarks(batch.id))
    _look_at_results(world, batch)
    judged_maybe(world, batch, now)


def record_refused(world: World, event: RecordRefused, now: Now) -> None:
    """The record that follows from the rows does not hold: everything that it says is judged again, from the draw on,
    later each time. What was judged by a wrong time, or by a chain that is no more, does not stay so."""
    batch = world.rows.batches.get(event.batch)
    if batch is None or batch.state != BatchState.JUDGED:
        return
    key, refused = Settle(batch.id, batch.attempt).key, world.memory(Memory).refused
    delayed(world, EffectFailed(key, event.reason), now)
    world.done(key)
    for fault in [f for f in world.rows.faults.values() if f.batch == batch.id and f.segment < 0]:
        world.rows.delete(fault)
    audits.judge_again(world, batch)
    batch.state = BatchState.COMMITTED
    world.rows.touch(batch)
    refused[batch.id] += 1
    world.wake_at(now.mono + backoff(refused[batch.id]), ("batches", "draw", batch.id))


def settled(world: World, batch: Batch, attempt: int, block: int, claimable_at: int, now: Now) -> None:
    """A settlement of it is on chain, this verifier's or another's: its record is read before anything follows."""
    audits.end(world, batch)
    world.done(Settle(batch.id, batch.attempt).key)
    batch.state = BatchState.SETTLED
    batch.attempt, batch.settled_block, batch.claimable_at = attempt, block, claimable_at
    world.rows.touch(batch)
    world.want(ReadRecord(batch.id, attempt, world.forks))


def record_settled(world: World, event: RecordSettled, now: Now) -> None:
    """What the record of a settlement means for the tasks of this verifier's jobs."""
    batch = world.rows.batches.get(event.batch)
    if batch is None or batch.state != BatchState.SETTLED or event.fork != world.forks:
        return
    if batch.settled_block != event.settled_block:
        # It was settled again meanwhile.
        world.failed(ReadRecord(batch.id, batch.attempt, world.forks).key, now)
        return
    world.done(ReadRecord(batch.id, batch.attempt, world.forks).key)
    batch.record, batch.reason = event.record, ""
    world.rows.touch(batch)
    text = f"batch {batch.chain_id}: {event.paid / 1e18:.4f} to {event.operators} operators"
    log_batch(world, batch, now, "settled", text)
    _note_faults(world, batch, event, now)
    works = {(work.job, work.task): work for work in world.rows.works_of[batch.id]}
    audited = {(segment.job, segment.task) for segment in world.rows.segments_of[batch.id]}
    dissenters = dict(event.dissenters)
    for held in list(world.rows.decoys_in.get(batch.id, ())):
        _decoy_settled(world, held, event, now)
    for key, outcome, reason in event.outcomes:
        world.about = (key[0],)
        work = works.get(key)
        if work is None or work.state == WorkState.SETTLED:
            continue
        work.state, work.outcome = WorkState.SETTLED, outcome
        world.rows.touch(work)
        if outcome in ("accepted", "repeated"):
            text = "audited and valid" if key in audited else "valid, not drawn"
            world.log(work.job, now, "valid", text, task=work.task, node=work.node)
            (tasks.accepted if outcome == "accepted" else tasks.repeated)(world, work, now)
        else:
            tasks.refuted(world, work, outcome, reason, dissenters.get(key, ()), now)
    _over(world, batch, now)
    for job, _ in batch.lines:
        if job in world.rows.jobs:
            jobs.check_done(world, job, now)


def _decoy_settled(world: World, work: Work, event: RecordSettled, now: Now) -> None:
    """The record has opened a decoy: the commitment itself follows, whatever became of its worker."""
    outcome = next((o for key, o, _ in event.outcomes if key == (work.job, work.task)), "")
    if work.decoy:
        text = "a decoy, which was opened; the commitment itself follows"
        world.log(work.job, now, "decoy", text, task=work.task, node=work.node)
    tasks.decoy_over(world, work, now, caught=outcome == "unpaid")


def _note_faults(world: World, batch: Batch, event: RecordSettled, now: Now) -> None:
    for (job, task), node, _, _, _, kind, reason in {fault[1]: fault for fault in reversed(event.faults)}.values():
        name, cost = ("unpaid", "no pay") if kind == FaultReason.DISAGREED else ("slashed", "stake frozen")
        world.log(job, now, name, f"{cost}: {reason}", task=task, node=node)
    for fault in [fault for fault in world.rows.faults.values() if fault.batch == batch.id]:
        world.rows.delete(fault)
    for (job, task), node, owner, operator, segment, kind, reason in event.faults:
        world.rows.add(
            Fault(
                batch=batch.id,
                job=job,
                task=task,
                node=node,
                owner=owner,
                operator=operator,
                segment=segment,
                kind=kind,
                reason=reason,
            )
        )


def _over(world: World, batch: Batch, now: Now) -> None:
    """Nothing of it is in flight any more: who waited for it goes on."""
    world.memory(Memory).due.pop(batch.id, None)
    world.memory(Memory).refused.pop(batch.id, None)
    _let_settle(world, batch.id)


def _let_settle(world: World, row: int) -> None:
    """Those that waited for a batch go on. One that others settled may have left the memory."""
    for other in sorted(world.memory(Memory).after.pop(row, ())):
        if other in world.rows.batches:
            settle_maybe(world, world.rows.batches[other])


def unsettled(world: World, batch: Batch, now: Now) -> None:
    """Its settlement went with a block or was voided: its works wait for a verdict again."""
    if batch.state in (BatchState.SETTLED, BatchState.FINAL):
        batch.state, batch.settled_block, batch.claimable_at = BatchState.JUDGED, 0, 0
        for work in list(world.rows.works_of[batch.id]):
            if work.state == WorkState.SETTLED:
                work.state, outcome = WorkState.BATCHED, work.outcome
                work.outcome = ""
                world.rows.touch(work)
                tasks.unaccept(world, work, outcome, now)
    elif batch.state == BatchState.SIGNED:
        batch.state = BatchState.JUDGED
    world.rows.touch(batch)


def voided(world: World, batch: Batch, attempt: int, now: Now) -> None:
    """A challenge found its settlement wrong, or no jury could decide: first whoever led it takes it again."""
    led = batch.state != BatchState.TAKEN
    world.done(Settle(batch.id, batch.attempt).key)
    unsettled(world, batch, now)
    batch.attempt, batch.record = attempt, None
    if led:
        world.want(TakeBatch(batch.chain_id, attempt))  # type: ignore[arg-type]
    else:
        batch.state = BatchState.TAKEN


def taken(world: World, batch: Batch, attempt: int, now: Now, *, own: bool) -> None:
    """Somebody leads it from now on, in a new attempt."""
    world.done(TakeBatch(batch.chain_id, batch.attempt).key)  # type: ignore[arg-type]
    world.done(Settle(batch.id, batch.attempt).key)
    batch.attempt = attempt
    world.rows.touch(batch)
    if not own:
        if batch.state != BatchState.TAKEN:
            audits.end(world, batch)
            batch.state = BatchState.TAKEN
            log_batch(world, batch, now, "batch", f"batch {batch.chain_id} is led by another verifier now")
        return
    if batch.state == BatchState.TAKEN:
        batch.state = BatchState.COMMITTED
        world.want(Draw(batch.id, world.forks))
    settle_maybe(world, batch)


def adopted(world: World, event: Adopted, now: Now) -> None:
    """A batch that another verifier left is led here from now on."""
    batch = world.rows.by_chain_id.get(event.chain_id)
    if batch is not None:
        taken(world, batch, event.attempt, now, own=True)
        return
    batch = Batch(
        id=world.new_row(),
        state=BatchState.COMMITTED,
        root=event.root,
        members=event.members,
        lines=event.lines,
        attempt=event.attempt,
        commit_block=event.commit_block,
        claimed_by=world.rules.process,
    )
    world.rows.add(batch)
    world.rows.bind(batch, event.chain_id)
    log_batch(world, batch, now, "batch", f"batch {event.chain_id} was taken over: it was left unsettled")
    world.want(Draw(batch.id, world.forks))


def dropped(world: World, batch: Batch, reason: str, now: Now) -> None:
    """It comes to nothing: its tasks are done again."""
    audits.end(world, batch)
    for effect in (Draw(batch.id, world.forks), Settle(batch.id, batch.attempt), CommitBatch(batch.id, batch.root)):
        world.done(effect.key)
    _unreserve(world, batch)
    trouble, batch.state, batch.reason = batch.reason, BatchState.DROPPED, reason
    world.rows.touch(batch)
    log_batch(world, batch, now, "dropped", reason)
    for work in list(world.rows.decoys_in.get(batch.id, ())):
        tasks.decoy_over(world, work, now)
    for work in list(world.rows.works_of[batch.id]):
        if work.state == WorkState.BATCHED:
            work.state, work.outcome = WorkState.LOST, "dropped"
            world.rows.touch(work)
            tasks.refuted(world, work, "dropped", reason, (), now)
    _over(world, batch, now)
    if trouble:
        _blame(world, batch, trouble, now)


def _blame(world: World, batch: Batch, trouble: str, now: Now) -> None:
    """A batch that came to nothing because of something that was tried in vain: its jobs are tried one by one, and one
    that meets errors of this verifier's own by itself is stopped."""
    troubled = world.memory(Memory).troubled
    if len(batch.lines) > 1:
        _set_apart(world, batch)
    elif batch.id in troubled:
        for job, _ in batch.lines:
            jobs.fail(world, job, f"its batch cannot be settled: {trouble}", now)
    troubled.discard(batch.id)


def _set_apart(world: World, batch: Batch) -> None:
    memory = world.memory(Memory)
    memory.apart = {job for job in memory.apart if job in world.rows.jobs} | {job for job, _ in batch.lines}


def final(world: World, batch: Batch, now: Now) -> None:
    """Its window has closed: nobody is owed its states any more. Not before its record is read: what follows from that
    is not known yet."""
    if batch.state == BatchState.SETTLED and not _unread(world, batch):
        batch.state = BatchState.FINAL
        world.rows.touch(batch)
        tasks.final(world, world.rows.works_of.get(batch.id, ()))
        world.wake_at(now.mono + FORGET_S, ("batches", "forget", batch.id))


def _forget(world: World, batch: Batch, now: Now) -> None:
    """What is final leaves the memory once no block that goes can take its settlement along."""
    if now.block < batch.settled_block + DEEP_BLOCKS:
        world.wake_at(now.mono + FORGET_S, ("batches", "forget", batch.id))
    else:
        world.rows.forget_batch(batch)


def _unreserve(world: World, batch: Batch) -> None:
    if batch.state == BatchState.FORMED:
        reserved = world.memory(Memory).reserved
        for job, units in batch.lines:
            reserved[job] -= units
            if not reserved[job]:
                del reserved[job]
        backing.not_formed(world, batch)


# The engine's calls


def resume(world: World, now: Now) -> None:
    memory = world.memory(Memory)
    for batch in list(world.rows.batches.values()):
        world.about = tuple(job for job, _ in batch.lines)
        match batch.state:
            case BatchState.FORMED:
                memory.reserved.update(dict(batch.lines))
                backing.formed(world, batch)
                world.want(CommitBatch(batch.id, batch.root))
            case BatchState.COMMITTED:
                world.want(Draw(batch.id, world.forks))
            case BatchState.AUDITING:
                _look_at_results(world, batch)
                _ask_marks(world, batch)
                judged_maybe(world, batch, now)
            case BatchState.JUDGED | BatchState.SIGNED:
                batch.state = BatchState.JUDGED
                settle_maybe(world, batch)
            case BatchState.SETTLED if _unread(world, batch):
                world.want(ReadRecord(batch.id, batch.attempt, world.forks))


def wake(world: World, subject: tuple[object, ...], now: Now) -> None:
    """The clock is nothing to do for here: `form` looks at it in every step."""
    match subject:
        case ("draw", int(row)):
            batch = world.rows.batches.get(row)
            if batch is not None and batch.state == BatchState.COMMITTED:
                world.want(Draw(batch.id, world.forks))
        case ("forget", int(row)):
            batch = world.rows.batches.get(row)
            if batch is not None and batch.state == BatchState.FINAL:
                _forget(world, batch, now)


def delayed(world: World, event: EffectFailed, now: Now) -> None:
    """What a batch waits for is tried again later: say why."""
    name, *subject = event.key
    batch = world.rows.batches.get(subject[0]) if subject and name in OF_BATCHES else None  # type: ignore[call-overload]
    if batch is None or not world.wanted(event.key):
        return
    troubled = world.memory(Memory).troubled
    if event.own and batch.id not in troubled:
        troubled.add(batch.id)
        log_batch(world, batch, now, "trouble", f"batch {batch.chain_id}: {event.reason[:MAX_REASON]}; tried again")
    if batch.reason != event.reason[:MAX_REASON]:
        batch.reason = event.reason[:MAX_REASON]
        world.rows.touch(batch)


def effect_failed(world: World, event: EffectFailed, now: Now) -> None:
    """What the chain does not take any more is put into other batches as far as that can be, each job for itself; what
    this verifier fails to look at is left to auditors and signers. Everything else is tried again for ever."""
    name, *subject = event.key
    batch = world.rows.batches.get(subject[0]) if subject and name in OF_BATCHES else None  # type: ignore[call-overload]
    if batch is None:
        return
    if name == "CommitBatch" and batch.state == BatchState.FORMED:
        _take_apart(world, batch, event, now)
    elif name in ("LookAtState", "LookAtResult"):
        log_batch(world, batch, now, "trouble", f"batch {batch.chain_id}: {event.reason[:MAX_REASON]}; left to others")
    if name == "LookAtResult":
        result_looked(world, ResultLooked(batch.id, subject[1]), now)  # type: ignore[arg-type]


def _take_apart(world: World, batch: Batch, failed: EffectFailed, now: Now) -> None:
    """A batch that cannot be committed: its jobs are tried one by one. That of a single job is given up, with the job
    where it is this verifier that fails."""
    if len(batch.lines) > 1:
        _set_apart(world, batch)
        _dissolve(world, batch, failed.reason)
        _over(world, batch, now)
        return
    dropped(world, batch, failed.reason, now)
    for job, _ in batch.lines if failed.own else ():
        jobs.fail(world, job, f"what is done for it cannot be committed: {failed.reason}", now)


def log_batch(world: World, batch: Batch, now: Now, kind: str, text: str) -> None:
    """A line in the log of each job of a batch."""
    for job, _ in batch.lines:
        if job in world.rows.jobs:
            world.log(job, now, kind, text)


def _size(world: World, batch: Batch) -> int:
    return len(world.rows.works_of[batch.id]) + len(world.rows.decoys_in.get(batch.id, ()))


def faulty_owners(world: World) -> set[Address]:
    """Owners with a fault that costs stake: none of their nodes gets work."""
    return {fault.owner for fault in world.rows.faults.values() if fault.kind != FaultReason.DISAGREED}


__all__ = ["OVER", "Verdict", "form"]
