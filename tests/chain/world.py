"""Networks for tests: verifiers, nodes and a requester on a real chain, and the steps of a batch."""

from dataclasses import dataclass, field, replace
from hashlib import sha256

from proofyard.chain import (
    Anvil,
    ChainClient,
    ChallengeId,
    Claim,
    Court,
    Deployment,
    JobTerms,
    Phase,
    Wallet,
    claim_of,
    sealed_vote,
)
from proofyard.protocol import bls, merkle
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.settlement import (
    EMPTY_ROOT,
    BatchRef,
    Fault,
    FaultReason,
    OperatorId,
    Payout,
    Settlement,
    settlement_digest,
)
from proofyard.protocol.types import BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei

CREDIT = 10**18
SEGMENTS = 4
MANIFEST = Digest(sha256(b"manifest").digest())


@dataclass
class Network:
    """A fresh deployment with a deployer that holds all tokens."""

    anvil: Anvil
    deployment: Deployment
    deployer: ChainClient

    def client(self, wallet: Wallet | None) -> ChainClient:
        return ChainClient(self.anvil.rpc_url, self.deployment.registry, wallet, patience=5)

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

    def open_job(self, requester: ChainClient, *, tasks: int, reward: int = 1200) -> JobId:
        deadline = self.chain.now() + 86_400
        return requester.open_job(JobTerms(MANIFEST, tasks, Wei(reward * CREDIT), Wei(100 * CREDIT), 2, 1, deadline))

    def commitments(self, job: JobId) -> list[Commitment]:
        """One finished task for each node."""
        empty = Digest(bytes(32))
        return [
            Commitment(job, TaskIndex(i), node.address, MANIFEST, empty, empty, SEGMENTS, raw_cid(bytes([i])), 10)
            for i, node in enumerate(self.nodes)
        ]

    def commit(self, job: JobId, commitments: list[Commitment]) -> BatchRef:
        """Commit and draw a batch."""
        leaves = [commitment.struct_hash() for commitment in commitments]
        verifier = self.network.client(self.verifiers[0])
        batch = verifier.commit_batch(job, merkle.root(leaves), len(leaves))
        self.network.anvil.mine(3)
        return BatchRef(batch, merkle.root(leaves), verifier.draw(batch).seed)

    def payouts(self, *, skip: tuple[int, ...] = ()) -> tuple[Payout, ...]:
        """A hundred tokens for every node but the ones skipped, which are accused."""
        return tuple(
            Payout(id_, Wei(100 * CREDIT), valid=1, audits=2) for i, id_ in enumerate(self.ids) if i not in skip
        )

    def settlement(self, *, faulty: tuple[int, ...] = ()) -> Settlement:
        faults = tuple(Fault(self.ids[i], TaskIndex(i), SegmentIndex(1), FaultReason.MISMATCH) for i in faulty)
        return Settlement(self.payouts(skip=faulty), faults, EMPTY_ROOT, raw_cid(b"record"))

    def settle(self, ref: BatchRef, settlement: Settlement, signers: list[int]) -> None:
        """Settle with the signatures of the verifiers at these positions."""
        slots = {record.node: record.slot for record in self.chain.active_verifiers()}
        digest = settlement_digest(self.chain.domain, ref, settlement)
        keys = [self.verifiers[i] for i in signers]
        signature = bls.aggregate([bls.sign(key.bls_secret(), digest) for key in keys])
        bitmap = sum(1 << slots[key.address] for key in keys)
        self.chain.settle_batch(ref.batch, settlement, bitmap, signature)

    def disputed(self, job: JobId, challenger: ChainClient) -> tuple[BatchRef, list[Commitment], ChallengeId]:
        """An honest batch, settled by the first verifier, whose first segment somebody challenges."""
        commitments = self.commitments(job)
        ref = self.commit(job, commitments)
        self.settle(ref, self.settlement(), [0])
        proof = merkle.proof([c.struct_hash() for c in commitments], 0)
        challenge = Court(challenger).challenge_segment(ref.batch, commitments[0], 0, proof, SegmentIndex(0))
        return ref, commitments, challenge

    def claims(self, batch: BatchId, payouts: tuple[Payout, ...]) -> list[Claim]:
        return [claim_of(batch, payouts, index) for index in range(len(payouts))]

    def try_case(self, challenge: ChallengeId, *, wrong: bool, silent: int = 0, against: int = 0) -> Phase:
        """A round of a jury: all vote `wrong` but the first `silent`, who do not reveal, and the next `against`."""
        self.network.anvil.mine(3)
        court = Court(self.network.client(self.network.deployer.wallet))
        jury = court.draw_jury(challenge)
        record, params = self.chain.challenge(challenge), self.chain.params().court
        salt = sha256(b"salt").digest()
        votes = {}
        for seat, juror in enumerate(jury):
            key = self.nodes[self.ids.index(juror)]
            vote = not wrong if silent <= seat < silent + against else wrong
            Court(self.network.client(key)).commit_vote(
                challenge, sealed_vote(challenge, record.round, juror, vote, salt)
            )
            if seat >= silent:
                votes[juror] = (key, vote)
        self.network.anvil.warp(params.vote_time)
        for key, vote in votes.values():
            Court(self.network.client(key)).reveal_vote(challenge, vote, salt)
        self.network.anvil.warp(params.reveal_time)
        return court.resolve(challenge)

    def check_conserved(self) -> None:
        """Every token of the supply is where the books say, to the wei."""
        chain = self.chain
        assert chain.totals().sum == chain.token_balance(chain.registry)

    def next_attempt(self, ref: BatchRef) -> BatchRef:
        return replace(ref, attempt=self.chain.batch(ref.batch).attempt)
