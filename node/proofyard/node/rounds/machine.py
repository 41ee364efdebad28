"""The voters' state machine of one round: events and the time in, what to keep, send and fetch out.

Views follow one another, each with a leader. In a view
  1. the leader proposes a set; each voter that finds it right signs `PREPARE`, once in a view;
  2. a quorum of those is a prepared certificate; each voter that sees it keeps it as its `high` and signs `COMMIT`;
  3. a quorum of those decides the round.
Who waits too long signs `NEW_VIEW` with its `high` and votes in no earlier view any more. A leader shows a quorum of
those, and proposes what the latest prepared certificate has that any of them, or itself, knows. Two-phase HotStuff with
the view change of PBFT and Jolteon (arXiv 1803.05069, 2106.10362); why it is safe and lives: docs/federated.md.

Every call returns a `Step`, whose `keep` has to be on disk before anything that the step sends leaves. A machine that
is made anew from what was kept last, whatever else was lost, is an honest voter; one that is made from less may lie.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from proofyard.node.rounds.messages import Certified, Message, NewView, NewViews, Proposal, Vote
from proofyard.protocol.bls import BlsSignature, SecretKey
from proofyard.protocol.certificate import (
    MAX_VIEW,
    Certificate,
    CertificateInvalid,
    Delta,
    Deltas,
    Phase,
    Round,
    Terms,
    subject_of,
    validate_certificate,
)
from proofyard.protocol.commitment import word
from proofyard.protocol.roster import BLS, Roster, Scheme
from proofyard.protocol.types import Address, Digest, TaskIndex

MAX_DOUBLINGS = 6
"""A view's time-out is twice that of the view before, up to 64 times the first."""
RESENDS = 2
"""So often in the first time-out what has no answer is said again."""
MAX_STRIKES = 8
"""After so many false messages a voter is not listened to any more in this round: each costs a check of signatures."""
NOTHING = Digest(b"")


class Durable(msgspec.Struct, frozen=True):
    """What must outlive a crash: no view before `view` is voted in; `voted`: what was prepared in it, empty if nothing;
    `high`: the latest prepared certificate; `proposed`: what was proposed as leader of the view."""

    view: int = 1
    voted: Digest = NOTHING
    high: Certificate | None = None
    proposed: Proposal | None = None
    decided: Certificate | None = None

    @property
    def high_view(self) -> int:
        return self.high.view if self.high else 0


@dataclass(frozen=True)
class _Entered:
    """A voter's word that it is in a view, and of which view its latest prepared certificate was then."""

    view: int
    high: int
    signature: BlsSignature


@dataclass
class Step:
    """`keep` first, then `sends`; `wanted`: deltas that a peer proposed and this node does not have; `decided`: what
    the round took."""

    keep: Durable | None = None
    sends: list[tuple[Address, Message]] = field(default_factory=list)
    wanted: list[tuple[Address, Delta]] = field(default_factory=list)
    decided: Certificate | None = None


class RoundMachine:
    """One voter's part in `each` round. `seed` is the chain's, for the order of leaders; `timeout_s` that of view 1."""

    def __init__(
        self,
        each: Round,
        roster: Roster,
        terms: Terms,
        node: Address,
        secret: SecretKey,
        *,
        seed: bytes,
        timeout_s: float,
        durable: Durable | None = None,
        scheme: Scheme = BLS,
    ) -> None:
        self.round, self.roster, self.terms, self.node = each, roster, terms, node
        self._secret, self._scheme, self._timeout_s = secret, scheme, timeout_s
        self._leaders = roster.leaders(seed, each.digest)
        self._others = tuple(voter.node for voter in roster.voters if voter.node != node)
        self.durable = durable or Durable()
        self._own: dict[TaskIndex, Delta] = {}
        """The first result of each task that this node has."""
        self._fetched: set[Delta] = set()
        """Others, as far as the pending proposal names them."""
        self._closed = False
        self._entered: dict[Address, _Entered] = {}
        """The latest view of each voter, this one too."""
        self._votes: dict[Phase, dict[Address, BlsSignature]] = {Phase.PREPARE: {}, Phase.COMMIT: {}}
        self._pending = self.durable.proposed
        self._strikes: dict[Address, int] = {}
        self._told: dict[Address, float] = {}
        self._deadline: float | None = None
        """Until when the view has, once a quorum is in it."""
        self._resend: float | None = None if self.durable.view == 1 and not self._pending else 0.0
        self._step = Step()
        if self.durable.view > 1:
            self._note_own()

    def leader(self, view: int) -> Address:
        return self._leaders[(view - 1) % len(self._leaders)]

    @property
    def next_wake(self) -> float | None:
        """When `tick` has something to do; None while it waits for others."""
        if self.durable.decided:
            return None
        return min((at for at in (self._deadline, self._resend) if at is not None), default=None)

    # Events

    def deliver(self, delta: Delta, now: float) -> Step:
        """This node has a result, and has found the commitment to it signed and the result a right one."""
        if self.durable.decided or not (delta.task in self.terms.tasks or delta.task in self.terms.late):
            return self._done()
        self._own.setdefault(delta.task, delta)
        if self._pending and delta in self._pending.deltas:
            self._fetched.add(delta)
        if self.terms.is_whole(self._own):
            self._close(now)
        self._go_on(now)
        return self._done()

    def close(self, now: float) -> Step:
        """By this node's clock the round's time is up: it may do without the deltas that are not here."""
        if not self.durable.decided:
            self._close(now)
            self._go_on(now)
        return self._done()

    def tick(self, now: float) -> Step:
        if self.durable.decided:
            return self._done()
        if self._deadline is not None and self._deadline <= now and self.durable.view < MAX_VIEW:
            self._enter(self.durable.view + 1, now)
            self._follow(now)
        elif self._resend is not None and self._resend <= now:
            self._say_again(now)
        self._go_on(now)
        return self._done()

    def receive(self, sender: Address, message: Message, now: float) -> Step:
        """A message from a voter whom the transport has proved. What is false is counted against it, and nothing else
        comes of it."""
        if sender not in self.roster.by_node or sender == self.node or message.round != self.round.digest:
            return self._done()
        if self.durable.decided:
            self._tell_decided(sender, message, now)
        elif self._strikes.get(sender, 0) < MAX_STRIKES:
            try:
                self._take(sender, message, now)
            except CertificateInvalid:
                self._strikes[sender] = self._strikes.get(sender, 0) + 1
        return self._done()

    def _take(self, sender: Address, message: Message, now: float) -> None:
        match message:
            case Proposal():
                self._on_proposal(sender, message, now)
            case Vote():
                self._on_vote(sender, message)
            case NewView():
                self._on_new_view(sender, message, now)
            case Certified():
                self._on_certified(message.certificate, now)
        self._go_on(now)

    def _tell_decided(self, sender: Address, message: Message, now: float) -> None:
        if isinstance(message, Certified) and message.certificate.phase == Phase.COMMIT:
            return
        if self.durable.decided and now - self._told.get(sender, -self._timeout_s) >= self._timeout_s / RESENDS:
            self._told[sender] = now
            self._send((sender,), Certified(self.round.digest, self.durable.decided))

    # Views

    def _close(self, now: float) -> None:
        if not self._closed:
            self._closed = True
            if self.durable.view == 1 and self._deadline is None:
                self._run(now)

    def _run(self, now: float) -> None:
        """The view's time begins: a quorum is in it, or it is the first one and the round may close."""
        self._deadline = now + self._timeout_s * 2 ** min(self.durable.view - 1, MAX_DOUBLINGS)
        if self._resend is None:
            self._resend = now + self._timeout_s / RESENDS

    def _enter(self, view: int, now: float) -> None:
        """Leave all views before this one, and say so."""
        self._keep(replace(self.durable, view=view, voted=NOTHING, proposed=None))
        self._votes = {Phase.PREPARE: {}, Phase.COMMIT: {}}
        self._pending = self._deadline = None
        self._fetched.clear()
        self._resend = now + self._timeout_s / RESENDS
        self._say_view()

    def _note_own(self) -> None:
        view, high = self.durable.view, self.durable.high_view
        self._entered[self.node] = _Entered(view, high, self._sign(Phase.NEW_VIEW, view, Digest(word(high))))

    def _say_view(self) -> None:
        """That this node is in its view; where something is prepared in it, that shows more."""
        if self._prepared:
            self._send(self._others, Certified(self.round.digest, self._prepared))
        elif self.durable.view > 1:
            self._note_own()
            signature = self._entered[self.node].signature
            message = NewView(self.round.digest, self.durable.view, self.durable.high, signature)
            self._send(self._others, message)

    @property
    def _prepared(self) -> Certificate | None:
        """What is prepared in this view."""
        high = self.durable.high
        return high if high and high.view == self.durable.view else None

    def _follow(self, now: float) -> None:
        """Where a third of all weight is in a later view, go there: not all of it lies. Once a quorum is in this view,
        or in later ones, its time begins."""
        views = sorted({each.view for each in self._entered.values() if each.view > self.durable.view}, reverse=True)
        for view in views:
            if self.roster.has_honest(self._weight_from(view)):
                self._enter(view, now)
                break
        if (
            self._deadline is None
            and self.durable.view > 1
            and self.roster.is_quorum(self._weight_from(self.durable.view))
        ):
            self._run(now)

    def _weight_from(self, view: int) -> int:
        return self.roster.weight(node for node, each in self._entered.items() if each.view >= view)

    def _on_new_view(self, sender: Address, message: NewView, now: float) -> None:
        known = self._entered.get(sender)
        if message.view < 2 or (known and known.view >= message.view):
            return
        high = message.high.view if message.high else 0
        if message.high:
            self._require_prepared(message.high, message.view)
        self._require(self._signed((sender,), Phase.NEW_VIEW, message.view, Digest(word(high)), message.signature))
        self._entered[sender] = _Entered(message.view, high, message.signature)
        if message.high:
            self._see(message.high, now)
        self._follow(now)

    # The leader

    def _go_on(self, now: float) -> None:
        """Propose or vote, if what that waited for is there."""
        if not self.durable.decided:
            self._propose(now)
            self._consider()

    def _propose(self, now: float) -> None:
        durable = self.durable
        if self.leader(durable.view) != self.node or durable.proposed or self._prepared or self._deadline is None:
            return
        here = [node for node, each in self._entered.items() if each.view == durable.view] if durable.view > 1 else []
        if durable.view > 1 and not self.roster.is_quorum(self.roster.weight(here)):
            return
        deltas = () if durable.high else self._ready()
        if deltas is None:
            return
        proposal = Proposal(self.round.digest, durable.view, deltas, durable.high, self._grouped(here))
        self._keep(replace(durable, proposed=proposal))
        self._pending = proposal
        self._send(self._others, proposal)

    def _ready(self) -> Deltas | None:
        """The set that this node would take; None as long as it may take none."""
        deltas = tuple(self._own[task] for task in sorted(self._own))
        return None if not self._closed or self.terms.objection(deltas) else deltas

    def _grouped(self, nodes: Iterable[Address]) -> tuple[NewViews, ...]:
        """The signatures of these voters that they are in this view, those over one message as one."""
        groups: dict[int, list[Address]] = {}
        for node in nodes:
            groups.setdefault(self._entered[node].high, []).append(node)
        return tuple(
            NewViews(
                high,
                self.roster.signers(group),
                self._scheme.aggregate([self._entered[node].signature for node in group]),
            )
            for high, group in sorted(groups.items())
        )

    def _on_vote(self, sender: Address, vote: Vote) -> None:
        proposed = self.durable.proposed
        if proposed is None or vote.view != self.durable.view or vote.phase not in self._votes:
            return
        if vote.subject != subject_of(proposed.proposed) or sender in self._votes[vote.phase]:
            return
        self._require(self._signed((sender,), vote.phase, vote.view, vote.subject, vote.signature))
        self._count(sender, vote.phase, vote.signature)

    def _count(self, sender: Address, phase: Phase, signature: BlsSignature) -> None:
        """A vote for what this node proposed; a quorum of them is a certificate."""
        votes, proposed = self._votes[phase], self.durable.proposed
        if proposed is None or sender in votes:
            return
        votes[sender] = signature
        if not self.roster.is_quorum(self.roster.weight(votes)) or (phase == Phase.PREPARE and self._prepared):
            return
        found = Certificate(
            phase,
            self.durable.view,
            proposed.proposed,
            self.roster.signers(votes),
            self._scheme.aggregate([votes[voter.node] for voter in self.roster.voters if voter.node in votes]),
        )
        self._send(self._others, Certified(self.round.digest, found))
        if phase == Phase.COMMIT:
            self._decide(found)
        else:
            self._commit(found)

    # Voting

    def _on_proposal(self, sender: Address, proposal: Proposal, now: float) -> None:
        if sender != self.leader(proposal.view):
            raise CertificateInvalid("it does not lead this view")
        if proposal.view < self.durable.view:
            return
        if self._pending is None or proposal.view > self.durable.view:
            self._require_justified(proposal)
            if proposal.view > self.durable.view:
                self._enter(proposal.view, now)
            if self._deadline is None and proposal.view > 1:
                self._run(now)
            self._pending = proposal
            self._want()
        if proposal == self._pending and self.durable.voted == subject_of(proposal.proposed):
            self._vote(Phase.PREPARE, self.durable.voted)

    def _require_justified(self, proposal: Proposal) -> None:
        """That a quorum entered the view, and that none of it knew of a later prepared certificate than `high`."""
        groups = [(group, self.roster.signed_by(group.signers) or ()) for group in proposal.entered]
        signers = [voter.node for _, voters in groups for voter in voters]
        self._require(len(set(signers)) == len(signers))
        self._require(proposal.view == 1 or self.roster.is_quorum(self.roster.weight(signers)))
        latest = max((group.high for group in proposal.entered), default=0)
        if proposal.high is None:
            self._require(latest == 0 and not self.terms.objection(proposal.deltas))
        else:
            self._require(latest <= proposal.high.view and not proposal.deltas)
            self._require_prepared(proposal.high, proposal.view)
        for group, voters in groups:
            nodes = [voter.node for voter in voters]
            subject = Digest(word(group.high))
            self._require(self._signed(nodes, Phase.NEW_VIEW, proposal.view, subject, group.signature))

    def _consider(self) -> None:
        """Vote for this view's proposal once everything in it is here. What was prepared a quorum has looked at."""
        proposal = self._pending
        if proposal is None or self.durable.voted:
            return
        if proposal.high is None:
            whole = self.terms.is_whole([delta.task for delta in proposal.deltas])
            if self._lacking(proposal) or not (whole or self._closed):
                return
        self._learn(proposal.high)
        subject = subject_of(proposal.proposed)
        self._keep(replace(self.durable, voted=subject))
        self._vote(Phase.PREPARE, subject)

    def _lacking(self, proposal: Proposal) -> list[Delta]:
        return [each for each in proposal.deltas if each not in self._fetched and self._own.get(each.task) != each]

    def _want(self) -> None:
        if self._pending and not self._pending.high:
            leader = self.leader(self._pending.view)
            self._step.wanted += [(leader, delta) for delta in self._lacking(self._pending)]

    def _on_certified(self, certificate: Certificate, now: float) -> None:
        if certificate.phase == Phase.COMMIT:
            validate_certificate(self.round, self.roster, certificate, Phase.COMMIT, self._scheme)
            self._decide(certificate)
        elif certificate.view >= self.durable.view:
            self._require_prepared(certificate, certificate.view + 1)
            self._see(certificate, now)

    def _see(self, prepared: Certificate, now: float) -> None:
        """A quorum was in the view of a prepared certificate. One of an earlier view is only remembered."""
        if prepared.view < self.durable.view:
            self._learn(prepared)
            return
        if prepared.view > self.durable.view:
            self._enter(prepared.view, now)
        if self._deadline is None:
            self._run(now)
        self._commit(prepared)

    def _commit(self, prepared: Certificate) -> None:
        """Keep to what is prepared in this view."""
        self._learn(prepared)
        self._vote(Phase.COMMIT, prepared.subject)

    def _vote(self, phase: Phase, subject: Digest) -> None:
        signature = self._sign(phase, self.durable.view, subject)
        leader = self.leader(self.durable.view)
        if leader == self.node:
            self._count(self.node, phase, signature)
        else:
            self._send((leader,), Vote(self.round.digest, phase, self.durable.view, subject, signature))

    def _decide(self, certificate: Certificate) -> None:
        self._keep(replace(self.durable, decided=certificate))
        self._step.decided = certificate

    def _learn(self, high: Certificate | None) -> None:
        """A prepared certificate, checked, later than any that is known."""
        if high and high.view > self.durable.high_view:
            self._keep(replace(self.durable, high=high))

    # Saying

    def _say_again(self, now: float) -> None:
        """Whatever may have been lost."""
        self._resend = now + self._timeout_s / RESENDS
        self._say_view()
        if self.durable.proposed:
            self._send(self._others, self.durable.proposed)
            if self.durable.voted:
                self._vote(Phase.PREPARE, self.durable.voted)
            if self._prepared:
                self._vote(Phase.COMMIT, self._prepared.subject)
        self._want()

    def _send(self, receivers: Iterable[Address], message: Message) -> None:
        self._step.sends += [(receiver, message) for receiver in receivers]

    def _keep(self, durable: Durable) -> None:
        self.durable = self._step.keep = durable

    def _sign(self, phase: Phase, view: int, subject: Digest) -> BlsSignature:
        return self._scheme.sign(self._secret, self.round.statement(phase, view, subject))

    def _signed(
        self, nodes: Iterable[Address], phase: Phase, view: int, subject: Digest, signature: BlsSignature
    ) -> bool:
        keys = [self.roster.by_node[node].key for node in nodes]
        return self._scheme.verify(keys, self.round.statement(phase, view, subject), signature)

    def _require_prepared(self, certificate: Certificate, before: int) -> None:
        self._require(certificate.view < before)
        validate_certificate(self.round, self.roster, certificate, Phase.PREPARE, self._scheme)

    def _require(self, holds: bool) -> None:
        if not holds:
            raise CertificateInvalid("it does not follow from what its senders signed")

    def _done(self) -> Step:
        step, self._step = self._step, Step()
        return step
