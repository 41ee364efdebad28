"""Challenging what was settled, and sitting on juries: the part of `ChainClient` that moves bonds."""

from eth_abi.abi import encode as abi_encode
from eth_hash.auto import keccak

from proofyard.chain.client import ChainClient, Claim, claim_row, event_of
from proofyard.chain.events import ChallengeOpened
from proofyard.chain.records import ChallengeId, Phase
from proofyard.protocol.cid import cid_bytes
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import BatchId, Digest, SegmentIndex, Signature


def sealed_vote(challenge: ChallengeId, round_: int, juror: OperatorId, wrong: bool, salt: bytes) -> Digest:
    """What a juror commits to: keccak256(abi.encode(...)) of its vote and a `salt` of 32 secret bytes."""
    kinds = ["uint256", "uint8", "uint32", "bool", "bytes32"]
    return Digest(keccak(abi_encode(kinds, [challenge, round_, juror, wrong, salt])))


class Court:
    """A wallet's dealings with challenges; see `IRegistry.sol` for who may do what when."""

    def __init__(self, chain: ChainClient) -> None:
        self._chain = chain

    def challenge_segment(
        self, batch: BatchId, commitment: Commitment, index: int, proof: list[Digest], segment: SegmentIndex
    ) -> ChallengeId:
        """Challenge one segment of the commitment at `index` of a settled batch: its state after is wrong."""
        row = (
            commitment.job,
            commitment.task,
            commitment.node,
            commitment.manifest,
            commitment.inputs,
            commitment.trace_root,
            commitment.segments,
            cid_bytes(commitment.result),
            commitment.work_units,
        )
        return self._open("challengeSegment", batch, row, index, proof, segment)

    def challenge_payout(self, claim: Claim) -> ChallengeId:
        """Challenge a payout that contradicts the commitments or the record."""
        return self._open("challengePayout", claim_row(claim))

    def challenge_fault(self, batch: BatchId, index: int) -> ChallengeId:
        """Challenge the fault at `index` of `slashes(batch)`: the operator is innocent."""
        return self._open("challengeFault", batch, index)

    def challenge_receipt(self, leaf: Digest, deadline: int, signature: Signature) -> ChallengeId:
        """Show a verifier's receipt for a commitment that no batch honoured by its deadline."""
        return self._open("challengeReceipt", leaf, deadline, signature)

    def answer_receipt(self, challenge: ChallengeId, batch: BatchId, index: int, proof: list[Digest]) -> None:
        """Show the batch that honours a challenged receipt."""
        self._chain.transact("answerReceipt", challenge, batch, index, proof)

    def draw_jury(self, challenge: ChallengeId) -> list[OperatorId]:
        """The jury, drawn now if nobody has; empty where the draw had to be moved to a later block."""
        record = self._chain.challenge(challenge)
        if record.phase == Phase.DRAW:
            self._chain.transact("drawJury", challenge)
        return self._chain.jurors(challenge, record.round)

    def commit_vote(self, challenge: ChallengeId, sealed: Digest) -> None:
        self._chain.transact("commitVote", challenge, sealed)

    def reveal_vote(self, challenge: ChallengeId, wrong: bool, salt: bytes) -> None:
        self._chain.transact("revealVote", challenge, wrong, salt)

    def appeal(self, challenge: ChallengeId) -> None:
        """Take a first verdict to a larger jury, with the appeal bond."""
        self._chain.approve(self._chain.params().court.appeal_bond)
        self._chain.transact("appeal", challenge)

    def resolve(self, challenge: ChallengeId) -> Phase:
        """Count the votes, or carry out the decision, whichever it is time for; the phase it leads to."""
        self._chain.transact("resolve", challenge)
        return self._chain.challenge(challenge).phase

    def _open(self, function: str, *args: object) -> ChallengeId:
        self._chain.approve(self._chain.params().court.bond)
        return event_of(self._chain.transact(function, *args), ChallengeOpened).challenge
