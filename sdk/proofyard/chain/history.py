"""The past of a Registry, from its events: who had which key, stake, reputation and seat at any block, and what became
of each batch. Any node that keeps its logs will do; none has to keep old states.

A `History` is fed events in the order of the log, with the rollbacks between them, and answers for every block that was
read. `view` gathers what a batch's record is held against.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import singledispatchmethod

from proofyard.chain.errors import EventsMissing, NotDrawn
from proofyard.chain.events import (
    Absolved,
    BatchCommitted,
    BatchDrawn,
    BatchDropped,
    BatchRecommitted,
    BatchSettled,
    BatchTaken,
    BatchVoided,
    Claimed,
    Event,
    Faulted,
    JobOpened,
    KeyRotated,
    OperatorRegistered,
    OperatorRetired,
    QuorumChanged,
    StakeChanged,
    VerifierKey,
)
from proofyard.chain.following import Rollback
from proofyard.chain.records import Params, Role
from proofyard.chain.timeline import Timeline, When, end_of, when
from proofyard.protocol.commitment import Domain
from proofyard.protocol.settlement import Header, Line, OperatorId, draw_seed, header_hash
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Wei
from proofyard.protocol.view import BatchView, JobFacts, OpenBatch, OperatorFacts, Seat

LATELY_BLOCKS = 512
"""Which batches were open is asked of the last blocks, nearly always."""


@dataclass(frozen=True)
class BlockFacts:
    """What a block's header says: its hash, and its time in Unix seconds."""

    number: int
    hash: Digest
    time: int


@dataclass(frozen=True)
class Registered:
    """What an operator is for life."""

    owner: Address
    role: Role


@dataclass(frozen=True)
class Standing:
    """What became of a batch. Not open and without a record: dropped. `voidings` counts its settlements that were
    voided."""

    open: bool
    voidings: int
    record: Cid | None = None


@dataclass(frozen=True)
class Leading:
    """An attempt at a batch: who leads it, its lines with the budgets that are reserved, the version of the quorum that
    settles it, and how many settlements of the batch had been voided before."""

    leader: OperatorId
    lines: tuple[Line, ...]
    quorum: int
    attempt: int
    voidings: int


class History:
    """Everything that the events up to block `read_to` say; -1 where nothing was read yet. Not safe for use from
    several threads at once."""

    def __init__(self, domain: Domain, params: Params) -> None:
        self._domain = domain
        self._params = params
        self.read_to = -1
        self.rollbacks = 0
        self._last: When = (-1, -1)
        self._operators: Timeline[OperatorId, Registered] = Timeline()
        self._listed: Timeline[OperatorId, bool] = Timeline()
        self._keys: Timeline[OperatorId, Address] = Timeline()
        self._reputation: Timeline[OperatorId, int] = Timeline()
        self._known_keys: Timeline[Address, OperatorId] = Timeline()
        self._stakes: Timeline[Address, Wei] = Timeline()
        self._holders: Timeline[int, OperatorId] = Timeline()
        self._seats: Timeline[OperatorId, int] = Timeline()
        self._quorums: Timeline[int, int] = Timeline()
        self._jobs: Timeline[JobId, JobFacts] = Timeline()
        self._of_job: Timeline[JobId, BatchId] = Timeline()
        self._commits: Timeline[BatchId, BatchCommitted] = Timeline()
        self._commit_blocks: Timeline[BatchId, int] = Timeline()
        self._seeds: Timeline[BatchId, Digest] = Timeline()
        self._leading: Timeline[BatchId, Leading] = Timeline()
        self._standing: Timeline[BatchId, Standing] = Timeline()
        self._settled: Timeline[BatchId, BatchSettled] = Timeline()
        self._lately_open: dict[BatchId, None] = {}
        """The batches that are open, or were after block `_swept`; of older blocks all are looked at."""
        self._swept = -1

    # Reading

    def apply(self, events: Iterable[Event | Rollback], read_to: int) -> None:
        """Take in the next events; after them everything up to block `read_to` is known. Events that were taken in
        before change nothing."""
        for event in events:
            if isinstance(event, Rollback):
                self._undo(event.to_block)
            elif when(event.position) > self._last:
                self._last = when(event.position)
                self._fold(event)
        self.read_to = read_to
        if read_to >= self._swept + 2 * LATELY_BLOCKS:
            self._sweep(read_to - LATELY_BLOCKS)

    def _sweep(self, block: int) -> None:
        """Look no more at batches that have been over since a block: there are ever more of them."""
        self._swept = block
        for batch in list(self._lately_open):
            then, now = (self._standing.at(batch, end_of(until)) for until in (block, self.read_to))
            if now is None or (then is now and not now.open):
                del self._lately_open[batch]

    def _undo(self, block: int) -> None:
        for value in vars(self).values():
            if isinstance(value, Timeline):
                value.undo(block)
        if block < self._swept:
            self._swept, self._lately_open = -1, {batch: None for batch, _ in self._standing.known(end_of(block))}
        self.rollbacks += 1
        self.read_to = min(self.read_to, block)
        self._last = min(self._last, end_of(block))

    @singledispatchmethod
    def _fold(self, event: Event) -> None:
        """Kinds of events that change nothing here."""

    @_fold.register
    def _(self, event: OperatorRegistered) -> None:
        at = when(event.position)
        if self._operators.at(event.operator, at) is None:
            self._operators.put(event.operator, at, Registered(event.owner, Role(event.role)))
        self._listed.put(event.operator, at, True)
        self._set_key(event.operator, at, event.key)

    @_fold.register
    def _(self, event: KeyRotated) -> None:
        self._set_key(event.operator, when(event.position), event.key)

    def _set_key(self, operator: OperatorId, at: When, key: Address) -> None:
        self._keys.put(operator, at, key)
        if self._known_keys.at(key, at) is None:
            self._known_keys.put(key, at, operator)

    @_fold.register
    def _(self, event: OperatorRetired) -> None:
        at = when(event.position)
        self._listed.put(event.operator, at, False)
        slot = self._seats.at(event.operator, at)
        if slot is not None and self._holders.at(slot, at) == event.operator:
            self._holders.put(slot, at, OperatorId(0))

    @_fold.register
    def _(self, event: VerifierKey) -> None:
        at = when(event.position)
        self._holders.put(event.slot, at, event.operator)
        self._seats.put(event.operator, at, event.slot)

    @_fold.register
    def _(self, event: QuorumChanged) -> None:
        self._quorums.put(event.version, when(event.position), event.seats)

    @_fold.register
    def _(self, event: StakeChanged) -> None:
        self._stakes.put(event.owner, when(event.position), event.stake)

    @_fold.register
    def _(self, event: Claimed | Absolved) -> None:
        self._reputation.put(event.operator, when(event.position), event.consecutive_valid)

    @_fold.register
    def _(self, event: Faulted) -> None:
        self._reputation.put(event.operator, when(event.position), 0)

    @_fold.register
    def _(self, event: JobOpened) -> None:
        facts = {name: getattr(event, name) for name in JobFacts.__dataclass_fields__}
        self._jobs.put(event.job, when(event.position), JobFacts(**facts))

    @_fold.register
    def _(self, event: BatchCommitted) -> None:
        at = when(event.position)
        self._commits.put(event.batch, at, event)
        self._commit_blocks.put(event.batch, at, event.position.block)
        self._leading.put(event.batch, at, Leading(event.verifier, event.lines, event.quorum, 0, 0))
        self._standing.put(event.batch, at, Standing(True, 0))
        self._lately_open[event.batch] = None
        for line in event.lines:
            self._of_job.put(line.job, at, event.batch)

    @_fold.register
    def _(self, event: BatchRecommitted) -> None:
        self._commit_blocks.put(event.batch, when(event.position), event.commit_block)

    @_fold.register
    def _(self, event: BatchDrawn) -> None:
        self._seeds.put(event.batch, when(event.position), event.seed)

    @_fold.register
    def _(self, event: BatchTaken) -> None:
        at = when(event.position)
        voidings = self._voidings(event.batch, at)
        self._leading.put(event.batch, at, Leading(event.verifier, event.lines, event.quorum, event.attempt, voidings))

    @_fold.register
    def _(self, event: BatchSettled) -> None:
        at = when(event.position)
        self._standing.put(event.batch, at, Standing(False, self._voidings(event.batch, at), event.record))
        self._settled.put(event.batch, at, event)

    @_fold.register
    def _(self, event: BatchVoided) -> None:
        at = when(event.position)
        self._standing.put(event.batch, at, Standing(True, self._voidings(event.batch, at) + 1))
        self._lately_open[event.batch] = None

    @_fold.register
    def _(self, event: BatchDropped) -> None:
        at = when(event.position)
        self._standing.put(event.batch, at, Standing(False, self._voidings(event.batch, at)))

    def _voidings(self, batch: BatchId, at: When) -> int:
        standing = self._standing.at(batch, at)
        if standing is None:
            raise EventsMissing(f"batch {batch}")
        return standing.voidings

    # Asking; `block`: after everything in it

    def stake(self, owner: Address, block: int) -> Wei:
        return self._stakes.at(owner, end_of(block)) or Wei(0)

    def reputation(self, operator: OperatorId, block: int) -> int:
        """`consecutive_valid` of an operator."""
        return self._reputation.at(operator, end_of(block)) or 0

    def seat_holder(self, slot: int, block: int) -> OperatorId | None:
        return self._holders.at(slot, end_of(block)) or None

    def nodes(self, block: int) -> tuple[OperatorFacts, ...]:
        """Every node that was registered until a block, retired ones included, by id."""
        at = end_of(block)
        registered = sorted(self._operators.known(at), key=lambda item: item[0])
        required = self._required(registered, at)
        return tuple(
            self._node(operator, known.owner, required[known.owner], at)
            for operator, known in registered
            if known.role == Role.NODE
        )

    def _required(self, registered: Iterable[tuple[OperatorId, Registered]], at: When) -> dict[Address, int]:
        """The stake that each owner's listed operators need."""
        required: dict[Address, int] = {}
        for operator, known in registered:
            one = self._params.node_stake if known.role == Role.NODE else self._params.verifier_stake
            listed = bool(self._listed.at(operator, at))
            required[known.owner] = required.get(known.owner, 0) + (one if listed else 0)
        return required

    def _node(self, operator: OperatorId, owner: Address, required: int, at: When) -> OperatorFacts:
        key, stake, listed = self._keys.at(operator, at), self._stakes.at(owner, at), self._listed.at(operator, at)
        assert key is not None, "an operator has a key from its registration on"
        return OperatorFacts(
            id=operator,
            node=key,
            owner=owner,
            consecutive_valid=self._reputation.at(operator, at) or 0,
            stake=stake or Wei(0),
            listed=bool(listed),
            active=bool(listed) and (stake or 0) >= required,
        )

    def owners(self, block: int) -> dict[Address, tuple[OperatorId, Address]]:
        """Of every hot key that was registered until a block, its operator and that one's owner."""
        at = end_of(block)
        return {key: (operator, self._owner(operator, at)) for key, operator in self._known_keys.known(at)}

    def _owner(self, operator: OperatorId, at: When) -> Address:
        known = self._operators.at(operator, at)
        if known is None:
            raise EventsMissing(f"operator {operator}")
        return known.owner

    def job(self, job: JobId) -> JobFacts:
        """The terms that a job was opened with. Raises `EventsMissing`."""
        facts = self._jobs.at(job, end_of(self.read_to))
        if facts is None:
            raise EventsMissing(f"job {job}")
        return facts

    def standing(self, batch: BatchId, block: int) -> Standing | None:
        """What had become of a batch; None before it was committed."""
        return self._standing.at(batch, end_of(block))

    def settlements(self, job: JobId) -> list[BatchSettled]:
        """The last settlement of each of a job's batches that had one, also where it was voided, in the order in which
        the batches were committed."""
        now = end_of(self.read_to)
        batches = dict.fromkeys(batch for _, batch in self._of_job.changes(job, now))
        return [event for batch in batches if (event := self._settled.at(batch, now)) is not None]

    def open_batches(self, block: int) -> tuple[OpenBatch, ...]:
        """The batches that were committed, and neither settled nor dropped, ascending; a voided one is open again."""
        at = end_of(block)
        looked_at = (
            [batch for batch, _ in self._standing.known(at)] if block < self._swept else sorted(self._lately_open)
        )
        standings = [(batch, self._standing.at(batch, at)) for batch in looked_at]
        return tuple(self._open(batch, at) for batch, known in standings if known is not None and known.open)

    def _open(self, batch: BatchId, at: When) -> OpenBatch:
        return OpenBatch(batch, self._header(batch, self._leading_at(batch, at).lines))

    def _leading_at(self, batch: BatchId, at: When) -> Leading:
        leading = self._leading.at(batch, at)
        if leading is None:
            raise EventsMissing(f"batch {batch}")
        return leading

    def _header(self, batch: BatchId, lines: tuple[Line, ...]) -> Header:
        commit = self._commit(batch)
        return Header(commit.root, commit.size, commit.members, lines)

    def _commit(self, batch: BatchId) -> BatchCommitted:
        commit = self._commits.at(batch, end_of(self.read_to))
        if commit is None:
            raise EventsMissing(f"batch {batch}")
        return commit

    def draw_block(self, batch: BatchId) -> int:
        """The block whose hash seeds the batch's audits. Raises `EventsMissing`, or `NotDrawn` before that was read."""
        block = self._commit_blocks.at(batch, end_of(self.read_to))
        if block is None:
            raise EventsMissing(f"batch {batch}")
        if block + self._params.draw_delay > self.read_to:
            raise NotDrawn(batch, block + self._params.draw_delay)
        return block + self._params.draw_delay

    # Views

    def view(self, batch: BatchId, drawn: BlockFacts, attempt: int | None = None) -> BatchView:
        """What the record of a batch is held against: of its newest attempt, or of an earlier one. `drawn` is its draw
        block. Raises `EventsMissing` for an attempt that was not made."""
        commit, leading = self._commit(batch), self._attempt_of(batch, attempt)
        claim = self._claim_time(batch, leading, drawn.number)
        opened = self.open_batches(drawn.number)
        claimed, settled = self._others(batch, commit, leading, claim)
        seed = self._seeds.at(batch, end_of(self.read_to))
        return BatchView(
            chain_id=self._domain.chain_id,
            registry=self._domain.registry,
            batch=batch,
            attempt=leading.attempt,
            leader=leading.leader,
            header=self._header(batch, leading.lines),
            quorum=self._quorum(leading.quorum),
            commit_block=drawn.number - self._params.draw_delay,
            draw_block=drawn.number,
            drawn_at=drawn.time,
            seed=seed or draw_seed(drawn.hash, batch, header_hash(self._header(batch, commit.lines))),
            jobs=self._jobs_of(
                [batch, *(other.batch for other in (*opened, *claimed)), *(other for other, _ in settled)]
            ),
            operators=self.nodes(drawn.number),
            owners=self.owners(drawn.number),
            open_batches=opened,
            claimed_before=claimed,
            settled_before=settled,
            collusion_bps=self._params.collusion_bps,
            slash_requester_bps=self._params.slash_requester_bps,
            slash_auditor_bps=self._params.slash_auditor_bps,
            slash_redress_bps=self._params.slash_redress_bps,
        )

    def _attempt_of(self, batch: BatchId, attempt: int | None) -> Leading:
        """Who led an attempt last, and with what lines."""
        changes = [leading for _, leading in self._leading.changes(batch, end_of(self.read_to))]
        if not changes:
            raise EventsMissing(f"batch {batch}")
        wanted = changes[-1].attempt if attempt is None else attempt
        found = [leading for leading in changes if leading.attempt == wanted]
        if not found:
            raise EventsMissing(f"attempt {wanted} at batch {batch}")
        return found[-1]

    def _claim_time(self, batch: BatchId, leading: Leading, draw_block: int) -> When:
        """When it was fixed which tasks an attempt may pay: at the draw, or when the batch was first taken over after
        it was voided last."""
        if leading.voidings == 0:
            return end_of(draw_block)
        changes = self._leading.changes(batch, end_of(self.read_to))
        return end_of(next(at[0] for at, other in changes if other.voidings == leading.voidings))

    def _others(
        self, batch: BatchId, commit: BatchCommitted, leading: Leading, claim: When
    ) -> tuple[tuple[OpenBatch, ...], tuple[tuple[BatchId, Cid], ...]]:
        """The other batches of the same jobs at the claim: those that are open and come first, and those settled."""
        others = {other for line in commit.lines for _, other in self._of_job.changes(line.job, claim)} - {batch}
        standings = [(other, self._standing.at(other, claim)) for other in sorted(others)]
        claimed = [other for other, known in standings if known and known.open and (leading.voidings or other < batch)]
        settled = [(other, known.record) for other, known in standings if known and known.record]
        return tuple(self._open(other, claim) for other in claimed), tuple(settled)

    def quorum(self, batch: BatchId) -> tuple[Seat, ...]:
        """The seats that decide on a batch now, whether or not they are still taken."""
        return self._quorum(self._attempt_of(batch, None).quorum)

    def _quorum(self, version: int) -> tuple[Seat, ...]:
        """The seats of a version of the quorum, each with the one holder that it had in it."""
        now = end_of(self.read_to)
        after = self._quorums.changes(version + 1, now)
        at = (after[0][0][0], after[0][0][1] - 1) if after else now
        counting = self._quorums.at(version, now) or 0
        holders = [(slot, self._holders.at(slot, at)) for slot in range(counting.bit_length()) if counting >> slot & 1]
        return tuple(Seat(slot, holder, self._owner(holder, at)) for slot, holder in holders if holder)

    def _jobs_of(self, batches: Iterable[BatchId]) -> Mapping[JobId, JobFacts]:
        return {job: self.job(job) for job in sorted({line.job for b in batches for line in self._commit(b).lines})}
