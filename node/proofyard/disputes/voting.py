"""A juror's vote: sealed while the jury works, opened when the time for sealing is over.

A seat belongs to an owner, and any of its nodes may vote for it; they take turns, the lowest number first, so that not
all of them execute the same. The salt follows from the juror's key and the draw. What was found is kept on disk before
it is sealed; a juror that loses even that finds it again, since executing a segment always gives the same.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
from eth_abi.abi import encode as abi_encode

from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord, Court, Phase, Wallet, sealed_vote
from proofyard.chain.events import JuryDrawn, VoteCommitted, VoteRevealed
from proofyard.chain.refusals import BadVote
from proofyard.disputes.errors import NoSuchChallenge, VoteRefused
from proofyard.disputes.judging import Finding
from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.protocol.commitment import Domain
from proofyard.protocol.keccak import keccak
from proofyard.protocol.seal import Bytes32
from proofyard.protocol.settlement import OperatorId
from proofyard.protocol.types import Address
from proofyard.workloads.state_store import write_durably

SALT_TYPEHASH = keccak(b"JurySalt(uint256 challenge,uint8 round,uint40 drawBlock)")


class Ballot(msgspec.Struct, frozen=True):
    """What a juror sealed, as it is kept on disk."""

    evidence: Bytes32
    keyed: Bytes32
    wrong: bool


@dataclass(frozen=True)
class Seat:
    """An owner's place on a jury, and this wallet's part in it.

    `number` counts the jurors from 0, `rank` this node among the owner's listed ones; `reveal_ends` in Unix seconds, as
    `challenge.until` ends the sealing. `committed` and `revealed`: by whichever node of the owner; `own` whether this
    wallet's node is the one that sealed."""

    challenge: ChallengeRecord
    owner: Address
    number: int
    rank: int
    reveal_ends: int
    committed: bool
    own: bool
    revealed: bool


def salt_of(wallet: Wallet, domain: Domain, challenge: ChallengeRecord) -> bytes:
    """What hides a juror's vote until it is opened, another for every draw: a jury that is drawn anew may seat the same
    juror in the same round, its first salt known."""
    kinds = ["bytes32", "uint256", "uint8", "uint40"]
    struct = keccak(abi_encode(kinds, [SALT_TYPEHASH, challenge.id, challenge.round, challenge.draw_block]))
    return wallet.salt_for(domain.typed_digest(struct))


def read_challenge(chain: ChainClient, challenge: ChallengeId) -> ChallengeRecord:
    """A challenge. Raises `NoSuchChallenge`."""
    count = chain.challenge_count()
    if not 1 <= challenge <= count:
        raise NoSuchChallenge(challenge, count)
    return chain.challenge(challenge)


def seat_of(chain: ChainClient, challenge: ChallengeRecord) -> Seat | None:
    """This wallet's owner's place on the jury that votes now or whose verdict stands; None where it has none, or where
    the wallet is no node's hot key."""
    assert chain.wallet is not None, "a juror has a wallet"
    operator = chain.operator_of(chain.wallet.address)
    if operator is None or challenge.phase not in (Phase.VOTE, Phase.VERDICT):
        return None
    owner = chain.operator_state(operator).owner
    jury = chain.jurors(challenge.id, challenge.round)
    if owner not in jury:
        return None
    events = chain.challenge_events(challenge)
    drawn = max(i for i, event in enumerate(events) if isinstance(event, JuryDrawn))
    since = [event for event in events[drawn:] if getattr(event, "juror", None) == owner]
    sealed_by = [event.operator for event in since if isinstance(event, VoteCommitted)]
    return Seat(
        challenge=challenge,
        owner=owner,
        number=jury.index(owner),
        rank=_rank(chain, owner, operator),
        reveal_ends=events[drawn].reveal_ends,
        committed=bool(sealed_by),
        own=operator in sealed_by,
        revealed=any(isinstance(event, VoteRevealed) for event in since),
    )


def commit(chain: ChainClient, seat: Seat, ballot: Ballot, folder: Path) -> None:
    """Keep a ballot in `folder`, and seal it. Raises `TooLate` when the time for it is over, and `BadVote` where a vote
    is sealed already: what was kept before is what opens that, and stays."""
    challenge, before = seat.challenge, kept(folder, seat.challenge)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(_path(folder, challenge), encode(ballot))
    place = (challenge.id, challenge.round, challenge.redraws, seat.owner)
    seal = sealed_vote(*place, ballot.evidence, ballot.keyed, _salt(chain, seat))
    try:
        Court(chain).commit_vote(challenge.id, seal)
    except BadVote:
        if before is not None:
            write_durably(_path(folder, challenge), encode(before))
        raise


def kept(folder: Path, challenge: ChallengeRecord) -> Ballot | None:
    """What was sealed, or was to be sealed, for this draw, if it is still here."""
    try:
        return decode(_path(folder, challenge).read_bytes(), Ballot)
    except (OSError, CodecError):
        return None


def reveal(chain: ChainClient, seat: Seat, folder: Path) -> bool:
    """Open the vote that was sealed, from what `folder` keeps; whether it says that what is challenged is wrong.

    Raises `TooEarly` and `TooLate` outside the time for it, `VoteRefused` where nothing is kept, or something else was
    sealed.
    """
    ballot = kept(folder, seat.challenge)
    if ballot is None:
        raise VoteRefused(
            f"{folder} does not keep what was sealed on challenge {seat.challenge.id}; the node that sealed it finds "
            "it again by itself"
        )
    return reveal_ballot(chain, seat, ballot)


def reveal_ballot(chain: ChainClient, seat: Seat, ballot: Ballot) -> bool:
    """Open a vote; see `reveal`."""
    try:
        Court(chain).reveal_vote(seat.challenge.id, ballot.evidence, ballot.keyed, _salt(chain, seat))
    except BadVote:
        raise VoteRefused(
            f"the vote on challenge {seat.challenge.id} was sealed with another finding or key; open it with the node "
            "that sealed it"
        ) from None
    return ballot.wrong


def ballot_of(finding: Finding) -> Ballot:
    """What a finding is sealed as."""
    return Ballot(finding.evidence, finding.keyed, finding.wrong)


def _rank(chain: ChainClient, owner: Address, operator: OperatorId) -> int:
    """How many listed nodes of the owner come before this one; all of them where it is not listed."""
    numbers = [node.id for node in chain.listed_nodes() if node.owner == owner]
    return numbers.index(operator) if operator in numbers else len(numbers)


def _path(folder: Path, challenge: ChallengeRecord) -> Path:
    """Named for what is challenged as well: after a reorganisation a challenge's number may be another one's."""
    return folder / f"{challenge.id}-{challenge.round}-{challenge.draw_block}-{challenge.subject.hex()[:16]}.vote"


def _salt(chain: ChainClient, seat: Seat) -> bytes:
    assert chain.wallet is not None, "a juror has a wallet"
    return salt_of(chain.wallet, chain.domain, seat.challenge)
