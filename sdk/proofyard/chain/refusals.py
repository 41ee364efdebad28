"""Each error of the contracts as an exception: its operands, and one sentence that says what to do next.

A sentence names its operands in braces, as they are called in `IRegistry.sol` and `ICourt.sol`.
"""

from collections.abc import Mapping
from typing import Any

from proofyard.chain.errors import Refused


class AlreadyChallenged(Refused):
    sentence = "the same was challenged before, in challenge {challenge}; follow that one"


class AlreadySettled(Refused):
    sentence = "batch {batch} is settled already; nothing is left to do"


class AnchorGone(Refused):
    sentence = (
        "the chain has another block {number} than this rests on, or none: jobs that were opened in it may have other "
        "numbers now; look at them again and repeat the call"
    )


class BadBatch(Refused):
    sentence = "the batch is refused: {reason}"


class BadCommitmentProof(Refused):
    sentence = "commitment {index} with this proof is not in batch {batch}, or came too late; take it from the record"
    exit_code = 4


class BadConsent(Refused):
    sentence = "the hot key {key} did not agree to this owner (its signature is by {recovered}); sign with that key"


class BadHeader(Refused):
    sentence = "the header is not that of batch {batch}; read it again from the batch's events"


class BadJob(Refused):
    sentence = "the job cannot be opened: {reason}; correct its terms"


class BadParams(Refused):
    sentence = "the Registry's parameters do not fit: {reason}"


class BadPayoutProof(Refused):
    sentence = "payout {index} is not in the settlement of batch {batch}; take it from the batch's record"
    exit_code = 4


class BadPossessionProof(Refused):
    sentence = "the proof of possession does not fit owner, hot key and BLS key; make it for exactly these"


class BadPublicKey(Refused):
    sentence = "the BLS public key must be 128 bytes in the form of EIP-2537"


class BadSettlement(Refused):
    sentence = "the settlement is refused: {reason}"


class BadSignature(Refused):
    sentence = "the aggregate signature does not fit the settlement and its signers; collect the signatures again"
    exit_code = 4


class BadVote(Refused):
    sentence = "the vote on challenge {challenge} is not the one that was sealed; reveal what was committed"


class BatchExpired(Refused):
    sentence = "nobody settled batch {batch} until {end:moment}; drop it"


class Contested(Refused):
    sentence = "batch {batch} is challenged; try again when the jury has decided"


class DeadlinePassed(Refused):
    sentence = "the time of job {job} is over ({deadline:moment}); its requester can have a refund"


class EndpointTooLong(Refused):
    sentence = "the endpoint has {length} bytes, at most {limit} fit; use host:port"


class JobIsClosed(Refused):
    sentence = "job {job} is closed; open another one"


class JobStillOpen(Refused):
    sentence = "something can be committed for job {job} until {until:moment}; ask for the refund then"


class JobTakenBy(Refused):
    sentence = "job {job} is verifier {verifier}'s until {freeAt:moment}; wait, or take another job"


class JuryTooSmall(Refused):
    sentence = "only {found} of {wanted} jurors can be found for challenge {challenge}; wait for more nodes"


class KeyTaken(Refused):
    sentence = "the key {key} belongs to operator {operator}, now or formerly; use a fresh hot key"


class LeaderMissing(Refused):
    sentence = "the leader of batch {batch}, verifier {leader}, is not among the signers; have it sign"


class NoQuorum(Refused):
    sentence = "{signed} of {counting} verifiers signed and two thirds are needed; collect more signatures"


class NoSuchFault(Refused):
    sentence = "batch {batch} has no fault {index}; read its slashes"


class NoSuchSegment(Refused):
    sentence = "there is no segment {segment} in a task of {segments}"


class NotCourt(Refused):
    sentence = "only the Court may call this, not {caller}"


class NotEquivocation(Refused):
    sentence = "these are not two settlements of one attempt at batch {batch}; show two that differ"


class NotIdle(Refused):
    sentence = "the verifier on seat {slot} has been there in the period before this one; it keeps its seat"


class NotJuror(Refused):
    sentence = "{caller} is not on the jury of challenge {challenge}; vote with a drawn node's hot key"


class NotListed(Refused):
    sentence = "operator {operator} is not in the active set; register it again"


class NotOverdue(Refused):
    sentence = "batch {batch} can be taken over or dropped from {from:moment}; wait"


class NotOwner(Refused):
    sentence = "operator {operator} belongs to {owner}, not to {caller}; use the owner's wallet"


class NotSealed(Refused):
    sentence = (
        "{challenger} has not sealed this challenge ({seal}) in an earlier block; seal it, and open it a block later"
    )


class NotSettled(Refused):
    sentence = "batch {batch} is not settled yet; wait for its settlement"


class NotVerifier(Refused):
    sentence = "{caller} is no seated verifier; register it with `proofyard verifier register`"


class NotWork(Refused):
    sentence = (
        "commitment {index} of batch {batch} is not shown to be work; if its record calls it a decoy there is nothing "
        "to challenge, else give the salt that the record has for it"
    )
    exit_code = 4


class NotYourJob(Refused):
    sentence = "job {job} can be closed by its requester, or by its verifier once all is paid, not by {caller}"


class NothingClaimed(Refused):
    sentence = "nothing of this can be claimed now: it was claimed before, or a challenge holds it or has voided it"


class NothingTaken(Refused):
    sentence = "none of these jobs can be taken: each is over, unknown, or another verifier's"


class NothingToWithdraw(Refused):
    sentence = "{owner} has no stake in release; request it first"


class OutsideWindow(Refused):
    sentence = "this can be challenged from {opens:moment} to {closes:moment} only"


class OverBudget(Refused):
    sentence = "the settlement pays {amount:CREDIT} for job {job} and {budget:CREDIT} are reserved; settle less"


class Overexposed(Refused):
    sentence = (
        "the verifiers of {owner} would hold {exposed} wei open and its stake allows {limit};"
        " wait until batches are final, add stake or commit less"
    )


class PayoutsExceedTotal(Refused):
    sentence = "the payouts of batch {batch} add up to more than was settled; challenge the batch's signers"
    exit_code = 4


class PrecompileFailed(Refused):
    sentence = (
        "the chain has no BLS12-381 precompile that answers at {precompile}; it must be a chain of Prague or later"
    )


class ReentrancyGuardReentrantCall(Refused):
    sentence = "a token called back into the Registry; tokens that call others cannot be used"


class SeatTooNew(Refused):
    sentence = "the seat of verifier {verifier} counts from {countsFrom:moment}; wait"


class SeedAvailable(Refused):
    sentence = "the seed of batch {batch} can still be drawn; draw it"


class SeedLost(Refused):
    sentence = "the hash of block {drawBlock} is out of reach, batch {batch} cannot be drawn; recommit it"


class StakeTooLow(Refused):
    sentence = (
        "the stake of {owner} is {stake:CREDIT} and {required:CREDIT} are needed; add stake, or retire operators first"
    )


class StillBacked(Refused):
    sentence = "operator {operator} is backed by its owner's stake; only the owner can retire it"


class StillBonded(Refused):
    sentence = "the stake of {owner} is released at {releaseAt:moment}; withdraw it then"


class TooEarly(Refused):
    sentence = "it is too early for this step of challenge {challenge}; wait for {opens} (Unix time, or block)"


class TooEarlyToDraw(Refused):
    sentence = "batch {batch} is drawn from block {drawBlock}; wait for the block after it"


class TooLate(Refused):
    sentence = "this step of challenge {challenge} ended at {closed:moment}; resolve it"


class TooManyJobs(Refused):
    sentence = "{jobs} jobs are more than the {most} that can be taken at once; take them in parts"


class TooManyOperators(Refused):
    sentence = "{owner} has as many operators of this kind as one owner can have; use another owner"


class TooManyUnits(Refused):
    sentence = "job {job} has {left} work units left and the batch holds {units}; commit fewer"


class TransferFailed(Refused):
    sentence = "the token refused to pay out; it may be paused, try again later"


class TransferFromFailed(Refused):
    sentence = "the token refused to be taken; check balance and allowance"


class TransferMismatch(Refused):
    sentence = "the token moved {received:CREDIT} instead of {expected:CREDIT}; tokens that take fees cannot be used"


class UnknownBatch(Refused):
    sentence = "there is no batch {batch}; `proofyard job wait` names a job's batches"
    exit_code = 2


class UnknownJob(Refused):
    sentence = "there is no job {job}; take the number that `proofyard job submit` printed"
    exit_code = 2


class UnknownSigner(Refused):
    sentence = "the signers {signers:#x} are not all of this batch's quorum ({counting:#x}); read the seats again"


class VerifierSetFull(Refused):
    sentence = "all 256 verifier slots are taken; wait for one to retire"


class WindowOpen(Refused):
    sentence = "batch {batch} can be challenged until {claimableAt:moment}; try again then"


class WrongPhase(Refused):
    sentence = "challenge {challenge} is in phase {phase}, which does not have this step; read the challenge"


_BY_NAME = {kind.__name__: kind for kind in Refused.__subclasses__()}


def refusal(name: str, operands: Mapping[str, Any]) -> Refused:
    """The exception for the contract error `name`; a plain `Refused` for one that is not the contracts' own."""
    return _BY_NAME.get(name, Refused)(name, operands)
