"""A random life of a network: every step is one that somebody could take, and many are refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from world import CREDIT, UNITS, Network, World

from proofyard.chain import ChainClient, Court, Refused, Wallet, claim_of
from proofyard.chain.refusals import NoSuchFault
from proofyard.protocol import bls
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.settlement import (
    EMPTY_ROOT,
    Fault,
    FaultReason,
    OperatorId,
    Payout,
    Settlement,
    Share,
    settlement_digest,
)
from proofyard.protocol.types import BatchId, Digest, JobId, SegmentIndex, TaskIndex, Wei


@dataclass
class Life:
    """Takes random steps. `taken` counts those that were not refused, by their names."""

    network: Network
    random: Random
    owners: list[ChainClient] = field(default_factory=list)
    keys: dict[OperatorId, tuple[ChainClient, Wallet]] = field(default_factory=dict)
    verifiers: dict[OperatorId, tuple[ChainClient, Wallet]] = field(default_factory=dict)
    jobs: list[JobId] = field(default_factory=list)
    batches: list[BatchId] = field(default_factory=list)
    paid: dict[BatchId, tuple[Payout, ...]] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)

    @property
    def chain(self) -> ChainClient:
        return self.network.deployer

    def begin(self) -> None:
        for _ in range(6):
            self.owners.append(self.network.owner(20_000))
        for owner in self.owners[:3]:
            self._seat(owner)
        for owner in self.owners:
            self._list(owner)
        self.open_job()

    def run(self, steps: int) -> None:
        doings: list[tuple[int, Callable[[], object]]] = [
            (2, self.list_node),
            (1, self.seat_verifier),
            (2, self.retire),
            (1, self.rotate),
            (2, self.move_stake),
            (2, self.open_job),
            (6, self.commit),
            (5, self.draw),
            (8, self.settle),
            (4, self.claim),
            (2, self.finalize),
            (2, self.absolve),
            (2, self.void),
            (3, self.take),
            (1, self.drop),
            (4, self.pass_time),
        ]
        weights = [weight for weight, _ in doings]
        for _ in range(steps):
            _, doing = self.random.choices(doings, weights)[0]
            try:
                doing()
                self.taken[doing.__name__] = self.taken.get(doing.__name__, 0) + 1
            except (Refused, IndexError):
                continue

    # Operators

    def list_node(self) -> None:
        self._list(self.random.choice(self.owners))

    def seat_verifier(self) -> None:
        self._seat(self.random.choice(self.owners))

    def _list(self, owner: ChainClient) -> None:
        again = [key for who, key in self.keys.values() if who is owner and self.random.random() < 0.5]
        key = again[0] if again else self.network.key()
        self.keys[owner.register_node(key, Wei(100 * CREDIT), 1)] = (owner, key)

    def _seat(self, owner: ChainClient) -> None:
        again = [key for who, key in self.verifiers.values() if who is owner]
        key = again[0] if again else self.network.key()
        self.verifiers[owner.register_verifier(key, Wei(1000 * CREDIT))] = (owner, key)

    def retire(self) -> None:
        operator = self.random.choice([*self.keys, *self.verifiers])
        owner, _ = (self.keys | self.verifiers)[operator]
        owner.retire(operator)

    def rotate(self) -> None:
        operator = self.random.choice(list(self.keys))
        owner, _ = self.keys[operator]
        key = self.network.key()
        owner.rotate_key(operator, key)
        self.keys[operator] = (owner, key)

    def move_stake(self) -> None:
        owner = self.random.choice(self.owners)
        doing = self.random.choice([owner.add_stake, owner.request_unstake, lambda _: owner.withdraw()])
        doing(Wei(self.random.randrange(1, 200) * CREDIT))

    # Jobs and batches

    def open_job(self) -> None:
        world = World(self.network)
        self.jobs.append(world.open_job(self.random.choice(self.owners), tasks=40, reward=400, verifier_fee=40))

    def _verifier(self) -> ChainClient:
        _, key = self.random.choice(list(self.verifiers.values()))
        return self.network.client(key)

    def commit(self) -> None:
        chosen = self.random.sample(self.jobs, min(len(self.jobs), self.random.randrange(1, 3)))
        root, members = Digest(self.random.randbytes(32)), Digest(self.random.randbytes(32))
        lines = [(job, UNITS * self.random.randrange(1, 4)) for job in chosen]
        self.batches.append(self._verifier().commit_batch(root, len(lines), members, lines))

    def draw(self) -> None:
        self.network.anvil.mine(self.random.randrange(4))
        self.chain.draw(self.random.choice(self.batches))

    def settle(self) -> None:
        batch = self.random.choice([b for b in self.batches if not self.chain.batch(b).settled_at])
        view = self.chain.view(batch)
        payouts = tuple(
            Payout(node.id, Wei(CREDIT), valid=self.random.randrange(3), audits=1) for node in view.operators[:3]
        )
        suspect = self.random.choice(view.operators).id
        accusers = tuple(node.id for node in view.operators[3:6])
        reason = self.random.choice([FaultReason.MISMATCH, FaultReason.WITHHELD, FaultReason.DISAGREED])
        job = view.header.lines[0].job
        fault = Fault(suspect, job, TaskIndex(0), SegmentIndex(0), reason, accusers)
        faults = (fault,) if self.random.random() < 0.5 else ()
        first, *rest = view.header.lines
        shares = (Share(first.units, Wei(sum(p.amount for p in payouts))), *(Share(0, Wei(0)) for _ in rest))
        settlement = Settlement(payouts, faults, shares, EMPTY_ROOT, raw_cid(self.random.randbytes(8)))
        digest = settlement_digest(view.domain, view.ref, settlement)
        signers = self.chain.signers_of(batch)
        secrets = [self.verifiers[record.id][1].bls_secret() for record in signers]
        signature = bls.aggregate([bls.sign(secret, digest) for secret in secrets])
        self.chain.settle_batch(batch, settlement, sum(1 << record.slot for record in signers), signature)
        self.paid[batch] = payouts

    def _settled(self) -> BatchId:
        return self.random.choice([b for b in self.batches if self.chain.batch(b).settled_at])

    def claim(self) -> None:
        batch = self._settled()
        index = self.random.randrange(len(self.paid[batch]))
        self.chain.claim([claim_of(batch, self.paid[batch], index)])

    def finalize(self) -> None:
        self.chain.finalize(self._settled())

    def take(self) -> None:
        self._verifier().take_batch(self.random.choice(self.batches))

    def drop(self) -> None:
        self.chain.drop_batch(self.random.choice(self.batches))

    # The Court

    def absolve(self) -> None:
        batch = self._settled()
        faults = self.chain.slashes(batch)
        if not faults:
            raise NoSuchFault("NoSuchFault", {"batch": batch, "index": 0})
        self._judge(batch, lambda court: court.challenge_fault(batch, 0))

    def void(self) -> None:
        batch = self._settled()
        self._judge(batch, lambda court: court.challenge_record(batch))

    def _judge(self, batch: BatchId, opening: Callable[[Court], object]) -> None:
        """A challenge for which no jury of five can be found voids the batch; with `jury_size` 1 it is decided."""
        challenger = self.network.owner(200)
        challenge = opening(Court(challenger))
        world = World(self.network, owners=[owner for owner, _ in self.keys.values()])
        world.nodes = [key for _, key in self.keys.values()]
        if self.random.random() < 0.7:
            world.try_case(challenge, wrong=self.random.random() < 0.8)  # type: ignore[arg-type]
            self.network.anvil.warp(self.chain.params().court.appeal_time)
        else:
            self.network.anvil.warp(self.chain.params().court.draw_time)
            self.network.anvil.mine(3)
        Court(challenger).resolve(challenge)  # type: ignore[arg-type]

    def pass_time(self) -> None:
        self.network.anvil.warp(self.random.choice([1, 70, 70, 70, 1000, 4000]))
