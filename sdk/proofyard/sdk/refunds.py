"""What a job did not spend, and from when on it can be had back."""

from proofyard.chain import ChainClient, JobRecord
from proofyard.protocol.amounts import format_amount
from proofyard.runtime.times import from_now, moment, span


def escrow_free_from(record: JobRecord, receipt_time: int) -> int:
    """Unix seconds from which what no batch has reserved goes back: no more can be committed. 0 once all of it is
    paid."""
    return 0 if record.units_paid == record.units else record.commits_end(receipt_time) + 1


def surplus_free_from(record: JobRecord, receipt_time: int) -> int:
    """Unix seconds from which what batches had left over goes back: nothing that used it can be disputed any more."""
    return max(escrow_free_from(record, receipt_time), record.surplus_from)


def more_from(record: JobRecord, receipt_time: int, now: int) -> int:
    """From when on there is something to be had back; `now` where that is already so, 0 where nothing is left."""
    times = [
        *([escrow_free_from(record, receipt_time)] if record.escrow else []),
        *([surplus_free_from(record, receipt_time)] if record.surplus else []),
    ]
    return max(now, min(times)) if times else 0


def what_comes_back(record: JobRecord, receipt_time: int, now: int) -> str:
    """What is left of a job's money, from when on it can be had back, and by which command."""
    held = record.escrow + record.surplus
    if not held:
        return "nothing of what was paid for it is left"
    over = record.closed or record.units_paid == record.units
    command = f"proofyard job refund {record.id}" if over else f"proofyard job cancel {record.id}"
    free = more_from(record, receipt_time, now)
    from_when = "now" if free <= now else f"from {moment(free, now)} on"
    if over:
        return f"{format_amount(held)} are held for it and can be had back {from_when}: {command}"
    ends = f"{command} ends it, and what is not spent comes back {span(receipt_time)} after that"
    return f"{format_amount(held)} are held for it: {ends}, with `proofyard job refund {record.id}`"


def ended_early(record: JobRecord, receipt_time: int, now: int) -> str:
    """How a job ended that is not done and will not be; empty where all of it is paid, or still may be."""
    if record.units_paid >= record.units:
        return ""
    nobody = "" if record.verifier or record.former else ", and no verifier had taken it"
    if record.closed:
        return f"it was closed {from_now(record.closed_at - now)}, before it was done{nobody}"
    if now > (record.deadline if nobody else record.commits_end(receipt_time)):
        return f"its time ran out {from_now(record.deadline - now)}{nobody}"
    return ""


def take_back(chain: ChainClient, record: JobRecord) -> int:
    """Have refunded what is free now. Returns from when on there is more, 0 where nothing is left."""
    receipt_time, now = chain.params().receipt_time, chain.now()
    if 0 < more_from(record, receipt_time, now) <= now:
        chain.refund(record.id)
        record = chain.job(record.id)
    return more_from(record, receipt_time, now)
