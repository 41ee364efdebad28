"""Challenging what was settled, and sitting on juries: the part of `ChainClient` that deals with the Court.

A challenge is sealed in one block and opened in a later one, so that whoever sees it open cannot copy it. Both steps
are one call here, which can be repeated after a crash: the seal's salt follows from the wallet's key and from what is
challenged, and a seal or challenge of this wallet's that is on chain already is found there.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import encode as abi_encode
from web3.types import TxReceipt

from proofyard.chain.client import ChainClient, event_of, header_row, settlement_row
from proofyard.chain.errors import NoWallet
from proofyard.chain.events import ChallengeOpened, ChallengeSealed, topic_of, word
from proofyard.chain.records import ChallengeId, Kind, Phase
from proofyard.chain.refusals import NoSuchFault, NotSealed, NotSettled, OutsideWindow
from proofyard.chain.timeline import when
from proofyard.chain.wallet import Wallet
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.keccak import keccak
from proofyard.protocol.settlement import Header, Settlement
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, SegmentIndex, Signature, Wei

SALT_TYPEHASH = keccak(b"ChallengeSalt(bytes32 subject)")
SEAL_PATIENCE_S = 60.0
"""How long the block after the seal's may take."""
POLL_S = 0.25
OPEN_PHASES = (Phase.DRAW, Phase.VOTE, Phase.VERDICT, Phase.ANSWER)


def sealed_vote(
    challenge: ChallengeId, round_: int, redraws: int, owner: Address, evidence: Digest, keyed: Digest, salt: bytes
) -> Digest:
    """What a juror commits to: keccak256(abi.encode(...)) of what it found and a `salt` of 32 secret bytes."""
    kinds = ["uint256", "uint8", "uint8", "address", "bytes32", "bytes32", "bytes32"]
    return Digest(keccak(abi_encode(kinds, [challenge, round_, redraws, owner, evidence, keyed, salt])))


def subject_of(batch: BatchId, attempt: int, kind: Kind, index: int = 0, segment: int = 0) -> Digest:
    """What a challenge is about: `index` is that of the commitment or fault, 0 for a record."""
    kinds = ["uint256", "uint8", "uint8", "uint256", "uint32"]
    return Digest(keccak(abi_encode(kinds, [batch, attempt, int(kind), index, segment])))


def sealed_challenge(owner: Address, subject: Digest, salt: bytes) -> Digest:
    """What a challenger commits to before it opens its challenge."""
    return Digest(keccak(abi_encode(["address", "bytes32", "bytes32"], [owner, subject, salt])))


def challenge_salt(wallet: Wallet, domain: Domain, subject: Digest) -> bytes:
    """What hides a challenge until it is opened."""
    struct = keccak(abi_encode(["bytes32", "bytes32"], [SALT_TYPEHASH, subject]))
    return wallet.salt_for(domain.typed_digest(struct))


@dataclass(frozen=True)
class Step:
    """One segment of the commitment at `index` of a batch, as its worker signed it: what leads to `after`, leaf
    `segment` + 1 of the trace, which `trace_proof` shows. `salt` opens its mark as work, as the batch's record does."""

    commitment: Commitment
    signature: Signature
    salt: bytes
    index: int
    proof: Sequence[Digest]
    segment: SegmentIndex
    after: Cid
    trace_proof: Sequence[Digest]

    def row(self) -> tuple[Any, ...]:
        """`ICourt.Step`."""
        own = self.commitment
        commitment = (
            own.job,
            own.task,
            own.node,
            own.manifest,
            own.inputs,
            own.trace_root,
            own.segments,
            cid_bytes(own.result),
            own.work_units,
            own.mark,
        )
        proofs = list(self.proof), self.segment, cid_bytes(self.after), list(self.trace_proof)
        return commitment, self.signature, self.index, *proofs, self.salt


class Court:
    """A wallet's dealings with challenges; see `ICourt.sol` for who may do what when. Bonds come from the stake of the
    wallet's owner; an owner's own wallet adds what is missing. A hot key whose owner has too little raises
    `StakeTooLow`."""

    def __init__(self, chain: ChainClient) -> None:
        self._chain = chain

    def challenge_segment(self, batch: BatchId, step: Step) -> ChallengeId:
        """Challenge one segment of a settled batch: it does not lead where its worker says."""
        subject = self._subject(batch, Kind.SEGMENT, step.index, step.segment)
        header = header_row(self._chain.header(batch))
        return self._open(batch, subject, self._bond, "challengeSegment", batch, header, step.row())

    def challenge_record(self, batch: BatchId) -> ChallengeId:
        """Challenge a settlement as a whole: its record cannot be had, or does not validate."""
        subject, header = self._subject(batch, Kind.RECORD), header_row(self._chain.header(batch))
        return self._open(batch, subject, self._bond, "challengeRecord", batch, header)

    def challenge_fault(self, batch: BatchId, index: int) -> ChallengeId:
        """Challenge the fault at `index` of `slashes(batch)`: the operator is innocent. Its own owner can have the bond
        taken from what the fault holds."""
        subject, bond = self._about_fault(batch, index)
        return self._open(batch, subject, bond, "challengeFault", batch, index)

    def challenge_audit(self, batch: BatchId, index: int, step: Step) -> ChallengeId:
        """The same of an auditor's fault, with the segment that it audited: a jury that clears the auditor convicts the
        worker that it contradicts."""
        (subject, bond), header = self._about_fault(batch, index), header_row(self._chain.header(batch))
        return self._open(batch, subject, bond, "challengeAudit", batch, index, header, step.row())

    def _about_fault(self, batch: BatchId, index: int) -> tuple[Digest, Wei]:
        """The subject of a challenge of a fault, and what its bond takes of the challenger's stake."""
        subject, bond = self._subject(batch, Kind.FAULT, index), self._bond
        return subject, Wei(0) if self._frozen(batch, index, bond) else bond

    def challenge_receipt(self, leaf: Digest, job: JobId, deadline: int, signature: Signature) -> ChallengeId:
        """Show a verifier's receipt for a commitment that no batch honoured by its deadline. Needs no seal."""
        self._require_window(deadline)
        receipt = self._bonded(self._bond, "challengeReceipt", leaf, job, deadline, signature)
        return event_of(receipt, ChallengeOpened).challenge

    def answer_receipt(self, challenge: ChallengeId, batch: BatchId, index: int, proof: Sequence[Digest]) -> None:
        """Show the batch that honours a challenged receipt."""
        header = header_row(self._chain.header(batch))
        self._chain.transact_court("answerReceipt", challenge, batch, header, index, list(proof))

    def draw_jury(self, challenge: ChallengeId) -> list[Address]:
        """The jury's owners, drawn now if nobody has, which pays; empty where the draw had to be moved to a later
        block."""
        record = self._chain.challenge(challenge)
        if record.phase == Phase.DRAW:
            self._chain.transact_court("drawJury", challenge)
        return self._chain.jurors(challenge, record.round)

    def commit_vote(self, challenge: ChallengeId, sealed: Digest) -> None:
        """Seal this hot key's owner's vote, see `sealed_vote`."""
        self._chain.transact_court("commitVote", challenge, sealed)

    def reveal_vote(self, challenge: ChallengeId, evidence: Digest, keyed: Digest, salt: bytes) -> None:
        self._chain.transact_court("revealVote", challenge, evidence, keyed, salt)

    def appeal(self, challenge: ChallengeId) -> None:
        """Take a first verdict to a larger jury, with the appeal bond; of a fault its own owner can have it taken from
        what the fault holds."""
        bond, record = self._chain.params().court.appeal_bond, self._chain.challenge(challenge)
        frozen = record.kind == Kind.FAULT and self._frozen(record.batch, record.entry, bond)
        self._bonded(Wei(0) if frozen else bond, "appeal", challenge)

    def resolve(self, challenge: ChallengeId) -> Phase:
        """Count the votes, or carry out the decision, whichever it is time for; the phase it leads to."""
        self._chain.transact_court("resolve", challenge)
        return self._chain.challenge(challenge).phase

    def report_equivocation(
        self,
        batch: BatchId,
        header: Header,
        slot: int,
        one: tuple[Settlement, bytes],
        other: tuple[Settlement, bytes],
    ) -> None:
        """Show two settlements of one attempt at a batch, each with the signature (256 bytes of EIP-2537) of the
        verifier that had seat `slot`. `header` is the one that both were signed with, `BatchView.header` of that
        attempt, with the seed."""
        rows = [settlement_row(batch, settlement) for settlement, _ in (one, other)]
        self._chain.transact_court("reportEquivocation", *rows, header_row(header), slot, one[1], other[1])

    @property
    def _bond(self) -> Wei:
        """Of a challenge."""
        return self._chain.params().court.bond

    def _fund(self, bond: Wei) -> None:
        if bond:
            self._chain.ensure_bond(bond)

    def _bonded(self, bond: Wei, function: str, *arguments: Any) -> TxReceipt:
        """Call a function that takes a bond from the stake, which is at hand then. Nothing is added to the stake for a
        call that was cut off and came to its end."""
        found = self._chain.resume_court(function, *arguments)
        if found is not None:
            return found
        self._fund(bond)
        return self._chain.transact_court(function, *arguments)

    def _frozen(self, batch: BatchId, index: int, bond: Wei) -> bool:
        """Whether this wallet's owner is the one accused, and a fault of the batch holds enough of its stake."""
        faults = self._chain.slashes(batch)
        if not 0 <= index < len(faults):
            raise NoSuchFault("NoSuchFault", {"batch": batch, "index": index})
        accused, payer = faults[index].operator, self._chain.payer()
        owners = {fault.operator: self._chain.operator_state(fault.operator).owner for fault in faults}
        held = [fault for fault in faults if owners[fault.operator] == payer and not fault.absolved]
        return owners[accused] == payer and any(fault.amount >= bond for fault in held)

    def _subject(self, batch: BatchId, kind: Kind, index: int = 0, segment: int = 0) -> Digest:
        """What is challenged. Refuses what the Court would refuse for being too early or too late, before anything is
        paid."""
        state = self._chain.batch(batch)
        if state.settled_at == 0:
            raise NotSettled("NotSettled", {"batch": batch})
        self._require_window(state.settled_at)
        return subject_of(batch, state.attempt, kind, index, segment)

    def _require_window(self, opens: int) -> None:
        closes = opens + self._chain.params().challenge_window
        if not opens <= self._chain.now() <= closes:
            raise OutsideWindow("OutsideWindow", {"opens": opens, "closes": closes})

    def _open(self, batch: BatchId, subject: Digest, bond: Wei, function: str, *arguments: Any) -> ChallengeId:
        """Have the bond, seal, wait for the next block, open. The challenge, also where this wallet had opened it
        before."""
        if self._chain.wallet is None:
            raise NoWallet
        owner = self._chain.payer()
        earlier = self._opened(batch, subject, owner)
        if earlier and self._chain.challenge(earlier.challenge).phase in OPEN_PHASES:
            return earlier.challenge
        self._fund(bond)
        salt = challenge_salt(self._chain.wallet, self._chain.domain, subject)
        self._seal(owner, sealed_challenge(owner, subject, salt), earlier)
        give_up = time.monotonic() + SEAL_PATIENCE_S
        while True:
            try:
                receipt = self._chain.transact_court(function, *arguments, salt, in_next_block=True)
                return event_of(receipt, ChallengeOpened).challenge
            except NotSealed:  # an endpoint that knows no pending block, and the seal's is the newest one yet
                if time.monotonic() >= give_up:
                    raise
                time.sleep(POLL_S)

    def _opened(self, batch: BatchId, subject: Digest, owner: Address) -> ChallengeOpened | None:
        """The owner's own last challenge about `subject`."""
        for event in reversed(self._chain.recent_events([topic_of(ChallengeOpened), None, word(batch)])):
            assert isinstance(event, ChallengeOpened)
            if event.challenger == owner and self._chain.challenge(event.challenge).subject == subject:
                return event
        return None

    def _seal(self, owner: Address, sealed: Digest, earlier: ChallengeOpened | None) -> None:
        """Send the seal, unless it is on chain and no challenge has used it."""
        topics = [topic_of(ChallengeSealed), word(int(owner, 16)), "0x" + sealed.hex()]
        found = self._chain.recent_events(topics)
        if not found or (earlier and when(found[-1].position) < when(earlier.position)):
            self._chain.transact_court("seal", sealed)
