"""Moving challenges on: the jury's draw, the counting of votes, and waiting for either."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from proofyard.cli.challenge_view import facts_of, is_closed, next_step, outcome_of
from proofyard.cli.output import emit, note

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord

POLL_S = 1.0


def follow_up(chain: "ChainClient", challenge: "ChallengeId", wait: bool, as_json: bool) -> None:
    """What `open` and `appeal` end with: the jury is drawn, and with `wait` everything else happens too."""
    from proofyard.chain import Phase
    from proofyard.chain.refusals import JuryTooSmall

    if chain.challenge(challenge).phase == Phase.DRAW:
        note("its jury is drawn in a few blocks")
    try:
        while not wait and chain.challenge(challenge).phase == Phase.DRAW:
            move_on_if_due(chain, chain.challenge(challenge))
            time.sleep(POLL_S)
    except JuryTooSmall as error:
        note(str(error))
    tell(chain, follow(chain, challenge) if wait else chain.challenge(challenge), as_json)


def tell(chain: "ChainClient", record: "ChallengeRecord", as_json: bool) -> None:
    facts = {**facts_of(record), "outcome": outcome_of(chain, record)}
    emit(facts, as_json=as_json, text=f"challenge {record.id}: {record.phase.name.lower()}")
    note(next_step(chain, record))


def follow(chain: "ChainClient", challenge: "ChallengeId") -> "ChallengeRecord":
    """Until a challenge is closed, moving it on whenever its time has come."""
    from proofyard.chain.refusals import JuryTooSmall

    told: set[str] = set()
    while not is_closed(record := chain.challenge(challenge)):
        says = [f"challenge {challenge}: {record.phase.name.lower()}{' on appeal' if record.round else ''}"]
        try:
            move_on_if_due(chain, record)
        except JuryTooSmall as error:
            says.append(str(error))
        for line in says:
            if line not in told:
                note(line)
                told.add(line)
        time.sleep(POLL_S)
    return record


def move_on_if_due(chain: "ChainClient", record: "ChallengeRecord") -> None:
    from proofyard.chain.refusals import TooEarly, TooLate, WrongPhase

    with suppress(TooEarly, TooLate, WrongPhase):  # not yet, or somebody was faster
        move_on(chain, record)


def move_on(chain: "ChainClient", record: "ChallengeRecord") -> None:
    """The step that is due, whichever it is. Raises `TooEarly` where it is none."""
    from proofyard.chain import Court, Phase

    if record.phase == Phase.DRAW and chain.now() < record.until:
        Court(chain).draw_jury(record.id)
    else:
        Court(chain).resolve(record.id)


def sleep_until(chain: "ChainClient", moment: int, why: str) -> None:
    if chain.now() < moment:
        note(why)
    while chain.now() < moment:
        time.sleep(POLL_S)
