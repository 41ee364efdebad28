"""What a job did not spend, and from when on it can be had back."""

from proofyard.chain import ChainClient, JobRecord


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


def take_back(chain: ChainClient, record: JobRecord) -> int:
    """Have refunded what is free now. Returns from when on there is more, 0 where nothing is left."""
    receipt_time, now = chain.params().receipt_time, chain.now()
    if 0 < more_from(record, receipt_time, now) <= now:
        chain.refund(record.id)
        record = chain.job(record.id)
    return more_from(record, receipt_time, now)
