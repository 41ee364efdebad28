"""What the Registry and its token say, in typed calls that need no wallet."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from web3 import Web3
from web3.contract.contract import Contract as Web3Contract
from web3.types import BlockIdentifier

from proofyard.chain.abi import contract
from proofyard.chain.errors import NoRegistry
from proofyard.chain.events import BatchCommitted, BatchSettled, topic_of
from proofyard.chain.following import MAX_RANGE, EventReader
from proofyard.chain.records import (
    Account,
    BatchState,
    ChallengeId,
    ChallengeRecord,
    CourtParams,
    Drawn,
    JobRecord,
    Kind,
    NodeRecord,
    Params,
    Phase,
    Role,
    SlashRecord,
    Totals,
    VerifierRecord,
)
from proofyard.chain.rpc import connect, mapped_errors
from proofyard.protocol.bls import public_key_from_point
from proofyard.protocol.commitment import Domain
from proofyard.protocol.dial import AuditOdds
from proofyard.protocol.settlement import OperatorId, draw_seed
from proofyard.protocol.types import Address, BatchId, Digest, JobId, Wei

PAGE = 100
BATCH_PAGE = 1000
LATEST: BlockIdentifier = "latest"


class RegistryReader:
    """Reads from the Registry at `registry` behind `rpc_url`. Safe to use from several threads.

    Raises `ChainUnreachable` or `NoRegistry` at once when there is none; each call may raise `ChainUnreachable` or
    `Refused` later.
    """

    def __init__(self, rpc_url: str, registry: Address) -> None:
        self.rpc_url = rpc_url
        if not Web3.is_address(registry):
            raise NoRegistry(registry, rpc_url)
        self.registry = Address(Web3.to_checksum_address(registry))
        self._w3 = connect(rpc_url)
        with mapped_errors(rpc_url):
            self.chain_id = int(self._w3.eth.chain_id)
            if not self._w3.eth.get_code(Web3.to_checksum_address(registry)):
                raise NoRegistry(registry, rpc_url)
        self._contract = self._bind("Registry", self.registry)
        self.token = Address(self._call(self._contract, "token"))
        self._token = self._bind("Credit", self.token)
        self.domain = Domain(self.chain_id, self.registry)
        self.events = EventReader(self._w3, rpc_url, self.registry)
        self._operator_ids: dict[Address, OperatorId] = {}

    def _bind(self, name: str, address: Address) -> Web3Contract:
        return self._w3.eth.contract(address=Web3.to_checksum_address(address), abi=contract(name).abi)

    def _call(self, target: Web3Contract, function: str, *args: Any, block: BlockIdentifier = LATEST) -> Any:
        with mapped_errors(self.rpc_url):
            return target.functions[function](*args).call(block_identifier=block)

    def _read(self, function: str, *args: Any, block: BlockIdentifier = LATEST) -> Any:
        return self._call(self._contract, function, *args, block=block)

    # The chain and the token

    def block_number(self) -> int:
        with mapped_errors(self.rpc_url):
            return int(self._w3.eth.block_number)

    def block_hash(self, block: int) -> Digest:
        with mapped_errors(self.rpc_url):
            return Digest(bytes(self._w3.eth.get_block(block)["hash"]))

    def now(self) -> int:
        """The latest block's time: the clock that windows and deadlines go by."""
        with mapped_errors(self.rpc_url):
            return int(self._w3.eth.get_block("latest")["timestamp"])

    def eth_balance(self, account: Address) -> int:
        with mapped_errors(self.rpc_url):
            return int(self._w3.eth.get_balance(Web3.to_checksum_address(account)))

    def token_balance(self, account: Address) -> Wei:
        return Wei(self._call(self._token, "balanceOf", account))

    def token_supply(self) -> Wei:
        return Wei(self._call(self._token, "totalSupply"))

    def params(self) -> Params:
        row = self._read("params")
        return replace(Params(*row), court=CourtParams(*row[-1]))

    def totals(self, *, block: BlockIdentifier = LATEST) -> Totals:
        """Where the Registry's tokens are, at one block."""
        at = self.block_number() if block == LATEST else block
        stakes, unbonding, bonds, burned, escrow = self._read("totals", block=at)
        batches = self._read("counts", block=at)[3]
        pages = range(1, batches + 1, BATCH_PAGE)
        claimable = sum(self._read("claimable", start, start + BATCH_PAGE, block=at) for start in pages)
        return Totals(Wei(stakes), Wei(unbonding), Wei(escrow), Wei(claimable), Wei(bonds), Wei(burned))

    # Operators

    def account(self, owner: Address) -> Account:
        stake, unbonding, release_at, nodes, slot = self._read("account", owner)
        return Account(Wei(stake), Wei(unbonding), release_at, nodes, slot != 0)

    def operator_of(self, key: Address) -> OperatorId | None:
        """The operator that a hot key belongs or once belonged to."""
        if key not in self._operator_ids:
            found = OperatorId(self._read("operatorOf", key))
            if found == 0:
                return None
            self._operator_ids[key] = found
        return self._operator_ids[key]

    def operator(self, operator: OperatorId, *, block: BlockIdentifier = LATEST) -> NodeRecord:
        return _node(self._read("operator", operator, block=block))

    def is_active_node(self, key: Address) -> bool:
        """Whether `key` is the hot key of a node in the active set."""
        operator = self.operator_of(key)
        if operator is None:
            return False
        record = self.operator(operator)
        return record.active and record.role == Role.NODE and record.node == key

    def active_nodes(self, block: BlockIdentifier = LATEST) -> list[NodeRecord]:
        """All active nodes at a block, by operator id."""
        found: list[NodeRecord] = []
        cursor = 0
        while rows := self._read("nodes", cursor, PAGE, block=block):
            found += [record for record in map(_node, rows) if record.active]
            cursor += PAGE
        return sorted(found, key=lambda record: record.id)

    def active_verifiers(self, block: BlockIdentifier = LATEST) -> list[VerifierRecord]:
        """All active verifiers at a block, by slot."""
        found = []
        for start in range(0, 256, 64):
            for id_, slot, key, owner, stake, public_key, endpoint in self._read(
                "verifiers", start, start + 64, block=block
            ):
                point = public_key_from_point(public_key)
                record = VerifierRecord(
                    OperatorId(id_), slot, Address(key), Address(owner), Wei(stake), point, endpoint
                )
                found.append(record)
        return found

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
        return AuditOdds(*self._read("auditProbability", operator, *load, block=block))

    def payout_weight(self, node: Address, *, block: BlockIdentifier = LATEST) -> int:
        """The node's weight in payouts, in units of 1e-18."""
        return int(self._read("payoutWeight", self.operator_of(node) or OperatorId(0), block=block))

    # Jobs and batches

    def job(self, job: JobId, *, block: BlockIdentifier = LATEST) -> JobRecord:
        (requester, deadline, tasks, k, m, closed, manifest, spent, open_tasks, verifier, last_active, *rest) = (
            self._read("job", job, block=block)
        )
        reward, audit_fee, open_block, workload = rest
        return JobRecord(
            id=job,
            requester=Address(requester),
            manifest=Digest(manifest),
            task_count=tasks,
            reward=Wei(reward),
            audit_fee=Wei(audit_fee),
            escrow=Wei(reward + audit_fee - spent),
            auditors_per_segment=k,
            segments_per_audit=m,
            deadline=deadline,
            closed=closed,
            open_tasks=open_tasks,
            verifier=OperatorId(verifier),
            last_active=last_active,
            open_block=open_block,
            workload=workload,
        )

    def batch(self, batch: BatchId) -> BatchState:
        row = self._read("batch", batch)
        root, job, size, verifier, commit_block, committed_at, attempt, seed, payout_root, settled, *row = row
        remaining, settled_at, claimable_at, payout_count, open_challenges, _, _ = settled
        signers, pool, _, frozen = row
        return BatchState(
            id=batch,
            job=JobId(job),
            root=Digest(root),
            size=size,
            verifier=OperatorId(verifier),
            commit_block=commit_block,
            committed_at=committed_at,
            attempt=attempt,
            seed=Digest(seed),
            payout_root=Digest(payout_root),
            payout_count=payout_count,
            remaining=Wei(remaining),
            settled_at=settled_at,
            claimable_at=claimable_at,
            open_challenges=open_challenges,
            signers=signers,
            pool=Wei(pool),
            frozen=Wei(frozen),
        )

    def seed(self, batch: BatchId) -> Drawn | None:
        """The batch's seed as soon as its block is there, whether or not a transaction has fixed it on chain yet."""
        state = self.batch(batch)
        block = state.commit_block + self.params().draw_delay
        if any(state.seed):
            return Drawn(state.seed, block)
        if self.block_number() < block:
            return None
        return Drawn(draw_seed(self.block_hash(block), batch, state.root), block)

    def slashes(self, batch: BatchId) -> list[SlashRecord]:
        return [SlashRecord(*row) for row in self._read("slashes", batch)]

    def challenge(self, challenge: ChallengeId) -> ChallengeRecord:
        row = self._read("challenge", challenge)
        challenger, batch, kind, phase, round_, accused, task, segment, entry, draw_block, until, *row = row
        votes_wrong, votes_right, wrong, attempt, appellant, _, bond, expires_at, _, leaf = row
        return ChallengeRecord(
            id=challenge,
            kind=Kind(kind),
            phase=Phase(phase),
            challenger=Address(challenger),
            appellant=Address(appellant),
            batch=BatchId(batch),
            round=round_,
            accused=OperatorId(accused),
            task=task,
            segment=segment,
            entry=entry,
            draw_block=draw_block,
            until=until,
            expires_at=expires_at,
            votes_wrong=votes_wrong,
            votes_right=votes_right,
            wrong=wrong,
            attempt=attempt,
            bond=Wei(bond),
            leaf=Digest(leaf),
        )

    def challenge_count(self) -> int:
        """The number of the newest challenge."""
        return int(self._read("counts")[4])

    def challenge_events(self, challenge: ChallengeRecord) -> list[Any]:
        """Everything that happened to a challenge of a batch, oldest first."""
        topics = [None, "0x" + challenge.id.to_bytes(32, "big").hex()]
        events = self._events_since(self.batch(challenge.batch).commit_block, topics)
        return [event for event in events if getattr(event, "challenge", None) == challenge.id]

    def jurors(self, challenge: ChallengeId, round_: int) -> list[OperatorId]:
        """The jury of a round: 0, or 1 on appeal."""
        return [OperatorId(juror) for juror in self._read("jurors", challenge, round_)]

    def is_claimed(self, batch: BatchId, index: int) -> bool:
        return bool(self._read("isClaimed", batch, index))

    def committed(self, job: JobId) -> list[BatchCommitted]:
        """All batches of a job, oldest first, from the events since it was opened."""
        topics = [topic_of(BatchCommitted), None, "0x" + job.to_bytes(32, "big").hex()]
        return [event for event in self._events_since_open(job, topics) if isinstance(event, BatchCommitted)]

    def settled(self, job: JobId) -> list[BatchSettled]:
        """All settlements of a job's batches, oldest first; a batch whose settlement was voided has several."""
        topics = [topic_of(BatchSettled), None, "0x" + job.to_bytes(32, "big").hex()]
        return [event for event in self._events_since_open(job, topics) if isinstance(event, BatchSettled)]

    def find_batch(self, job: JobId, root: Digest) -> BatchId | None:
        """The batch that committed to `root`, so that a verifier that crashed after sending does not send again."""
        return next((event.batch for event in self.committed(job) if event.root == root), None)

    def _events_since_open(self, job: JobId, topics: Sequence[str | None]) -> list[Any]:
        return self._events_since(self.job(job).open_block, topics)

    def _events_since(self, first: int, topics: Sequence[str | None]) -> list[Any]:
        head = self.block_number()
        found: list[Any] = []
        with mapped_errors(self.rpc_url):
            for start in range(first, head + 1, MAX_RANGE):
                found += self.events.between(start, min(start + MAX_RANGE - 1, head), topics)
        return found


def _node(row: Sequence[Any]) -> NodeRecord:
    id_, role, active, key, owner, stake, valid, last_fault, workloads, endpoint = row
    return NodeRecord(
        id=OperatorId(id_),
        role=Role(role),
        active=active,
        node=Address(key),
        owner=Address(owner),
        stake=Wei(stake),
        consecutive_valid=valid,
        last_fault=last_fault,
        workloads=workloads,
        endpoint=endpoint,
    )
