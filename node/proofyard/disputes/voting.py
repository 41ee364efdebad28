"""A juror's vote: sealed while the jury works, opened when the time for sealing is over.

Nothing has to be kept between the two: the salt follows from the juror's key and the draw, and which way the vote went
is found by trying both. So a juror that crashes, or loses its disk, still opens what it sealed.
"""

import hashlib
from dataclasses import dataclass

from eth_abi.abi import encode as abi_encode
from eth_hash.auto import keccak

from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord, Court, Phase, Wallet, sealed_vote
from proofyard.chain.events import JuryDrawn, VoteCommitted, VoteRevealed
from proofyard.chain.refusals import BadVote
from proofyard.disputes.errors import NoSuchChallenge, VoteRefused
from proofyard.protocol.commitment import Domain
from proofyard.protocol.settlement import OperatorId

SALT_TYPEHASH = keccak(b"JurySalt(uint256 challenge,uint8 round,uint40 drawBlock)")


@dataclass(frozen=True)
class Seat:
    """A place on a jury. `number` counts from 0; `reveal_ends` in Unix seconds, as `challenge.until` ends the sealing.
    `committed` and `revealed` are this juror's own steps."""

    challenge: ChallengeRecord
    juror: OperatorId
    number: int
    reveal_ends: int
    committed: bool
    revealed: bool


def salt_of(wallet: Wallet, domain: Domain, challenge: ChallengeRecord) -> bytes:
    """32 bytes that nobody without the juror's key can guess, and another for every draw.

    The hash of the key's signature, which RFC 6979 makes the same every time and which is shown to nobody. The draw's
    block is in it because a jury that is drawn anew may seat the same juror in the same round, its first salt known.
    """
    kinds = ["bytes32", "uint256", "uint8", "uint40"]
    struct = keccak(abi_encode(kinds, [SALT_TYPEHASH, challenge.id, challenge.round, challenge.draw_block]))
    return hashlib.sha256(wallet.sign_digest(domain.typed_digest(struct))).digest()


def read_challenge(chain: ChainClient, challenge: ChallengeId) -> ChallengeRecord:
    """A challenge. Raises `NoSuchChallenge`."""
    count = chain.challenge_count()
    if not 1 <= challenge <= count:
        raise NoSuchChallenge(challenge, count)
    return chain.challenge(challenge)


def seat_of(chain: ChainClient, challenge: ChallengeRecord) -> Seat | None:
    """This wallet's place on the jury that votes now or whose verdict stands; None where it has none."""
    assert chain.wallet is not None, "a juror has a wallet"
    juror = chain.operator_of(chain.wallet.address)
    if juror is None or challenge.phase not in (Phase.VOTE, Phase.VERDICT):
        return None
    jury = chain.jurors(challenge.id, challenge.round)
    if juror not in jury:
        return None
    events = chain.challenge_events(challenge)
    drawn = max(i for i, event in enumerate(events) if isinstance(event, JuryDrawn))
    own = [event for event in events[drawn:] if getattr(event, "juror", None) == juror]
    return Seat(
        challenge=challenge,
        juror=juror,
        number=jury.index(juror),
        reveal_ends=events[drawn].reveal_ends,
        committed=any(isinstance(event, VoteCommitted) for event in own),
        revealed=any(isinstance(event, VoteRevealed) for event in own),
    )


def commit(chain: ChainClient, seat: Seat, wrong: bool) -> None:
    """Seal a vote. Raises `TooLate` when the time for it is over."""
    salt = _salt(chain, seat)
    sealed = sealed_vote(seat.challenge.id, seat.challenge.round, seat.juror, wrong, salt)
    Court(chain).commit_vote(seat.challenge.id, sealed)


def reveal(chain: ChainClient, seat: Seat) -> bool:
    """Open the vote that was sealed, whichever it was; whether it says that what is challenged is wrong.

    Raises `TooEarly` and `TooLate` outside the time for it, `VoteRefused` for a seal that this key did not make here.
    """
    salt = _salt(chain, seat)
    for wrong in (True, False):
        try:
            Court(chain).reveal_vote(seat.challenge.id, wrong, salt)
        except BadVote:
            continue
        return wrong
    raise VoteRefused(
        f"the vote on challenge {seat.challenge.id} was sealed with a salt of its own; open it with what sealed it"
    )


def _salt(chain: ChainClient, seat: Seat) -> bytes:
    assert chain.wallet is not None, "a juror has a wallet"
    return salt_of(chain.wallet, chain.domain, seat.challenge)
