"""`proofyard verifier dispute open`, `list`, `show`, `draw`, `vote`, `appeal`, `resolve`, `withdraw`: with juries."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofyard.cli.chains import reader, signer
from proofyard.cli.challenge_progress import follow, follow_up, move_on, sleep_until, tell
from proofyard.cli.challenge_view import (
    COMMAND,
    facts_of,
    is_closed,
    jury_of,
    lines_of,
    next_step,
    outcome_of,
    subject_of,
)
from proofyard.cli.context import config_of
from proofyard.cli.errors import UsageError
from proofyard.cli.evidence import ExecuteFlags, Place, Spoken, evidence, parse_place, place_in
from proofyard.cli.extras import require
from proofyard.cli.options import LARGEST_ID, NetworkFlags, WalletFlags
from proofyard.cli.output import AsJson, emit, format_credits, note, table
from proofyard.cli.tree import App
from proofyard.protocol.codec import read_json
from proofyard.protocol.types import BatchId, Digest, JobId, Signature, Wei
from proofyard.runtime.times import moment
from proofyard.sdk.settings import SHARED, RequesterSettings, data_dir, load

if TYPE_CHECKING:
    from proofyard.chain import ChainClient, ChallengeId, ChallengeRecord, Court
    from proofyard.disputes.committed import Committed
    from proofyard.disputes.voting import Seat

LISTED = 50
MAX_RECEIPT_BYTES = 4096
VOTE_PATIENCE = 0.4
"""Part of the voting time that is left in which a worker must deliver each state."""

Number = Annotated[
    int,
    typer.Argument(min=1, max=LARGEST_ID, metavar="CHALLENGE", help="The challenge's number: see `dispute list`."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its end, moving it on in time.")]


def open_challenge(
    context: typer.Context,
    flags: WalletFlags,
    batch: Annotated[
        int | None, typer.Argument(min=1, max=LARGEST_ID, help="Number of a settled batch; none for a receipt.")
    ] = None,
    segment: Annotated[
        str | None, typer.Option(metavar="TASK:SEGMENT", help="A worker's segment: its state after is wrong.")
    ] = None,
    job: Annotated[int | None, typer.Option(help="The segment's job, where the batch has several.")] = None,
    record: Annotated[bool, typer.Option("--record", help="The record cannot be had, or does not hold.")] = False,
    fault: Annotated[int | None, typer.Option(min=0, help="Index of a fault: the accused is innocent.")] = None,
    receipt: Annotated[Path | None, typer.Option(help="File of a receipt that no batch honoured.")] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Challenge what a batch settled, with a bond.

    Prints its number. It is sealed first and opened a block later, so that nobody can copy it. If the jury agrees you
    get the bond back and a part of what the other side loses; if not, it is lost.
    """
    chosen = [segment is not None, record, fault is not None, receipt is not None]
    if sum(chosen) != 1 or (batch is None) != (receipt is not None):
        raise UsageError(
            "say what is wrong: give BATCH and one of --segment TASK:SEGMENT, --record, --fault INDEX, or "
            "--receipt FILE alone"
        )
    place = parse_place(segment) if segment is not None else None
    promise = _read_receipt(receipt) if receipt is not None else None
    require("node", f"{COMMAND} open")
    chain = _signer(context, flags)
    from proofyard.chain import Court

    court = Court(chain)
    if promise is not None:
        challenge = court.challenge_receipt(*promise)
    else:
        number = BatchId(batch or 0)
        _require_open_window(chain, number)
        if place is not None:
            challenge = _challenge_segment(chain, court, number, place, job)
        elif record:
            challenge = court.challenge_record(number)
        else:
            challenge = _challenge_fault(chain, court, number, fault or 0)
    note(f"challenge {challenge}: {format_credits(chain.params().court.bond)} are bonded")
    follow_up(chain, challenge, wait, as_json)


def _challenge_segment(
    chain: "ChainClient", court: "Court", batch: BatchId, spoken: Spoken, job: int | None
) -> "ChallengeId":
    committed, (of, task, segment), salt = asyncio.run(_load_segment(chain, batch, spoken, job))
    return court.challenge_segment(batch, committed.step(of, task, segment, salt))


def _challenge_fault(chain: "ChainClient", court: "Court", batch: BatchId, index: int) -> "ChallengeId":
    from proofyard.disputes.errors import NoSuchPlace

    faults = len(chain.slashes(batch))
    if not 0 <= index < faults:
        raise NoSuchPlace(batch, f"fault {index}", f"{faults} of them, counted from 0")
    return court.challenge_fault(batch, index)


def _read_receipt(path: Path) -> tuple[Digest, JobId, int, Signature]:
    """Leaf, job, deadline and signature of a receipt in a file."""
    try:
        with path.open("rb") as stream:
            facts = read_json(stream.read(MAX_RECEIPT_BYTES))
        leaf, signature = (bytes.fromhex(facts[name].removeprefix("0x")) for name in ("leaf", "signature"))
        if (len(leaf), len(signature)) != (32, 65):
            raise ValueError("leaf or signature has another length")
        return Digest(leaf), JobId(int(facts["job"])), int(facts["deadline"]), Signature(signature)
    except (OSError, ValueError, KeyError, TypeError) as error:
        where = "nodes write broken ones to DATA_DIR/receipts"
        raise UsageError(f"--receipt {path} cannot be read ({error}); {where}") from None


def list_challenges(
    context: typer.Context,
    flags: NetworkFlags,
    batch: Annotated[int | None, typer.Option(help="Only those of this batch.")] = None,
    undecided: Annotated[bool, typer.Option("--open", help="Only those that are not decided.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many to look at, the newest first.")] = LISTED,
    as_json: AsJson = False,
) -> None:
    """List challenges, the newest first."""
    chain = reader(context, flags)
    found = [c for c in _newest(chain, limit) if batch in (None, c.batch) and not (undecided and is_closed(c))]
    rows = [
        (
            str(c.id),
            str(c.batch),
            subject_of(c),
            c.phase.name.lower(),
            str(c.accused),
            c.challenger,
            format_credits(c.bond),
        )
        for c in found
    ]
    header = ("CHALLENGE", "BATCH", "ABOUT", "PHASE", "ACCUSED", "CHALLENGER", "BOND")
    emit([facts_of(challenge) for challenge in found], as_json=as_json, text=table(rows, header))


def show(context: typer.Context, flags: NetworkFlags, challenge: Number, as_json: AsJson = False) -> None:
    """Show a challenge, its jury, their votes, and what is next."""
    require("node", f"{COMMAND} show")
    chain = reader(context, flags)
    from proofyard.disputes.voting import read_challenge

    record = read_challenge(chain, _id(challenge))
    jury = jury_of(chain, record)
    facts = {**facts_of(record), "jury": jury, "outcome": outcome_of(chain, record)}
    lines = lines_of(record)
    lines += [f"{key:<12} {format_credits(int(amount))}" for key, amount in (facts["outcome"] or {}).items()]
    if jury:
        rows = [(row["owner"], row["vote"], row["evidence"]) for row in jury]
        lines += ["", table(rows, ("JUROR", "VOTE", "EVIDENCE"))]
    emit(facts, as_json=as_json, text="\n".join(lines))
    note(next_step(chain, record))


def vote(
    context: typer.Context,
    flags: WalletFlags,
    execution: ExecuteFlags,
    challenge: Number,
    wait: Annotated[bool, typer.Option(help="Stay to open the vote when its time comes.")] = True,
    as_json: AsJson = False,
) -> None:
    """Vote on a challenge as a juror.

    Execute what is in dispute, seal the vote, and open it in time.

    `proofyard node run` does this by itself. Needs the hot key of a node whose owner was drawn. What was found is kept
    in the node's data directory before it is sealed, so nothing is lost if this is interrupted: call it again to open
    it.
    """
    require("node", f"{COMMAND} vote")
    chain, execution, folder = _juror(context, flags, execution)
    from proofyard.disputes import voting
    from proofyard.disputes.judging import judge

    record = voting.read_challenge(chain, _id(challenge))
    seat = voting.seat_of(chain, record)
    _require_duty(chain, record, seat)
    assert seat is not None, "a duty has a seat"
    facts: dict[str, Any] = {"challenge": str(challenge), "committed": True, "revealed": False}
    if not seat.committed:

        async def find() -> Any:
            async with evidence(chain, execution) as found, found.executor() as executor:
                patience = (record.until - chain.now()) * VOTE_PATIENCE
                return await judge(chain, found.network, executor, record, owner=seat.owner, patience_s=patience)

        note(f"executing what challenge {challenge} is about: {subject_of(record)} of batch {record.batch}")
        finding = asyncio.run(find())
        note(finding.reason)
        voting.commit(chain, seat, voting.ballot_of(finding), folder)
        facts |= {"wrong": finding.wrong, "reason": finding.reason, "evidence": finding.evidence.hex()}
    if wait:
        sleep_until(chain, record.until, f"sealed; votes are opened from {moment(record.until)} on")
        facts |= {"wrong": voting.reveal(chain, seat, folder), "revealed": True}
    said = {True: "wrong", False: "right", None: "sealed"}[facts.get("wrong")]
    emit(facts, as_json=as_json, text=f"{said}, {'opened' if facts['revealed'] else 'sealed'}")
    if not wait:
        note(f"next, from {moment(record.until)} to {moment(seat.reveal_ends)}: {COMMAND} vote {challenge}")


def appeal(
    context: typer.Context, flags: WalletFlags, challenge: Number, wait: Wait = False, as_json: AsJson = False
) -> None:
    """Take a first verdict to a larger jury, with the appeal bond."""
    require("node", f"{COMMAND} appeal")
    chain = _signer(context, flags)
    from proofyard.chain import Court, Phase
    from proofyard.disputes.voting import read_challenge

    record = read_challenge(chain, _id(challenge))
    if record.phase != Phase.VERDICT or record.round != 0:
        raise UsageError(f"challenge {challenge} has no first verdict to appeal against; {next_step(chain, record)}")
    if chain.now() >= record.until:
        raise UsageError(f"the time to appeal against challenge {challenge} ended at {moment(record.until)}")
    Court(chain).appeal(record.id)
    note(f"appeal against challenge {challenge}: {format_credits(chain.params().court.appeal_bond)} are bonded")
    follow_up(chain, record.id, wait, as_json)


def draw(context: typer.Context, flags: WalletFlags, challenge: Number, as_json: AsJson = False) -> None:
    """Draw the jury of a challenge or an appeal. Anyone may, and whoever is first is paid for it."""
    chain = _signer(context, flags)
    from proofyard.chain import Court, Phase
    from proofyard.disputes.voting import read_challenge

    record = read_challenge(chain, _id(challenge))
    if record.phase != Phase.DRAW:
        raise UsageError(f"challenge {challenge} waits for no jury; {next_step(chain, record)}")
    if not Court(chain).draw_jury(record.id):
        note("the block that was to draw it is too old, another one was set")
    tell(chain, chain.challenge(record.id), as_json)


def resolve(
    context: typer.Context, flags: WalletFlags, challenge: Number, wait: Wait = False, as_json: AsJson = False
) -> None:
    """Move a challenge on, whatever it is time for.

    Draw its jury, count its votes, or carry out the verdict.

    Anyone may, and jurors do.
    """
    require("node", f"{COMMAND} resolve")
    chain = _signer(context, flags)
    from proofyard.disputes.voting import read_challenge

    record = read_challenge(chain, _id(challenge))
    if not wait and not is_closed(record):
        move_on(chain, record)
    tell(chain, follow(chain, record.id) if wait else chain.challenge(record.id), as_json)


def withdraw(context: typer.Context, flags: WalletFlags, as_json: AsJson = False) -> None:
    """Take out what was won and the bonds that came back. They are in your stake account, released after a delay.

    What backs your nodes and your verifier stays, and what faults hold, and the stake of a seat that was left, until
    its time is over.
    """
    chain = _signer(context, flags)
    assert chain.wallet is not None, "a signer has a wallet"
    owner, params = chain.wallet.address, chain.params()
    account, paid = chain.account(owner), Wei(0)
    if account.unbonding and account.release_at <= chain.now():
        paid = account.unbonding
        chain.withdraw()
    seat = account.has_verifier or chain.now() < account.bound_until
    backing = account.nodes * params.node_stake + (params.verifier_stake if seat else 0)
    free = Wei(max(0, account.stake - backing))
    if free and (paid or not account.unbonding):
        chain.request_unstake(free)
    account = chain.account(owner)
    facts = {"paid": str(paid), "unbonding": str(account.unbonding), "release_at": str(account.release_at)}
    emit(facts, as_json=as_json, text=format_credits(paid))
    if account.unbonding:
        note(f"{format_credits(account.unbonding)} are released at {moment(account.release_at)}; call this again then")
    elif not paid:
        note("nothing is free: bonds and winnings come when a challenge is resolved, what backs operators stays")


def add_commands(group: App) -> None:
    """Put the commands under `dispute`."""
    of = "verifier dispute"
    group.verb("open", f"{of} open 1 --segment 0:3")(open_challenge)
    group.verb("list", f"{of} list")(list_challenges)
    group.verb("show", f"{of} show 1")(show)
    group.verb("draw", f"{of} draw 1")(draw)
    group.verb("vote", f"{of} vote 1 --wallet home")(vote)
    group.verb("appeal", f"{of} appeal 1")(appeal)
    group.verb("resolve", f"{of} resolve 1 --wait")(resolve)
    group.verb("withdraw", f"{of} withdraw")(withdraw)


def tell_known(chain: "ChainClient", batch: BatchId) -> None:
    """Say which challenges there are of a batch already, so that nobody pays for the same one in vain."""
    for record in _newest(chain, LISTED):
        if record.batch == batch:
            note(f"challenge {record.id}, about {subject_of(record)}: {record.phase.name.lower()}")


# Reading


def _newest(chain: "ChainClient", limit: int) -> list["ChallengeRecord"]:
    from proofyard.chain import ChallengeId

    count = chain.challenge_count()
    return [chain.challenge(ChallengeId(number)) for number in range(count, max(0, count - limit), -1)]


def _signer(context: typer.Context, flags: WalletFlags) -> "ChainClient":
    """A chain client with the wallet that pays bonds, as `proofyard job` uses it."""
    settings = load(RequesterSettings, "requester", toml=config_of(context), flags=flags.given(), shared=SHARED)
    return signer(settings, settings.wallet, settings.password_file)


def _juror(
    context: typer.Context, flags: WalletFlags, execution: ExecuteFlags
) -> tuple["ChainClient", ExecuteFlags, Path]:
    """A chain client with a node's hot key, how that node executes and where it keeps its votes: from `node run`'s
    settings."""
    from proofyard.node.settings import NodeSettings

    given = {**flags.given(), "model_dirs": execution.model_dir}
    settings = load(NodeSettings, "node", toml=config_of(context), flags=given, defaults={"data_dir": data_dir("node")})
    chain = signer(settings, settings.wallet, settings.password_file)
    return chain, replace(execution, model_dir=list(settings.model_dirs)), settings.data_dir / "votes"


def _id(number: int) -> "ChallengeId":
    from proofyard.chain import ChallengeId

    return ChallengeId(number)


async def _load_segment(
    chain: "ChainClient", batch: BatchId, spoken: Spoken, job: int | None
) -> "tuple[Committed, Place, bytes]":
    """The batch, the segment that is meant, and what shows it to be work."""
    from proofyard.disputes.committed import load_committed
    from proofyard.disputes.settled import cid_of_record, salt_in_record

    async with evidence(chain) as found:
        record = await asyncio.to_thread(cid_of_record, chain, batch)
        committed = await load_committed(chain, found.network.read, batch, record)
        place = place_in(committed, spoken, job)
        committed.segment(*place)
        return committed, place, await salt_in_record(found.network.read, batch, record, place[:2])


def _require_open_window(chain: "ChainClient", batch: BatchId) -> None:
    """Raise `UsageError` unless the batch can be challenged now."""
    state = chain.batch(batch)
    if not state.settled_at:
        raise UsageError(f"batch {batch} is not settled{' again yet' if state.voided else ''}; wait for it")
    closes = state.settled_at + chain.params().challenge_window
    if chain.now() >= closes:
        raise UsageError(
            f"the challenge window of batch {batch} closed at {moment(closes)}; nothing in it can be challenged any "
            "more"
        )


def _require_duty(chain: "ChainClient", record: "ChallengeRecord", seat: "Seat | None") -> None:
    """Raise `UsageError` unless the wallet can seal or open a vote now."""
    from proofyard.chain import Phase

    assert chain.wallet is not None, "a signer has a wallet"
    name = f"challenge {record.id}"
    if record.phase != Phase.VOTE:
        raise UsageError(f"there is no vote on {name} now; {next_step(chain, record)}")
    if seat is None:
        raise UsageError(
            f"{chain.wallet.address} is not on the jury of {name}; vote with the hot key of a node that is"
        )
    now = chain.now()
    if seat.revealed:
        raise UsageError(f"the vote of {chain.wallet.address} on {name} is open already; nothing is left to do")
    if not seat.committed and now >= record.until:
        raise UsageError(f"votes on {name} could be sealed until {moment(record.until)}; it is too late")
    if now >= seat.reveal_ends:
        raise UsageError(f"votes on {name} could be opened until {moment(seat.reveal_ends)}; it is too late")
