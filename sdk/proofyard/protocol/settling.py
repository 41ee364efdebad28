"""From a record to what goes on chain: a pure function, so that anyone can compare."""

from collections.abc import Callable, Hashable, Iterable

from proofyard.protocol.codec import encode
from proofyard.protocol.earnings import earnings
from proofyard.protocol.findings import accusers_of
from proofyard.protocol.merkle import root
from proofyard.protocol.record import BatchRecord, RecordedFault, payouts_of
from proofyard.protocol.settlement import EMPTY_ROOT, MAX_ACCUSERS, MAX_FAULTS, RESULT, Fault, FaultReason, Settlement
from proofyard.protocol.types import Cid, Digest
from proofyard.protocol.view import BatchView


def settlement_of(record: BatchRecord, view: BatchView, cid: Cid) -> Settlement:
    """The settlement of the record `cid`, which holds: a function of it and of the chain alone."""
    return Settlement(
        payouts=payouts_of(record),
        faults=tuple(_on_chain(record, view, fault) for fault in charged(record, view)),
        shares=earnings(view, record).shares,
        audit_root=audit_root(record),
        record=cid,
    )


def audit_root(record: BatchRecord) -> Digest:
    return root([encode(audit) for audit in record.audits]) if record.audits else EMPTY_ROOT


def charged(record: BatchRecord, view: BatchView) -> tuple[RecordedFault, ...]:
    """The faults that go on chain.

    One stands for all of an operator's, the first that costs stake if there is one: its owner's whole stake is at risk
    however many there are. Where there are more operators than `MAX_FAULTS`, each owner comes once before any comes
    twice; the others go unpaid and keep their stake.
    """
    by_weight = sorted(record.faults, key=lambda fault: fault.kind == FaultReason.DISAGREED)
    first = _first_by(by_weight, lambda fault: view.owners[fault.node][0])
    owners = _first_by(first, lambda fault: view.owners[fault.node][1])
    return tuple([*owners, *(fault for fault in first if fault not in owners)][:MAX_FAULTS])


def _first_by(faults: Iterable[RecordedFault], key: Callable[[RecordedFault], Hashable]) -> list[RecordedFault]:
    first: dict[Hashable, RecordedFault] = {}
    for fault in faults:
        first.setdefault(key(fault), fault)
    return list(first.values())


def _on_chain(record: BatchRecord, view: BatchView, fault: RecordedFault) -> Fault:
    named = max(MAX_ACCUSERS, view.jobs[fault.job].auditors_per_segment + 1)
    accusers = tuple(sorted(view.owners[auditor][0] for auditor in accusers_of(record, fault))[:named])
    segment = RESULT if fault.segment is None else fault.segment
    return Fault(view.owners[fault.node][0], fault.job, fault.task, segment, fault.kind, accusers)
