"""What the Registry, its Lens and its token say, in typed calls that need no wallet."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

from eth_typing import ChecksumAddress
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import BlockNotFound, TransactionNotFound, Web3RPCError
from web3.types import BlockIdentifier, FilterParams

from proofyard.chain.abi import named
from proofyard.chain.binding import LATEST, Binding
from proofyard.chain.errors import EventsMissing
from proofyard.chain.events import (
    BatchCommitted,
    BatchDrawn,
    BatchSettled,
    BatchTaken,
    JobCommitted,
    JobOpened,
    Position,
    topic_of,
    word,
)
from proofyard.chain.following import MAX_RANGE
from proofyard.chain.lens import BATCH_PAGE, NODE_PAGE, SLOT_PAGE
from proofyard.chain.records import (
    Account,
    Anchor,
    BatchState,
    BenchEntry,
    CourtParams,
    Drawn,
    JobRecord,
    NodeRecord,
    OperatorState,
    Params,
    Role,
    SlashRecord,
    Totals,
    VerifierRecord,
)
from proofyard.chain.rpc import mapped_errors
from proofyard.chain.timeline import when
from proofyard.protocol.bls import public_key_from_point
from proofyard.protocol.dial import AuditOdds
from proofyard.protocol.settlement import EMPTY_ROOT, Header, OperatorId, draw_seed
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei

SLOTS = 256
BATCHES_AT_ONCE = 200
"""Batches named in one request for events."""
JOB_STORED = {field.name for field in fields(JobRecord)} - {
    "id",
    "deadline",
    "closed_at",
    "manifest",
    "reward",
    "audit_fee",
}
"""Fields of a `JobRecord` that the Registry stores."""


class RegistryReader(Binding):
    """Reads from a Registry; see `Binding` for what can go wrong. `block` can be any that the endpoint has the state
    of: an ordinary node keeps the last 128. For older state see `chain.history`. `first_block`: the block that the
    Registry is in, where its past begins; 0 looks for it once it matters."""

    def __init__(self, rpc_url: str, registry: Address, *, first_block: int = 0, chain_id: int | None = None) -> None:
        super().__init__(rpc_url, registry, chain_id=chain_id)
        self._given_block = first_block

    @cached_property
    def first_block(self) -> int:
        """No event of the Registry is in a block before this one."""
        return self._given_block or self.deployed_by(self._w3.eth.get_code)

    def deployed_by(self, code_at: Callable[[ChecksumAddress, int], bytes]) -> int:
        """The block that the Registry is in, or an earlier one where the endpoint does not have the state to tell."""
        address = Web3.to_checksum_address(self.registry)
        with mapped_errors(self.rpc_url):
            none_at, there_at = -1, int(self._w3.eth.block_number)
            while there_at - none_at > MAX_RANGE:  # what is left is one request for events
                middle = (none_at + there_at) // 2
                try:
                    is_there = bool(code_at(address, middle))
                except Web3RPCError:  # forgotten
                    is_there = True
                none_at, there_at = (none_at, middle) if is_there else (middle, there_at)
        return none_at + 1

    def params(self) -> Params:
        """The parameters of Registry and Court, which never change."""
        return self._params

    @cached_property
    def _params(self) -> Params:
        court = CourtParams(*self._call(self._court, "params"))
        return replace(Params(*self._read("params")), court=court)

    def totals(self, *, block: BlockIdentifier = LATEST) -> Totals:
        """Where the Registry's tokens are, at one block."""
        at = self.block_number() if block == LATEST else block
        stakes, unbonding, bonds, burned, escrow = self._read("totals", block=at)
        batches = self._read("counts", block=at)[3]
        pages = range(1, batches + 1, BATCH_PAGE)
        claimable = sum(self._lens.read("claimable", start, start + BATCH_PAGE, block=at) for start in pages)
        return Totals(Wei(stakes), Wei(unbonding), Wei(escrow), Wei(claimable), Wei(bonds), Wei(burned))

    # Operators

    def account(self, owner: Address, *, block: BlockIdentifier = LATEST) -> Account:
        row = self._read("account", owner, block=block)
        stake, unbonding, exposed, nodes, slot, frozen, release_at, bound_until = row
        seat = slot - 1 if slot else None
        return Account(Wei(stake), Wei(unbonding), exposed, nodes, seat, Wei(frozen), release_at, bound_until)

    def operator_of(self, key: Address) -> OperatorId | None:
        """The operator that a hot key belongs or once belonged to."""
        return OperatorId(self._read("operatorOf", key)) or None

    def operator(self, operator: OperatorId, *, block: BlockIdentifier = LATEST) -> NodeRecord:
        return _node(self._lens.read("operator", operator, block=block))

    def operator_state(self, operator: OperatorId, *, block: BlockIdentifier = LATEST) -> OperatorState:
        row = self._read("operatorState", operator, block=block)
        owner, last_fault, valid, role, listed, forfeits, key, workloads, _ = row
        return OperatorState(
            operator, Address(owner), last_fault, valid, Role(role), listed, forfeits, Address(key), workloads
        )

    def is_active_node(self, key: Address) -> bool:
        """Whether `key` is the hot key of a node in the active set."""
        operator = self.operator_of(key)
        if operator is None:
            return False
        record = self.operator(operator)
        return record.active and record.role == Role.NODE and record.node == key

    def listed_nodes(self, block: BlockIdentifier = LATEST) -> list[NodeRecord]:
        """All listed nodes at a block, active or not, by operator id."""
        found: list[NodeRecord] = []
        cursor = 0
        while rows := self._lens.read("nodes", cursor, NODE_PAGE, block=block):
            found += map(_node, rows)
            cursor += NODE_PAGE
        return sorted(found, key=lambda record: record.id)

    def active_nodes(self, block: BlockIdentifier = LATEST) -> list[NodeRecord]:
        """All active nodes at a block, by operator id."""
        return [record for record in self.listed_nodes(block) if record.active]

    def active_verifiers(self, block: BlockIdentifier = LATEST) -> list[VerifierRecord]:
        """All seated verifiers at a block, by slot; `counts` tells which are part of the quorum."""
        taken = self.seats(block)
        pages = [start for start in range(0, SLOTS, SLOT_PAGE) if taken >> start & ((1 << SLOT_PAGE) - 1)]
        rows = [row for start in pages for row in self._lens.read("verifiers", start, start + SLOT_PAGE, block=block)]
        return [_verifier(row) for row in rows]

    def seats(self, block: BlockIdentifier = LATEST) -> int:
        """Bitmap of the seats that are taken."""
        return int(self._read("seats", block=block))

    def quorum(self, version: int) -> int:
        """Bitmap of the slots that count for batches committed under a version of the quorum."""
        return int(self._read("quorum", version))

    def seat_holder(self, slot: int, at: int) -> OperatorId | None:
        """Who had a seat at a time (Unix seconds)."""
        return OperatorId(self._read("seatHolder", slot, at)) or None

    def bench(self, workload: int, length: int | None = None) -> list[BenchEntry]:
        """The first `length` places on a workload's bench, or all of them."""
        count = self._read("benchLength", workload) if length is None else length
        calls = [("benchAt", workload, index) for index in range(count)]
        return [BenchEntry(*row) for row in self._read_many(calls)]

    def on_bench(self, owner: Address, workload: int) -> bool:
        """Whether an owner has a place on a workload's bench now."""
        return any(entry.owner == owner and entry.until == 0 for entry in self.bench(workload))

    def audit_probability(
        self,
        node: Address,
        tasks_in_flight: int,
        reward_in_flight: Wei,
        segments: int,
        segments_per_audit: int,
        *,
        block: BlockIdentifier = LATEST,
    ) -> AuditOdds:
        """The audit dial for a task of a node: `reward_in_flight` is its owner's, `tasks_in_flight` how many tasks like
        this one that would be (`proofyard.protocol.dial.tasks_alike`)."""
        operator = self.operator_of(node) or OperatorId(0)
        load = (tasks_in_flight, reward_in_flight, segments, segments_per_audit)
        return AuditOdds(*self._lens.read("auditProbability", operator, *load, block=block))

    # Jobs and batches

    def job(self, job: JobId, *, block: BlockIdentifier = LATEST) -> JobRecord:
        """A job: its terms are those of the event with which it was opened. Raises `UnknownJob`."""
        stored = named("Registry", "job", self._read("job", job, block=block))
        with mapped_errors(self.rpc_url):
            at = stored["open_block"]
            found = self.events.between(at, at, [topic_of(JobOpened), word(job)])
        opened = next((event for event in found if isinstance(event, JobOpened)), None)
        if opened is None:
            raise EventsMissing(f"job {job}")
        return JobRecord(
            **{name: stored[name] for name in JOB_STORED},
            id=job,
            deadline=opened.deadline,
            closed_at=stored["end"] if stored["closed"] else 0,
            manifest=opened.manifest,
            reward=opened.reward,
            audit_fee=opened.audit_fee,
        )

    def anchor(self, jobs: Iterable[JobId]) -> Anchor:
        """What a call about these jobs rests on: the block of the youngest, which has the highest number. Raises
        `UnknownJob`."""
        number = named("Registry", "job", self._read("job", max(jobs)))["open_block"]
        return Anchor(number, self.block_hash(number))

    def batch(self, batch: BatchId, *, block: BlockIdentifier = LATEST) -> BatchState:
        stored = named("Registry", "batch", self._read("batch", batch, block=block))
        shown = stored | stored["settled"]
        return BatchState(batch, *(shown[field.name] for field in fields(BatchState)[1:]))

    def header(self, batch: BatchId) -> Header:
        """What the batch is now, from its events: calls that act on a batch bring it along."""
        committed, *later = self._header_events(batch)
        assert isinstance(committed, BatchCommitted)
        header = Header(committed.root, committed.size, committed.members, committed.lines)
        seed = EMPTY_ROOT
        for event in later:
            if isinstance(event, BatchDrawn):
                seed = event.seed
            elif isinstance(event, BatchSettled):
                header = replace(header, lines=event.lines, seed=seed, payout_root=event.payout_root)
            elif isinstance(event, BatchTaken):
                header = replace(header, lines=event.lines, seed=EMPTY_ROOT, payout_root=EMPTY_ROOT)
        return header

    def _header_events(self, batch: BatchId) -> list[Any]:
        """The batch's commit, its draw, and whatever changed its lines since."""
        commit_block = self.batch(batch).commit_block
        changes = [topic_of(kind) for kind in (BatchTaken, BatchDrawn, BatchSettled)]
        before = self._events_back_to(BatchCommitted, [topic_of(BatchCommitted), word(batch)], commit_block)
        if not before:
            raise EventsMissing(f"batch {batch}")
        return [before[-1], *self._events_since(before[-1].position.block, [changes, word(batch)])]

    def seed(self, batch: BatchId) -> Drawn | None:
        """The batch's seed as soon as its block is there, whether or not a transaction has fixed it on chain yet."""
        state = self.batch(batch)
        block = state.commit_block + self.params().draw_delay
        if state.settled_at or state.voided:
            return Drawn(self.header(batch).seed, block)
        if any(state.seed):
            return Drawn(state.seed, block)
        if self.block_number() < block:
            return None
        return Drawn(draw_seed(self.block_hash(block), batch, state.header), block)

    def slashes(self, batch: BatchId) -> list[SlashRecord]:
        """The faults of the batch's settlement, by index."""
        return [_slash(row) for row in self._read("slashes", batch)]

    def is_claimed(self, batch: BatchId, index: int) -> bool:
        return bool(self._read("isClaimed", batch, index))

    def committed(self, job: JobId) -> list[BatchCommitted]:
        """All batches with a line of the job, oldest first, from the events since it was opened."""
        events = self._batch_events(job, BatchCommitted)
        return [event for event in events if isinstance(event, BatchCommitted)]

    def settled(self, job: JobId) -> list[BatchSettled]:
        """All settlements of a job's batches, oldest first; a batch whose settlement was voided has several."""
        return [event for event in self._batch_events(job, BatchSettled) if isinstance(event, BatchSettled)]

    def gas_of(self, position: Position) -> int | None:
        """The gas of the transaction that made an event of the Registry; None where the endpoint has none there."""
        where: FilterParams = {
            "address": Web3.to_checksum_address(self.registry),
            "blockHash": HexBytes(position.block_hash),
        }
        with mapped_errors(self.rpc_url):
            try:
                logs = self._w3.eth.get_logs(where)
                made = next(log["transactionHash"] for log in logs if log["logIndex"] == position.index)
                return int(self._w3.eth.get_transaction_receipt(made)["gasUsed"])
            except (StopIteration, TransactionNotFound, BlockNotFound, Web3RPCError):
                return None

    def find_batches(
        self, root: Digest, verifier: OperatorId | None = None, *, since: int | None = None
    ) -> list[BatchCommitted]:
        """The commits to `root` (by `verifier`, where one is named), oldest first, from block `since` on, or from the
        Registry's first."""
        topics = [topic_of(BatchCommitted), None, None if verifier is None else word(verifier), "0x" + root.hex()]
        first = self.first_block if since is None else since
        return [event for event in self._events_since(first, topics) if isinstance(event, BatchCommitted)]

    def find_jobs(self, requester: Address, manifest: Digest, *, since: int | None = None) -> list[JobId]:
        """The jobs that `requester` has opened for a manifest, oldest first, from block `since` on, or from the
        Registry's first."""
        topics = [topic_of(JobOpened), None, word(int(requester, 16)), "0x" + manifest.hex()]
        found = self._events_since(self.first_block if since is None else since, topics)
        return [event.job for event in found if isinstance(event, JobOpened)]

    def jobs_of(self, requester: Address | None = None, *, since: int | None = None) -> list[JobId]:
        """The jobs that `requester`, or anybody, has opened, oldest first, from block `since` on, or from the
        Registry's first."""
        return [event.job for event in self.opened(requester, since=since)]

    def opened(self, requester: Address | None = None, *, since: int | None = None) -> list[JobOpened]:
        """The same, with what they were opened with."""
        topics = [topic_of(JobOpened), None, None if requester is None else word(int(requester, 16))]
        found = self._events_since(self.first_block if since is None else since, topics)
        return [event for event in found if isinstance(event, JobOpened)]

    def _batch_events(self, job: JobId, kind: type[BatchCommitted] | type[BatchSettled]) -> list[Any]:
        opened = named("Registry", "job", self._read("job", job))["open_block"]
        lines = self._events_since(opened, [topic_of(JobCommitted), word(job)])
        batches = [word(event.batch) for event in lines if isinstance(event, JobCommitted)]
        parts = [batches[start : start + BATCHES_AT_ONCE] for start in range(0, len(batches), BATCHES_AT_ONCE)]
        found = [event for part in parts for event in self._events_since(opened, [topic_of(kind), part])]
        return sorted(found, key=lambda event: when(event.position))


def _node(row: Sequence[Any]) -> NodeRecord:
    id_, role, active, key, owner, stake, valid, last_fault, workloads, endpoint = row
    return NodeRecord(
        id=OperatorId(id_),
        role=Role(role),
        active=active,
        node=Address(Web3.to_checksum_address(key)),
        owner=Address(Web3.to_checksum_address(owner)),
        stake=Wei(stake),
        consecutive_valid=valid,
        last_fault=last_fault,
        workloads=workloads,
        endpoint=endpoint,
    )


def _verifier(row: Sequence[Any]) -> VerifierRecord:
    id_, slot, counts, key, owner, stake, public_key, endpoint = row
    return VerifierRecord(
        id=OperatorId(id_),
        slot=slot,
        counts=counts,
        node=Address(Web3.to_checksum_address(key)),
        owner=Address(Web3.to_checksum_address(owner)),
        stake=Wei(stake),
        public_key=public_key_from_point(public_key),
        endpoint=endpoint,
    )


def _slash(row: Sequence[Any]) -> SlashRecord:
    operator, amount, valid, last_fault, task, segment, reason, forfeits, job, absolved, _mark, redress, accusers = row
    return SlashRecord(
        operator=OperatorId(operator),
        amount=Wei(amount),
        consecutive_valid=valid,
        last_fault=last_fault,
        task=TaskIndex(task),
        segment=SegmentIndex(segment),
        reason=reason,
        forfeits=forfeits,
        job=JobId(job),
        absolved=absolved,
        accusers=tuple(OperatorId(accuser) for accuser in accusers),
        redress=Wei(redress),
    )
