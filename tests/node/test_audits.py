"""What a node answers to an audit, and what it does with a task that nobody can execute."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from proofyard.artifacts import cid_of_bytes
from proofyard.chain import Wallet
from proofyard.node.adversary import CopyingAuditor, FalseAccuser, LazyAuditor
from proofyard.node.agent import Agent, Work
from proofyard.node.journal import Journal
from proofyard.node.retention import NodeStore
from proofyard.node.service import offered
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.commitment import Domain
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import Ack, AuditFailed, AuditOffer, OpenSeal, SealOpened, TaskFailed, TaskOffer
from proofyard.protocol.seal import CANNOT_EXECUTE, MAX_REASON
from proofyard.protocol.types import Address, BatchId, JobId, SegmentIndex
from proofyard.workloads.errors import OutOfMemory, SegmentFailed
from proofyard.workloads.lora import WORKLOAD
from proofyard.workloads.state import decode_state, encode_state
from proofyard.workloads.workload import Inputs

VERIFIER = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
MANIFEST = Manifest(
    workload="lora",
    model=cid_of_bytes(b"model"),
    data=cid_of_bytes(b"data"),
    params={
        "modules": {"m": (4, 4)},
        "rank": 2,
        "alpha": 1.0,
        "lr": 0.1,
        "rounds": 1,
        "workers": 1,
        "segments": 2,
        "segment_steps": 1,
        "batch": 1,
        "seq_len": 8,
    },
)
TASK = WORKLOAD.graph(MANIFEST)[0]
FIRST = WORKLOAD.initial_state(MANIFEST, TASK, Inputs())
SECOND = encode_state(dict(decode_state(FIRST)) | {"step": np.array(1, np.int64)})
AFTER = b"the state after"


class Bench:
    """An agent whose executor gives `outcome`; `sent` is what it told its verifier."""

    def __init__(self, folder: Path, outcome: bytes | Exception, kind: type[Agent] = Agent) -> None:
        self.outcome, self.executed, self.sent = outcome, 0, list[Any]()
        self.store = NodeStore(folder / "blocks")
        self.journal = Journal(folder / "node.db")
        parts: Sequence[Any] = (
            SimpleNamespace(data_dir=folder),
            Wallet.generate(),
            Domain(31337, VERIFIER),
            SimpleNamespace(on=lambda *_: None),
            self,
            self.store,
            self,
            self.journal,
            None,
        )
        self.agent = kind(*parts)
        self.manifest = self.store.put_bytes(encode_manifest(MANIFEST))
        for content in (b"model", b"data", FIRST, SECOND):
            self.store.put_bytes(content)

    async def run_segment(self, *_: Any, **__: Any) -> bytes:
        self.executed += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    run_task = run_segment

    async def try_request(self, _verifier: Address, message: Any, _reply: object) -> Ack:
        self.sent.append(message)
        return Ack()

    async def deliver(self, _verifier: Address, message: Any, _reply: object) -> Ack:
        self.sent.append(message)
        return Ack()

    async def audit(self, before: bytes, segment: int = 1) -> SealOpened | None:
        offer = AuditOffer(
            BatchId(3), JobId(1), self.manifest, TASK, SegmentIndex(segment), self.store.put_bytes(before), (), 15.0
        )
        self.journal.accept_audit(VERIFIER, offer)
        await self.agent._audit(Work(VERIFIER, offer), offer)
        return self.journal.opening(VERIFIER, OpenSeal(offer.batch, TASK.index, offer.segment))


async def test_an_answer_is_the_digest_of_the_state_and_no_state_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    opened = await bench.audit(SECOND)
    assert opened is not None
    assert (opened.after, opened.reason, len(opened.salt)) == (cid_digest(cid_of_bytes(AFTER)), "", 32)
    assert not bench.store.has(cid_of_bytes(AFTER))


async def test_a_defined_failure_is_an_answer(tmp_path: Path) -> None:
    opened = await Bench(tmp_path, SegmentFailed(1, "the loss is NaN " * 50)).audit(SECOND)
    assert opened is not None
    assert opened.after == CANNOT_EXECUTE
    assert opened.reason.startswith("segment 1 failed: the loss is NaN") and len(opened.reason) == MAX_REASON


async def test_a_state_that_breaks_a_law_cannot_be_executed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER)
    opened = await bench.audit(FIRST)
    assert opened is not None
    assert (opened.after, bench.executed) == (CANNOT_EXECUTE, 0)


async def test_what_this_machine_alone_lacks_is_no_answer(tmp_path: Path) -> None:
    bench = Bench(tmp_path, OutOfMemory("the limit was reached"))
    with pytest.raises(OutOfMemory):
        await bench.audit(SECOND)
    assert bench.sent == []
    offer = AuditOffer(BatchId(3), JobId(1), bench.manifest, TASK, SegmentIndex(1), cid_of_bytes(SECOND), (), 15.0)
    await bench.agent._hand_back(Work(VERIFIER, offer), "the limit was reached")
    assert isinstance(bench.sent[0], AuditFailed)


async def test_a_worker_reports_a_defined_failure_and_commits_to_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, SegmentFailed(0, "the loss is NaN"))
    offer = TaskOffer(JobId(1), bench.manifest, TASK, (), (), 15.0)
    bench.journal.accept_task(VERIFIER, offer)
    work = Work(VERIFIER, offer)
    with pytest.raises(SegmentFailed) as failure:
        await bench.agent._do(work)
    await bench.agent._hand_back(work, str(failure.value))
    assert [(type(message), message.reason) for message in bench.sent] == [
        (TaskFailed, "segment 0 failed: the loss is NaN")
    ]
    assert (work.submission, bench.journal.held(), bench.journal.open_tasks()) == (None, [], [])


@pytest.mark.parametrize("kind", [LazyAuditor, FalseAccuser])
async def test_lying_auditors_answer_something_else(tmp_path: Path, kind: type[Agent]) -> None:
    opened = await Bench(tmp_path, AFTER, kind).audit(SECOND)
    assert opened is not None
    assert opened.after not in (cid_digest(cid_of_bytes(AFTER)), CANNOT_EXECUTE)


async def test_a_copying_auditor_executes_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, AFTER, CopyingAuditor)
    one = await bench.audit(SECOND)
    bench.outcome = b"another state"
    other = await bench.audit(SECOND, segment=1)
    assert one is not None and other is not None
    assert (one.after, bench.executed) == (other.after, 1)
    assert one.salt != other.salt


def test_without_arithmetic_that_gives_the_right_bits_only_plain_work_is_offered() -> None:
    assert offered(("lora", "map", "embed"), "") == ("map",)
    assert offered(("lora", "map"), "native") == ("lora", "map")
