"""Networks for tests: verifiers, nodes and a requester on a real chain, and the steps of a batch."""

from dataclasses import dataclass, field
from hashlib import sha256

from proofyard.chain import (
    Anvil,
    ChainClient,
    ChallengeId,
    Claim,
    Court,
    Deployment,
    JobTerms,
    Kind,
    Phase,
    Step,
    Wallet,
    claim_of,
    sealed_vote,
    sign_commitment,
)
from proofyard.protocol import bls, merkle
from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.mark import mark_of
from proofyard.protocol.settlement import (
    EMPTY_ROOT,
    BatchRef,
    Fault,
    FaultReason,
    OperatorId,
    Payout,
    Settlement,
    Share,
    settlement_digest,
)
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei

CREDIT = 10**18
SEGMENTS = 4
UNITS = 10
"""Work units of one task."""
MANIFEST = Digest(sha256(b"manifest").digest())
MEMBERS = Digest(sha256(b"members").digest())
WRONG, RIGHT = Digest(bytes(31) + b"\x01"), Digest(bytes(31) + b"\x02")


@dataclass
class Network:
    """A fresh deployment with a deployer that holds all tokens."""

    anvil: Anvil
    deployment: Deployment
    deployer: ChainClient

    def client(self, wallet: Wallet | None) -> ChainClient:
        block = self.deployment.block
        return ChainClient(self.anvil.rpc_url, self.deployment.registry, wallet, patience=5, first_block=block)

    def owner(self, credits: int) -> ChainClient:
        """A new wallet with ether and so many tokens."""
        wallet = self.key()
        self.deployer.transfer(wallet.address, Wei(credits * CREDIT))
        return self.client(wallet)

    def key(self) -> Wallet:
        """A new wallet with ether for gas."""
        wallet = Wallet.generate()
        self.anvil.fund(wallet.address)
        return wallet


def states(task: int) -> list[Cid]:
    """The boundary states of a task, as its worker committed to them."""
    return [raw_cid(f"state {number} of task {task}".encode()) for number in range(SEGMENTS + 1)]


@dataclass
class World:
    """Verifiers and nodes, each under an owner of its own, and a job that they work on."""

    network: Network
    verifier_owners: list[ChainClient] = field(default_factory=list)
    verifiers: list[Wallet] = field(default_factory=list)
    owners: list[ChainClient] = field(default_factory=list)
    nodes: list[Wallet] = field(default_factory=list)
    ids: list[OperatorId] = field(default_factory=list)

    @classmethod
    def build(cls, network: Network, *, verifiers: int, nodes: int) -> "World":
        world = cls(network)
        for _ in range(verifiers):
            owner, key = network.owner(1000), network.key()
            owner.register_verifier(key, Wei(1000 * CREDIT), "127.0.0.1:4000")
            world.verifier_owners.append(owner)
            world.verifiers.append(key)
        for _ in range(nodes):
            owner, key = network.owner(500), network.key()
            world.ids.append(owner.register_node(key, Wei(100 * CREDIT), 1, "127.0.0.1:4001"))
            world.owners.append(owner)
            world.nodes.append(key)
        return world

    @property
    def chain(self) -> ChainClient:
        return self.network.deployer

    def verifier(self, position: int = 0) -> ChainClient:
        return self.network.client(self.verifiers[position])

    def stake(self, owner: ChainClient) -> int:
        return self.chain.account(owner.wallet.address).stake  # type: ignore[union-attr]

    def open_job(self, requester: ChainClient, *, tasks: int, reward: int = 1200, verifier_fee: int = 0) -> JobId:
        """A job with 100 tokens for audits."""
        deadline = self.chain.now() + 86_400
        pay = (Wei(reward * CREDIT), Wei(100 * CREDIT), Wei(verifier_fee * CREDIT))
        return requester.open_job(JobTerms(MANIFEST, tasks * UNITS, *pay, 2, 1, deadline))

    def commitments(self, job: JobId) -> list[Commitment]:
        """One finished task for each node."""
        empty = Digest(bytes(32))
        return [
            Commitment(
                job=job,
                task=TaskIndex(i),
                node=node.address,
                manifest=MANIFEST,
                inputs=empty,
                trace_root=merkle.root([cid_bytes(state) for state in states(i)]),
                segments=SEGMENTS,
                result=raw_cid(bytes([i])),
                work_units=UNITS,
                mark=mark_of(bytes(32), decoy=False),
            )
            for i, node in enumerate(self.nodes)
        ]

    def sign(self, commitment: Commitment) -> Signature:
        wallet = next(node for node in self.nodes if node.address == commitment.node)
        return sign_commitment(self.chain.domain, commitment, wallet)

    def commit(self, job: JobId, commitments: list[Commitment], *, leader: int = 0) -> BatchRef:
        """Commit and draw a batch."""
        leaves = [commitment.struct_hash() for commitment in commitments]
        verifier = self.verifier(leader)
        batch = verifier.commit_batch(merkle.root(leaves), len(leaves), MEMBERS, [(job, UNITS * len(leaves))])
        self.network.anvil.mine(3)
        verifier.draw(batch)
        return self.ref(batch)

    def ref(self, batch: BatchId) -> BatchRef:
        """The batch as a settlement has to name it now."""
        state = self.chain.batch(batch)
        return BatchRef(batch, state.attempt, state.header, state.seed)

    def payouts(self, *, skip: tuple[int, ...] = ()) -> tuple[Payout, ...]:
        """A hundred tokens for every node but the ones skipped, which are accused."""
        return tuple(
            Payout(id_, Wei(100 * CREDIT), valid=1, audits=2) for i, id_ in enumerate(self.ids) if i not in skip
        )

    def settlement(
        self, job: JobId, *, faulty: tuple[int, ...] = (), reason: FaultReason = FaultReason.MISMATCH
    ) -> Settlement:
        """Everybody's task is right, but those of the nodes at `faulty`, accused by the first three others."""
        payouts = self.payouts(skip=faulty)
        accusers = tuple(payout.operator for payout in payouts[:3])
        faults = tuple(Fault(self.ids[i], job, TaskIndex(i), SegmentIndex(1), reason, accusers) for i in faulty)
        share = Share(UNITS * len(payouts), Wei(sum(payout.amount for payout in payouts)))
        return Settlement(payouts, faults, (share,), EMPTY_ROOT, raw_cid(b"record"))

    def settle(self, ref: BatchRef, settlement: Settlement, signers: list[int]) -> None:
        """Settle with the signatures of the verifiers at these positions."""
        slots = {record.node: record.slot for record in self.chain.active_verifiers()}
        keys = [self.verifiers[i] for i in signers]
        signature = bls.aggregate([self.signature(ref, settlement, i) for i in signers])
        bitmap = sum(1 << slots[key.address] for key in keys)
        self.chain.settle_batch(ref.batch, settlement, bitmap, signature)

    def signature(self, ref: BatchRef, settlement: Settlement, position: int) -> bls.BlsSignature:
        digest = settlement_digest(self.chain.domain, ref, settlement)
        return bls.sign(self.verifiers[position].bls_secret(), digest)

    def challenge_segment(
        self, challenger: ChainClient, batch: BatchId, commitments: list[Commitment], index: int, segment: int
    ) -> ChallengeId:
        """Challenge a segment of the commitment at `index`, which is that of the task of the same number."""
        trace = [cid_bytes(state) for state in states(index)]
        step = Step(
            commitments[index],
            self.sign(commitments[index]),
            bytes(32),
            index,
            merkle.proof([commitment.struct_hash() for commitment in commitments], index),
            SegmentIndex(segment),
            states(index)[min(segment, SEGMENTS - 1) + 1],
            merkle.proof(trace, min(segment, SEGMENTS - 1) + 1),
        )
        return Court(challenger).challenge_segment(batch, step)

    def disputed(self, job: JobId, challenger: ChainClient) -> tuple[BatchRef, list[Commitment], ChallengeId]:
        """An honest batch, settled by the first verifier, whose first segment somebody challenges."""
        commitments = self.commitments(job)
        ref = self.commit(job, commitments)
        self.settle(ref, self.settlement(job), [0])
        return ref, commitments, self.challenge_segment(challenger, ref.batch, commitments, 0, 0)

    def claims(self, batch: BatchId, payouts: tuple[Payout, ...]) -> list[Claim]:
        return [claim_of(batch, payouts, index) for index in range(len(payouts))]

    def node_of(self, owner: Address) -> Wallet:
        """The node of an owner."""
        return self.nodes[[client.wallet.address for client in self.owners].index(owner)]  # type: ignore[union-attr]

    def try_case(self, challenge: ChallengeId, *, wrong: bool, silent: int = 0, against: int = 0) -> Phase:
        """A round of a jury: all vote `wrong` but the first `silent`, who do not reveal, and the next `against`."""
        self.network.anvil.mine(3)
        court = Court(self.network.client(self.network.deployer.wallet))
        jury = court.draw_jury(challenge)
        record, params = self.chain.challenge(challenge), self.chain.params().court
        salt = sha256(b"salt").digest()
        votes: dict[Address, tuple[Wallet, Digest]] = {}
        for seat, juror in enumerate(jury):
            key = self.node_of(juror)
            vote = not wrong if silent <= seat < silent + against else wrong
            evidence = WRONG if vote else record.claimed if record.kind == Kind.SEGMENT else RIGHT
            sealed = sealed_vote(challenge, record.round, record.redraws, juror, evidence, EMPTY_ROOT, salt)
            Court(self.network.client(key)).commit_vote(challenge, sealed)
            if seat >= silent:
                votes[juror] = (key, evidence)
        self.network.anvil.warp(params.vote_time)
        for key, evidence in votes.values():
            Court(self.network.client(key)).reveal_vote(challenge, evidence, EMPTY_ROOT, salt)
        self.network.anvil.warp(params.reveal_time)
        return court.resolve(challenge)

    def check_conserved(self) -> None:
        """Every token of the supply is where the books say, to the wei."""
        chain = self.chain
        assert chain.totals().sum == chain.token_balance(chain.registry)
