"""A round's voters without a network: signatures that are hashes, messages that a test delivers, liars that see all."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.node.rounds.machine import Durable, RoundMachine, Step
from proofyard.node.rounds.messages import Certified, Message, NewView, NewViews, Proposal, Vote
from proofyard.protocol.addresses import read_address
from proofyard.protocol.bls import BlsSignature, PublicKey, SecretKey
from proofyard.protocol.certificate import FIRST, Certificate, Delta, Phase, Round, Terms, subject_of
from proofyard.protocol.commitment import Domain, word
from proofyard.protocol.roster import Roster, Scheme, Voter, roster_of
from proofyard.protocol.types import Address, Digest, JobId, TaskIndex

TIMEOUT_S = 10.0
TASKS = 4
LIES = ("later ones too", "twice", "as if nothing was prepared", "without")
"""What may be false about the proof of a proposal."""
DOMAIN = Domain(31337, Address("0x" + "11" * 20))
SEED = b"s" * 32


class Hashes:
    """In place of BLS: sums of hashes over secrets, which are looked up by their keys."""

    def __init__(self, secrets: Iterable[SecretKey]) -> None:
        self._secrets = {self.key(secret): secret for secret in secrets}

    def key(self, secret: SecretKey) -> PublicKey:
        return PublicKey(hashlib.sha384(b"%d" % secret).digest())

    def sign(self, secret: SecretKey, message: bytes) -> BlsSignature:
        return BlsSignature(hashlib.sha512(b"%d:%s" % (secret, message)).digest() + bytes(32))

    def aggregate(self, signatures: Sequence[BlsSignature]) -> BlsSignature:
        return BlsSignature((sum(map(int.from_bytes, signatures)) % (1 << 768)).to_bytes(96))

    def verify(self, keys: Sequence[PublicKey], message: bytes, signature: BlsSignature) -> bool:
        return bool(keys) and signature == self.aggregate([self.sign(self._secrets[key], message) for key in keys])

    def proves(self, key: PublicKey, digest: bytes, possession: BlsSignature) -> bool:
        return True


def address(number: int) -> Address:
    return read_address("0x" + f"{number + 1:02x}" * 20)


def delta(task: int, result: bytes = b"") -> Delta:
    return Delta(TaskIndex(task), cid_of_bytes(b"%d %s" % (task, result)))


@dataclass
class Town:
    """`weights` of the voters by number; those in `liars` do what a test has them do. `wire`: what was sent and not
    delivered, with sender and receiver."""

    weights: Sequence[int] = (1, 1, 1, 1)
    liars: frozenset[int] = frozenset()
    terms: Terms = Terms(range(TASKS), 2)  # noqa: RUF009 (frozen)
    scheme: Scheme | None = None
    secrets: Sequence[SecretKey] = ()
    possessions: Sequence[BlsSignature] = ()
    keys: Sequence[PublicKey] = ()
    now: float = 0.0
    wire: list[tuple[Address, Address, Message]] = field(default_factory=list)
    kept: dict[Address, Durable] = field(default_factory=dict)
    decided: dict[Address, Certificate] = field(default_factory=dict)
    wanted: list[tuple[Address, Delta]] = field(default_factory=list)
    signed: dict[tuple[Phase, int, Digest], dict[Address, BlsSignature]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    said: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.weights)
        if self.scheme is None:
            self.secrets = [SecretKey(number + 1) for number in range(count)]
            hashes = self.scheme = Hashes(self.secrets)
            self.keys = [hashes.key(secret) for secret in self.secrets]
            self.possessions = [BlsSignature(bytes(96))] * count
        self.nodes = [address(number) for number in range(count)]
        self.secret = dict(zip(self.nodes, self.secrets, strict=True))
        voters = zip(self.nodes, self.keys, self.possessions, self.weights, strict=True)
        self.roster: Roster = roster_of([Voter(*each) for each in voters], self.scheme)
        self.round = Round(DOMAIN, JobId(7), FIRST, 3, FIRST, self.roster.digest)
        self.order = self.roster.leaders(SEED, self.round.digest)
        self.honest = [node for number, node in enumerate(self.nodes) if number not in self.liars]
        self.lying = [node for number, node in enumerate(self.nodes) if number in self.liars]
        self.machines = {node: self.machine(node) for node in self.honest}

    def machine(self, node: Address, durable: Durable | None = None) -> RoundMachine:
        assert self.scheme is not None
        return RoundMachine(
            *(self.round, self.roster, self.terms, node, self.secret[node]),
            seed=SEED,
            timeout_s=TIMEOUT_S,
            durable=durable,
            scheme=self.scheme,
        )

    def leader(self, view: int) -> Address:
        return self.order[(view - 1) % len(self.order)]

    # What honest voters do

    def take(self, node: Address, step: Step, *, sent: int | None = None) -> None:
        """Keep and send what a step says; where `sent` is given, the node dies after so many messages."""
        if step.keep is not None:
            self.kept[node] = step.keep
        for receiver, message in step.sends[:sent]:
            self._note(node, message)
            self.wire.append((node, receiver, message))
        self.wanted += [(node, each) for _, each in step.wanted]
        if step.decided is not None:
            self.decided[node] = step.decided

    def start(self, tasks: Iterable[int] = range(TASKS), nodes: Iterable[Address] | None = None) -> None:
        """Everybody has these tasks' results."""
        given = list(tasks)
        for node in self.honest if nodes is None else nodes:
            for task in given:
                self.take(node, self.machines[node].deliver(delta(task), self.now))

    def close(self) -> None:
        for node in self.honest:
            self.take(node, self.machines[node].close(self.now))

    def deliver(self, place: int = 0, *, again: bool = False) -> None:
        """One message arrives, or with `again` arrives and is still under way."""
        sender, receiver, message = self.wire[place] if again else self.wire.pop(place)
        if receiver in self.machines:
            self.take(receiver, self.machines[receiver].receive(sender, message, self.now))

    def deliver_all(self, most: int = 20_000, lost: Callable[[Message], bool] = lambda _: False) -> None:
        """Until nobody has anything to say; messages that are `lost` do not arrive."""
        while self.wire and most:
            if lost(self.wire[0][2]):
                self.wire.pop(0)
            else:
                self.deliver()
            most -= 1
        assert not self.wire, "they never stop talking"

    def restart(self, node: Address) -> None:
        """From what was kept last; the deltas lie in its store."""
        had = self.machines[node]
        self.machines[node] = self.machine(node, self.kept.get(node))
        for each in had._own.values():
            self.take(node, self.machines[node].deliver(each, self.now))
        if had._closed:
            self.take(node, self.machines[node].close(self.now))

    def wait(self, seconds: float, *, step: float = 1.0) -> None:
        """Time passes, and whatever is said arrives at once."""
        until = self.now + seconds
        while self.now < until:
            self.now += step
            for node in self.honest:
                self.take(node, self.machines[node].tick(self.now))
            self.deliver_all()

    # What can be shown

    def subjects(self, phase: Phase) -> set[tuple[int, Digest]]:
        """(view, set) of all certificates of a phase that anybody could make, liars signing whatever helps."""
        lying = self.roster.weight(self.lying)
        return {
            (view, subject)
            for (of, view, subject), signatures in self.signed.items()
            if of == phase and self.roster.is_quorum(lying + self.roster.weight(set(signatures) - set(self.lying)))
        }

    def _note(self, node: Address, message: Message) -> None:
        self.said.append(message)
        match message:
            case Vote():
                self.signed[message.phase, message.view, Digest(message.subject)][node] = message.signature
            case NewView():
                high = message.high.view if message.high else 0
                self.signed[Phase.NEW_VIEW, message.view, Digest(word(high))][node] = message.signature
            case Proposal():
                # the leader's own votes never travel: what it proposed it has voted for
                found = subject_of(message.proposed)
                self.signed[Phase.PREPARE, message.view, found][node] = self.sign(
                    node, Phase.PREPARE, message.view, found
                )
            case Certified():
                found, view = message.certificate.subject, message.certificate.view
                if message.certificate.phase == Phase.PREPARE and self.leader(view) == node:
                    self.signed[Phase.COMMIT, view, found][node] = self.sign(node, Phase.COMMIT, view, found)

    # What liars can do

    def sign(self, node: Address, phase: Phase, view: int, subject: Digest) -> BlsSignature:
        assert self.scheme is not None
        return self.scheme.sign(self.secret[node], self.round.statement(phase, view, subject))

    def certificate(self, phase: Phase, view: int, deltas: tuple[Delta, ...]) -> Certificate | None:
        """From what honest voters have signed, and whatever the liars sign; None where that is no quorum."""
        subject = subject_of(deltas)
        signed = dict(self.signed.get((phase, view, subject), {}))
        signed |= {node: self.sign(node, phase, view, subject) for node in self.lying}
        if not self.roster.is_quorum(self.roster.weight(signed)):
            return None
        return self.forged(phase, view, deltas, signed)

    def forged(
        self, phase: Phase, view: int, deltas: tuple[Delta, ...], signed: dict[Address, BlsSignature]
    ) -> Certificate:
        assert self.scheme is not None
        signature = self.scheme.aggregate(list(signed.values()))
        return Certificate(phase, view, deltas, self.roster.signers(signed), signature)

    def proposal(
        self, view: int, deltas: tuple[Delta, ...], high: Certificate | None = None, lie: str = ""
    ) -> Proposal:
        """With as good a proof as there is, the liars entering with nothing prepared, or with a false one (`LIES`)."""
        assert self.scheme is not None
        entered = Phase.NEW_VIEW, view, Digest(word(0))
        self.signed[entered] |= {node: self.sign(node, *entered) for node in self.lying}
        groups: list[NewViews] = []
        for (phase, of, subject), signatures in self.signed.items():
            earlier = int.from_bytes(subject)
            if phase != Phase.NEW_VIEW or of != view or (earlier > (high.view if high else 0) and not lie):
                continue
            said = 0 if lie == "as if nothing was prepared" else earlier
            group = NewViews(said, self.roster.signers(signatures), self.scheme.aggregate(list(signatures.values())))
            groups += [group] * (2 if lie == "twice" else 1)
        proof = () if lie == "without" else tuple(groups)
        return Proposal(self.round.digest, view, () if high else deltas, high, proof)


__all__ = ["LIES", "SEED", "TASKS", "TIMEOUT_S", "Hashes", "Town", "address", "delta"]
