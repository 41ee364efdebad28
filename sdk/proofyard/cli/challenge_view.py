"""What a challenge looks like to people and to programs, and what comes next."""

from typing import TYPE_CHECKING, Any

from proofyard.cli.output import format_credits
from proofyard.protocol.types import Address
from proofyard.runtime.times import moment, span

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, ChallengeRecord

COMMAND = "proofyard verifier dispute"


def is_closed(record: "ChallengeRecord") -> bool:
    from proofyard.chain import Phase

    return record.phase in (Phase.UPHELD, Phase.REJECTED, Phase.DISMISSED)


def subject_of(record: "ChallengeRecord") -> str:
    kind = record.kind.name.lower()
    return {
        "segment": f"job {record.job} task {record.task} segment {record.segment}",
        "record": "the record",
        "fault": f"fault {record.entry}",
    }.get(kind, kind)


def facts_of(record: "ChallengeRecord") -> dict[str, Any]:
    return {
        "challenge": str(record.id),
        "batch": str(record.batch),
        "about": subject_of(record),
        "job": str(record.job) if record.job else None,
        "phase": record.phase.name.lower(),
        "round": record.round,
        "accused": str(record.accused),
        "challenger": record.challenger,
        "bond": str(record.bond),
        "votes_wrong": record.votes_wrong,
        "votes_right": record.votes_right,
        "until": str(record.until) if record.until else None,
    }


def lines_of(record: "ChallengeRecord") -> list[str]:
    """The same for people, without what a challenge that is over waits for."""
    until = moment(record.until) if record.until and not is_closed(record) else ""
    words = facts_of(record) | {"bond": format_credits(record.bond), "until": until}
    return [f"{name:<12} {value}" for name, value in words.items() if value not in (None, "")]


def jury_of(chain: "ChainClient", record: "ChallengeRecord") -> list[dict[str, Any]]:
    """The owners on the jury of the latest round and what is known of their votes."""
    from proofyard.chain.events import JurorFined, JuryDrawn, VoteCommitted, VoteRevealed

    events = chain.challenge_events(record)
    starts = [i for i, event in enumerate(events) if isinstance(event, JuryDrawn)]
    rows = {owner: {"owner": owner, "vote": "", "evidence": ""} for owner in chain.jurors(record.id, record.round)}
    for event in events[starts[-1] :] if starts else []:
        row = rows.get(getattr(event, "juror", Address("")), {})
        if isinstance(event, VoteCommitted):
            row["vote"] = "sealed"
        elif isinstance(event, VoteRevealed):
            row |= {"vote": "wrong" if event.wrong else "right", "evidence": event.evidence.hex()}
        elif isinstance(event, JurorFined):
            row["vote"] = f"{row.get('vote') or 'silent'}, fined {format_credits(event.amount)}"
    return list(rows.values())


def outcome_of(chain: "ChainClient", record: "ChallengeRecord") -> dict[str, str] | None:
    """What became of the losers' money, once the challenge is closed."""
    from proofyard.chain.events import ChallengeClosed

    events = chain.challenge_events(record) if is_closed(record) else []
    closed = next((event for event in events if isinstance(event, ChallengeClosed)), None)
    if closed is None:
        return None
    names = ("to_winner", "to_requester", "to_jury", "burned")
    return {name: str(getattr(closed, name)) for name in names}


def next_step(chain: "ChainClient", record: "ChallengeRecord") -> str:
    """What comes next, for people."""
    number, now = record.id, chain.now()
    match record.phase.name:
        case "DRAW":
            return (
                f"next: {COMMAND} draw {number}, from block {record.draw_block + 1} on and within "
                f"{record.until - now} s: it pays whoever draws, and a jury that nobody draws costs the bond"
            )
        case "VOTE" if now < record.until:
            return (
                f"jurors seal their votes for {span(record.until - now)} more; next: {COMMAND} resolve {number} --wait"
            )
        case "VOTE":
            return f"jurors open their votes; next: {COMMAND} resolve {number} --wait"
        case "VERDICT":
            found = "the challenge is right" if record.wrong else "the challenge is not right"
            left = f"for {span(record.until - now)} more" if now < record.until else "no longer"
            return (
                f"the verdict is that {found}; it can be appealed {left}: {COMMAND} appeal {number}; "
                f"then: {COMMAND} resolve {number}"
            )
        case "ANSWER":
            return f"the verifier can answer until {moment(record.until)}; then: {COMMAND} resolve {number}"
        case _:
            return f"next, for whoever won: {COMMAND} withdraw"
