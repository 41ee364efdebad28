"""A random life of a network: every step is one that somebody could take, and many are refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from world import CREDIT, UNITS, Network, World

from proofyard.chain import BatchState, ChainClient, ChallengeId, Court, NotDrawn, Refused, Wallet, claim_of
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
    """Takes random steps. `taken` counts those that were not refused, by their names, `refused` the others."""

    network: Network
    random: Random
    owners: list[ChainClient] = field(default_factory=list)
    keys: dict[OperatorId, tuple[ChainClient, Wallet]] = field(default_factory=dict)
    verifiers: dict[OperatorId, tuple[ChainClient, Wallet]] = field(default_factory=dict)
    jobs: list[JobId] = field(default_factory=list)
    batches: list[BatchId] = field(default_factory=list)
    paid: dict[BatchId, tuple[Payout, ...]] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

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
            (3, self.seat_verifier),
            (1, self.retire),
            (1, self.rotate),
            (2, self.move_stake),
            (2, self.open_job),
            (6, self.commit),
            (5, self.draw),
            (8, self.settle),
            (6, self.claim),
            (2, self.finalize),
            (4, self.absolve),
            (2, self.void),
            (3, self.take),
            (1, self.drop),
            (3, self.pass_time),
            (1, self.pass_days),
        ]
        weights = [weight for weight, _ in doings]
        for _ in range(steps):
            _, doing = self.random.choices(doings, weights)[0]
            try:
                doing()
                self.taken[doing.__name__] = self.taken.get(doing.__name__, 0) + 1
            except (Refused, NotDrawn, IndexError) as error:
                name = f"{doing.__name__}: {getattr(error, 'name', type(error).__name__)}"
                self.refused[name] = self.refused.get(name, 0) + 1

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
        operator = self.random.choice([*self.keys, *list(self.verifiers)[:1]])
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
        """One whose seat counts, or the first of all where none does."""
        seated = [record.id for record in self.chain.active_verifiers() if record.counts] or list(self.verifiers)[:1]
        _, key = self.verifiers[self.random.choice(seated)]
        return self.network.client(key)

    def _newest(self, wanted: Callable[[BatchState], bool]) -> BatchId:
        """One of the three newest batches of a kind."""
        states = [self.chain.batch(batch) for batch in self.batches]
        return self.random.choice([state.id for state in states if wanted(state)][-3:])

    def commit(self) -> None:
        chosen = self.random.sample(self.jobs, min(len(self.jobs), self.random.randrange(1, 3)))
        root, members = Digest(self.random.randbytes(32)), Digest(self.random.randbytes(32))
        lines = [(job, UNITS * self.random.randrange(1, 4)) for job in chosen]
        self.batches.append(self._verifier().commit_batch(root, len(lines), members, lines))
        self.network.anvil.mine(self.random.choice([1, 3, 3, 3]))

    def draw(self) -> None:
        self.network.anvil.mine(self.random.randrange(4))
        self.chain.draw(self.random.choice(self.batches))

    def settle(self) -> None:
        batch = self._newest(lambda state: not state.settled_at and not state.dropped)
        view = self.chain.view(batch)
        payouts = tuple(
            Payout(node.id, Wei(CREDIT), valid=self.random.randrange(3), audits=1) for node in view.operators[:3]
        )
        one_each = list({node.owner: node.id for node in view.operators}.values())
        suspect, *accusers = self.random.sample(one_each, 4)
        reason = self.random.choice([FaultReason.MISMATCH, FaultReason.WITHHELD, FaultReason.DISAGREED])
        job = view.header.lines[0].job
        fault = Fault(suspect, job, TaskIndex(0), SegmentIndex(0), reason, tuple(accusers))
        faults = (fault,) if self.random.random() < 0.7 else ()
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
        return self._newest(lambda state: state.settled_at > 0)

    def claim(self) -> None:
        batch = self._settled()
        index = self.random.randrange(len(self.paid[batch]))
        self.chain.claim([claim_of(batch, self.paid[batch], index)])

    def finalize(self) -> None:
        self.chain.finalize(self._settled())

    def take(self) -> None:
        self._verifier().take_batch(self._newest(lambda state: state.voided or not state.settled_at))

    def drop(self) -> None:
        self.chain.drop_batch(self.random.choice(self.batches))

    # The Court

    def absolve(self) -> None:
        batch = self._settled()
        faults = self.chain.slashes(batch)
        if not faults:
            raise NoSuchFault("NoSuchFault", {"batch": batch, "index": 0})
        self._judge(lambda court: court.challenge_fault(batch, self.random.randrange(len(faults))), 0.8)

    def void(self) -> None:
        batch = self._settled()
        self._judge(lambda court: court.challenge_record(batch), 0.2)

    def _judge(self, opening: Callable[[Court], ChallengeId], wrong: float) -> None:
        """A challenge that a jury finds right or wrong, or for which nobody draws one, so that the batch may be
        voided."""
        challenger = self.network.owner(200)
        challenge = opening(Court(challenger))
        world = World(self.network, owners=[owner for owner, _ in self.keys.values()])
        world.nodes = [key for _, key in self.keys.values()]
        if self.random.random() < 0.7:
            world.try_case(challenge, wrong=self.random.random() < wrong)
            self.network.anvil.warp(self.chain.params().court.appeal_time)
        else:
            self.network.anvil.warp(self.chain.params().court.draw_time)
            self.network.anvil.mine(3)
        Court(challenger).resolve(challenge)

    def pass_time(self) -> None:
        self.network.anvil.warp(self.random.choice([1, 1, 70, 70, 1000]))

    def pass_days(self) -> None:
        """Long enough for everything that is open to expire, and for seats to count."""
        if self.random.random() < 0.3:
            self.network.anvil.warp(6000)
