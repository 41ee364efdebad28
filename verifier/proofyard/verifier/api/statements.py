"""Statements about why: a task was given to whom, waits, or a node gets none; somebody was audited, found faulty,
slashed, or paid what.

Each says where it can be checked: the batch, the CID of its record, and the command that replays it. What a verifier
alone knows (who was connected and had room) has nothing to show but its log. All are pure functions of facts;
`explainer` gathers them.
"""

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from proofyard.protocol.dial import WAD, p_trust, per_task, stake_at_risk, tasks_alike
from proofyard.protocol.members import Member
from proofyard.protocol.plan import exposure_of, odds_of, task_reward
from proofyard.protocol.record import RecordedPayout, RecordedRedress
from proofyard.protocol.types import Address, BatchId, JobId, Wei
from proofyard.protocol.view import BatchView
from proofyard.verifier.api import types as out
from proofyard.verifier.engine import rows, scheduling
from proofyard.verifier.engine.events import UNBOUND
from proofyard.verifier.engine.world import Node, World

NODES = 100
"""So many nodes an explanation shows at most."""
TOKEN = 10**18
NOWHERE = out.Shown(batch=None, record=None, replay="")


@dataclass(frozen=True)
class Dial:
    """What the audit plan reckoned with for one task; rewards and stakes in base units, chances in 1e-18."""

    consecutive_valid: int
    stake: int
    at_risk: int
    in_flight: int
    reward: int
    trust: int
    fake_seen: int
    chance: int
    segments: int


@dataclass(frozen=True)
class Standing:
    """A connected node as the scheduler sees it for one job's tasks."""

    node: Address
    owner: Address
    executes: bool
    guilty: bool
    rests: bool
    stake: int
    in_flight: int
    holds: int
    room: int
    lost: int
    done: int
    others: int
    """Owners here that could audit it."""
    memory_bytes: int = UNBOUND
    """The most that its work may take."""
    machine: str = ""
    """What it claims of its machine and has shown, in words."""
    too_much: str = ""
    """Why it may not have the task in question, for what is its owner's or its subnet's of the round."""


@dataclass(frozen=True)
class Kind:
    """Tasks of a job that are alike: one reward, one number of segments. `ready`: how many of them wait for a node."""

    reward: int
    segments: int
    ready: int


@dataclass(frozen=True)
class Here:
    """What the engine knows of a job now."""

    nodes: tuple[Standing, ...]
    kinds: tuple[Kind, ...]
    collusion_bps: int
    given_back_bps: int
    least_bytes: int = 0
    """Of memory that the job's work takes."""


@dataclass(frozen=True)
class Fees:
    """What verifiers earn by a batch over all of its jobs: whoever led it, and `signers` seats."""

    batch: int
    fees: int
    signers: int


@dataclass(frozen=True)
class Slashed:
    """What a settlement took of an operator's stake for a fault; `absolved` where it was given back."""

    operator: str
    job: int
    task: int
    segment: int
    amount: int
    absolved: bool


# What the engine knows: called in the verifier's loop


def _too_much(world: World, job: rows.Job | None, task: int | None, node: Node) -> str:
    if job is None or task is None or (job.id, task) not in world.rows.tasks:
        return ""
    return scheduling.too_much(world, job, task, node)


def look_around(world: World, number: int, machines: Mapping[Address, str], task: int | None = None) -> Here:
    """In one go over the nodes that are connected, `NODES` at most; `machines`: what each has shown, in words; `task`:
    of the job, where it is about one."""
    board, job = world.memory(scheduling.Board), world.rows.jobs.get(JobId(number))
    workload = job.workload_name if job else ""
    owners = board.here.get(workload) or Tally[Address]()
    found = []
    for node in list(world.nodes.values())[:NODES]:
        requester = job is not None and job.requester in owners and job.requester != node.owner
        found.append(
            Standing(
                node=node.node,
                owner=node.owner,
                executes=workload in node.workloads,
                guilty=node.owner in world.rows.guilty,
                rests=node.node in board.resting,
                stake=node.stake,
                in_flight=board.exposure.get(node.owner, 0) + world.elsewhere.get(node.owner, 0),
                holds=len(node.holds),
                room=node.tasks,
                lost=board.losses.get(node.node, 0),
                done=board.load.get(node.node, 0),
                others=len(owners) - (node.owner in owners) - requester,
                memory_bytes=node.memory_bytes,
                machine=machines.get(node.node, ""),
                too_much=_too_much(world, job, task, node),
            )
        )
    kinds = [
        Kind(queue.reward, queue.segments, queue.size)
        for key, queue in list(board.queues.items())[:1000]
        if key[0] == number
    ]
    rules = world.rules
    least = board.sizes.get(JobId(number), 0)
    return Here(tuple(found), tuple(kinds[:NODES]), rules.collusion_bps, rules.given_back_bps, least)


# Statements


def because(
    about: str,
    text: str,
    *,
    task: int | None = None,
    node: str | None = None,
    shown: out.Shown = NOWHERE,
    **facts: object,
) -> out.Because:
    said = {name: str(value) for name, value in facts.items()}
    return out.Because(about=about, text=text, task=task, node=node, facts=said, shown=shown)


def credits_of(amount: int) -> str:
    """An amount as people read it, exact."""
    whole, rest = divmod(abs(amount), TOKEN)
    fraction = f".{rest:018d}".rstrip("0") if rest else ""
    return f"{'-' if amount < 0 else ''}{whole}{fraction} CREDIT"


def percent(wad: int) -> str:
    return f"{wad * 100 / WAD:.4g}%"


def shown_by(batch: str | None, record: str | None, place: str = "") -> out.Shown:
    """The record of a batch and the command that replays it; `place` is job:task:segment."""
    if batch is None:
        return NOWHERE
    command = f"proofyard verifier dispute replay {batch}" + (f" --segment {place}" if place else "")
    return out.Shown(batch=batch, record=record, replay=command if record else "")


def why_not(node: Standing, job: rows.Job, kind: Kind | None, barred: Sequence[str], here: Here) -> str:
    """Why a node is not given a task of a job now; empty if nothing keeps it from one."""
    if node.guilty:
        return "its owner has a fault here that costs stake: none of its nodes gets work"
    if not node.executes:
        return f"it does not offer to execute {job.workload_name or 'this workload'}"
    if node.node in barred:
        return "it may not have this task again: it let it go too often, was outvoted on it, or was found faulty"
    if node.holds >= node.room:
        return f"it is busy: it holds {node.holds} of the {node.room} tasks that it takes at a time"
    if node.too_much:
        return node.too_much
    if node.rests:
        return "it declined or was away a moment ago, and is asked again in seconds"
    if too_large := scheduling.too_large(node.memory_bytes, here.least_bytes):
        return too_large
    if kind is None:
        return ""
    return _objection(
        *(node.stake, kind.reward, node.in_flight, kind.segments, job.segments_per_audit, job.auditors_per_segment),
        *(node.others, here.collusion_bps, here.given_back_bps),
    )


@lru_cache(4096)
def _objection(*numbers: int) -> str:
    stake, reward, in_flight, segments, m, k, others, collusion_bps, given_back_bps = numbers
    return scheduling.objection(
        Wei(stake),
        Wei(reward),
        Wei(in_flight),
        segments=segments,
        segments_per_audit=m,
        auditors_per_segment=k,
        others=others,
        collusion_bps=collusion_bps,
        given_back_bps=given_back_bps,
    )


def of_nodes(
    here: Here, job: rows.Job, kind: Kind | None, barred: Sequence[str], task: int | None
) -> list[out.Because]:
    """Each connected node: what keeps it from a task, or that nothing does."""
    found = []
    for node in here.nodes:
        reason = why_not(node, job, kind, barred, here)
        found.append(
            because(
                "node",
                reason or "nothing keeps it from work: it is asked when its turn comes",
                task=task,
                node=node.node,
                owner=node.owner,
                stake=node.stake,
                in_flight=node.in_flight,
                holds=node.holds,
                room=node.room,
                lost=node.lost,
                done=node.done,
                other_owners=node.others,
                memory_bytes=node.memory_bytes,
                machine=node.machine,
            )
        )
    return found


def dial_of(view: BatchView, members: Mapping[BatchId, Sequence[Member]], job: int, task: int) -> Dial | None:
    """What the plan of a batch reckons with for one of its tasks: the numbers behind `plan.odds_of`. Only what the
    worker's owner has in flight is added up; it is the signatures of those commitments that take the time."""
    found = next((member for member in members[view.batch] if member.key == (job, task)), None)
    if found is None:
        return None
    commitment = found.commitment
    terms, (_, owner) = view.jobs[commitment.job], view.owners[commitment.node]
    keys = {key for key, (_, other) in view.owners.items() if other == owner}
    own = {batch: [each for each in listed if each.commitment.node in keys] for batch, listed in members.items()}
    in_flight, worker = Wei(exposure_of(view, own)[owner]), view.operator_of(commitment.node)
    stake, valid = (worker.stake, worker.consecutive_valid) if worker else (Wei(0), 0)
    at_risk = stake_at_risk(stake, view.given_back_bps)
    reward = task_reward(terms, commitment.work_units)
    seen = per_task(at_risk, tasks_alike(in_flight, reward), in_flight, view.collusion_bps)
    odds = odds_of(view, commitment, in_flight)
    return Dial(valid, stake, at_risk, in_flight, reward, p_trust(valid), seen, odds.wad, odds.segments)


def of_dial(dial: Dial, drawn: int, task: int, node: str, shown: out.Shown) -> out.Because:
    """Why a task was audited or not, by the numbers of the dial."""
    happened = f"{drawn} of its segments were drawn" if drawn else "it was not drawn"
    if dial.chance >= WAD:
        why = (
            f"its worker has {dial.consecutive_valid} valid audits in a row, and is always audited below 10"
            if dial.trust >= WAD
            else "so much is in flight beside its stake that every task is audited"
        )
    elif dial.chance > dial.trust:
        why = "what its owner has in flight beside its stake sets the chance, not its record"
    else:
        why = f"its worker has {dial.consecutive_valid} valid audits in a row"
    return because(
        "drawn",
        f"{happened}: the chance was {percent(dial.chance)}, of {dial.segments} segments; {why}",
        task=task,
        node=node,
        shown=shown,
        chance_e18=dial.chance,
        trust_e18=dial.trust,
        fake_must_be_seen_e18=dial.fake_seen,
        segments_if_drawn=dial.segments,
        consecutive_valid=dial.consecutive_valid,
        stake=dial.stake,
        stake_at_risk=dial.at_risk,
        in_flight=dial.in_flight,
        task_reward=dial.reward,
    )


def of_audit(audit: out.Audit) -> out.Because:
    """What auditors said of a segment, and what that came to."""
    said = [f"{seat.auditor} {_vote(seat, audit)}" for seat in audit.seats]
    text = f"segment {audit.segment}: {audit.verdict}"
    text += f" ({audit.fault}: {audit.reason})" if audit.fault else ""
    text += f"; {', '.join(said)}" if said else "; nobody was asked"
    return because(
        "audit", text, task=audit.task, node=audit.worker, shown=audit.shown, list=" ".join(audit.auditors[:8])
    )


def _vote(seat: out.Seat, audit: out.Audit) -> str:
    if seat.copied:
        return "gave an answer that it did not compute"
    if seat.state != "opened":
        return {"away": "gave no answer", "working": "works on it", "sealed": "has sealed its answer"}[seat.state]
    if audit.verdict == "pending":
        return "has answered"
    if seat.reason:
        return f"cannot execute it: {seat.reason}"
    return "came to the same state" if seat.answer == audit.claimed else "came to another state"


def of_fault(fault: out.Fault, slashed: Sequence[Slashed]) -> out.Because:
    """A fault, and what it took. `slashed`: by the settlement."""
    where = f"segment {fault.segment}" if fault.segment is not None else "its result"
    took = [
        each
        for each in slashed
        if (each.operator, str(each.job), each.task) == (fault.operator, fault.job, fault.task)
        and (fault.segment is None or each.segment == fault.segment)
    ]
    money = ""
    if took:
        absolved = ", and given back" if took[0].absolved else ""
        money = f"; {credits_of(took[0].amount)} of its owner's stake were slashed{absolved}"
    return because(
        "slashed" if took else "fault",
        f"{fault.kind} in {where}: {fault.reason}{money}",
        task=fault.task,
        node=fault.node,
        shown=fault.shown,
        owner=fault.owner,
        operator=fault.operator,
        **({"slashed": took[0].amount} if took else {}),
    )


def of_payout(payout: RecordedPayout, task: int | None, shown: out.Shown) -> out.Because:
    """What an operator earned in a batch, over all that it did there."""
    earned = {"for work": int(payout.work), "for audits": int(payout.audits)}
    parts = [f"{credits_of(amount)} {what}" for what, amount in earned.items() if amount]
    if payout.segments:
        count = "one share" if payout.segments == 1 else f"{payout.segments} shares"
        parts.append(f"{count} of what was slashed, for faults that it found")
    text = " and ".join(parts) or "nothing: no work of its was accepted, and audits left nothing of their fee for it"
    return because(
        "paid",
        f"operator {payout.operator} earned {text} in batch {shown.batch}",
        task=task,
        node=payout.node,
        shown=shown,
        operator=payout.operator,
        work=payout.work,
        audits=payout.audits,
        valid_audits=payout.valid,
    )


def of_redress(paid: RecordedRedress, shown: out.Shown) -> out.Because:
    """What a fault pays for a task that it made worthless."""
    return because(
        "paid",
        f"operator {paid.operator} is paid up to {credits_of(int(paid.amount))} for task {paid.task}, which is done "
        f"again, out of the stake that fault {paid.fault} of batch {paid.batch} took, once that is final",
        task=paid.task,
        node=paid.node,
        shown=shown,
        operator=paid.operator,
        redress=paid.amount,
        fault_batch=paid.batch,
        fault=paid.fault,
    )


def of_fees(earned: Fees, record: str | None) -> out.Because:
    """What verifiers earn by a batch."""
    signed = earned.signers
    seats = "the one seat that signed" if signed == 1 else f"the {signed} seats that signed"
    return because(
        "fees",
        f"verifiers share {credits_of(earned.fees)} for batch {earned.batch}: whoever led it and {seats}",
        shown=shown_by(str(earned.batch), record),
        fees=earned.fees,
        signers=signed,
    )
