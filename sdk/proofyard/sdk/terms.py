"""What a job is opened with, looked at before anything is published or paid: a field that would be refused later by the
contract, a verifier or a node is refused here, by its name."""

from collections.abc import Sequence
from dataclasses import dataclass

from proofyard.chain import JobTerms
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.earnings import LEAST_SEAT_PAY
from proofyard.protocol.fees import (
    TOKEN_PER_ETHER,
    USUAL_FEE_BPS,
    USUAL_TASKS,
    least_verifier_fee,
    propose_verifier_fee,
)
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.types import Digest, Wei
from proofyard.protocol.workload_bits import workload_bit
from proofyard.sdk.errors import JobRefused
from proofyard.workloads.limits import USUAL, Limits, demands

BPS = 10_000
TASK_REWARD_BPS = 8500
"""What a task may earn, in 1/10,000 of what a verifier pays for a receipt that it breaks."""

LEAST_AUDITORS = 2
MAX_BYTE = (1 << 8) - 1
MAX_AMOUNT = (1 << 96) - 1
MAX_UNITS = (1 << 48) - 1
LEAST_SECONDS = 60
MAX_SECONDS = 365 * 86_400
LONGEST_NONCE = 64


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A requester's terms. `verifier_fee` None asks for a proposal (`propose_verifier_fee`); amounts in base units.

    `auditors_per_segment` (k, at least 2) owners execute each of the `segments_per_audit` (m) segments that are drawn
    of an audited task. `deadline_s`: seconds from now in which the job must be done.
    """

    reward: Wei
    audit_fee: Wei
    verifier_fee: Wei | None = None
    auditors_per_segment: int = LEAST_AUDITORS
    segments_per_audit: int = 1
    deadline_s: int = 24 * 3600


def check_offer(offer: Offer) -> None:
    """Raise `JobRefused` for the first field that the contract would not take."""
    amounts = {"reward": offer.reward, "audit_fee": offer.audit_fee}
    amounts |= {} if offer.verifier_fee is None else {"verifier_fee": offer.verifier_fee}
    counts = ("auditors_per_segment", "segments_per_audit", "deadline_s")
    for field, number in (amounts | {name: getattr(offer, name) for name in counts}).items():
        what = "base units, such as credits(12)" if field in amounts else "a whole number"
        _require(type(number) is int, field, f"is {number!r}; give {what}")
    for field, amount in amounts.items():
        _require(0 <= amount <= MAX_AMOUNT, field, f"is {amount} base units; amounts lie between 0 and 2**96 - 1")
    k, m, seconds = offer.auditors_per_segment, offer.segments_per_audit, offer.deadline_s
    _require(
        LEAST_AUDITORS <= k <= MAX_BYTE,
        "auditors_per_segment",
        f"is {k}; a segment needs {LEAST_AUDITORS} to {MAX_BYTE} owners, so that no single one decides",
    )
    _require(1 <= m <= MAX_BYTE, "segments_per_audit", f"is {m}; from 1 to {MAX_BYTE} segments are drawn of a task")
    known = f"from {LEAST_SECONDS} to {MAX_SECONDS} s are possible"
    _require(LEAST_SECONDS <= seconds <= MAX_SECONDS, "deadline_s", f"is {seconds} s; {known}")


def check_nonce(nonce: str) -> None:
    """Raise `JobRefused` for a nonce that is no short word."""
    fits = isinstance(nonce, str) and len(nonce) <= LONGEST_NONCE and nonce.isprintable() and " " not in nonce
    _require(fits, "nonce", f"is {str(nonce)[:80]!r}; give up to {LONGEST_NONCE} letters, digits and signs, no space")


def check_work(manifest: Manifest, graph: Sequence[TaskSpec], limits: Limits = USUAL) -> None:
    """Raise `JobRefused` for the first field that asks more of a node than `limits` allow."""
    _require(bool(graph), "params", "make no task")
    units = sum(spec.work_units for spec in graph)
    usual = f"verifiers take {USUAL_TASKS} of a job unless their operators say otherwise (job_tasks)"
    _require(len(graph) <= USUAL_TASKS, "params", f"make {len(graph)} tasks; {usual}")
    _require(0 < units <= MAX_UNITS, "params", f"make {units} work units; from 1 to 2**48 - 1 can be counted")
    for spec in graph:
        for demand in demands(manifest, spec):
            limit = getattr(limits, demand.limit)
            usual = f"nodes take {limit} unless their operators say otherwise ({demand.limit})"
            _require(demand.amount <= limit, demand.field, f"asks for {demand.amount} in task {spec.index}; {usual}")


def check_sizes(sizes: dict[str, int], limits: Limits = USUAL) -> None:
    """Raise `JobRefused` where the content of the `model` or the `data` has more bytes than nodes take."""
    for field, size in sizes.items():
        limit = getattr(limits, f"max_{field}_bytes")
        usual = f"nodes take {limit} unless their operators say otherwise (max_{field}_bytes)"
        _require(size <= limit, field, f"has {size} bytes; {usual}")


def most_of_a_task(receipt_penalty: Wei) -> Wei:
    """What a task may earn where a broken receipt costs its verifier so much: 85% of it.

    With more, breaking the receipt would pay for verifier and requester together, who save the audits as well.
    """
    return Wei(receipt_penalty * TASK_REWARD_BPS // BPS)


def check_task_rewards(graph: Sequence[TaskSpec], reward: Wei, most: Wei) -> None:
    """Raise `JobRefused` where a task earns more than `most`: nodes take no such task. And where a reward is not a base
    unit for each unit of work: whoever writes 100 means `credits(100)`."""
    units = sum(spec.work_units for spec in graph)
    _require(
        reward == 0 or reward >= units,
        "reward",
        f"is {reward} base units for {units} units of work, as good as nothing; credits({reward}) makes CREDIT",
    )
    best = max(reward * spec.work_units // units for spec in graph)
    _require(
        best <= most,
        "reward",
        f"gives a task up to {format_amount(best)}; nodes take {format_amount(most)} at most, pay less or make more "
        "and smaller tasks",
    )


def check_audit_fee(graph: Sequence[TaskSpec], offer: Offer) -> None:
    """Raise `JobRefused` where the fee pays an auditor of some task too little: nodes take no such work."""
    units = sum(spec.work_units for spec in graph)
    least = min(graph, key=lambda spec: spec.work_units)
    k, m = offer.auditors_per_segment, min(least.segments, offer.segments_per_audit)
    needed = -(-LEAST_SEAT_PAY * units * k * m // least.work_units)
    _require(
        offer.audit_fee >= needed,
        "audit_fee",
        f"is {format_amount(offer.audit_fee)}; at least {format_amount(Wei(needed))} pay each auditor of the smallest "
        f"task {format_amount(LEAST_SEAT_PAY)}, for less nodes take no work",
    )


def check_verifier_fee(tasks: int, offer: Offer, gas_price: int) -> None:
    """Raise `JobRefused` where the fee is less than verifiers take for the gas of so many tasks, at `gas_price` wei."""
    if offer.verifier_fee is None:
        return
    least = least_verifier_fee(tasks, gas_price, TOKEN_PER_ETHER, USUAL_FEE_BPS)
    _require(
        offer.verifier_fee >= least,
        "verifier_fee",
        f"is {format_amount(offer.verifier_fee)}; for the gas of {tasks} tasks at the present price verifiers take "
        f"{format_amount(least)} at least, unless their operators say otherwise (least_fee_bps)",
    )


def owners_needed(graph: Sequence[TaskSpec], terms: JobTerms) -> int:
    """The owners that a job needs at least: its worker's, and k + 1 others for each segment that is drawn of a task."""
    segments = max(min(spec.segments, terms.segments_per_audit) for spec in graph)
    return 1 + segments * (terms.auditors_per_segment + 1)


def job_terms(
    manifest: Manifest, digest: Digest, graph: Sequence[TaskSpec], offer: Offer, gas_price: int, now: int
) -> JobTerms:
    """What the contract is told. `digest` is the manifest's; the deadline counts from `now`, the chain's time."""
    fee = offer.verifier_fee
    return JobTerms(
        manifest=digest,
        units=sum(spec.work_units for spec in graph),
        reward=offer.reward,
        audit_fee=offer.audit_fee,
        verifier_fee=propose_verifier_fee(offer.reward, len(graph), gas_price) if fee is None else fee,
        auditors_per_segment=offer.auditors_per_segment,
        segments_per_audit=offer.segments_per_audit,
        deadline=now + offer.deadline_s,
        workload=workload_bit(manifest.workload),
    )


def _require(holds: bool, field: str, reason: str) -> None:
    if not holds:
        raise JobRefused(f"{field}: {reason}")
