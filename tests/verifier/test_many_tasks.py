"""Full queues and slow auditors delay, they never decide: many honest tasks on few nodes all end valid."""

import asyncio
import hashlib
import time
from collections import Counter
from pathlib import Path

import pytest
from simulated import Counting, SimulatedNode
from sqlmodel import select
from stage import CREDIT, FakeChain, introduce, join, make_verifier, record_of

from proofyard.chain import Wallet
from proofyard.protocol import signature
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.types import Address, Signature, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier.database import Job, JobState, Log, Task, TaskState
from proofyard.verifier.jobs import note_opened
from proofyard.verifier.service import _work

TASKS, NODES = 300, 5


class Opened:
    """A `JobOpened` event, as far as it is read."""

    def __init__(self, job: int, facts: JobFacts) -> None:
        self.job = job
        for name in facts.__dataclass_fields__:
            setattr(self, name, getattr(facts, name))
        self.position = type("Position", (), {"block": 1})


@pytest.fixture(autouse=True)
def quick_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures are not what this is about, and a thousand of them take long in pure Python."""
    signers: dict[bytes, Address] = {}

    def sign(wallet: Wallet, digest: bytes) -> Signature:
        made = Signature(hashlib.sha512(wallet.address.encode() + digest).digest() + b"\x1b")
        signers[made] = wallet.address
        return made

    def recover(digest: bytes, made: Signature) -> Address:
        signer = signers.get(made, Address(""))
        if made != Signature(hashlib.sha512(signer.encode() + digest).digest() + b"\x1b"):
            raise signature.SignatureInvalid("it is by nobody")
        return signer

    monkeypatch.setattr(Wallet, "sign_digest", sign)
    monkeypatch.setattr(signature, "recover", recover)


async def test_three_hundred_honest_tasks_on_five_nodes_end_with_three_hundred_valid(tmp_path: Path) -> None:
    chain = FakeChain()
    verifier = make_verifier(chain, tmp_path, memory=True, workload=Counting(TASKS), lease_s=0.4)
    introduce(verifier)
    context = verifier.context
    for number in range(NODES):
        wallet = Wallet.generate()
        node = SimulatedNode(verifier, wallet, queue=2, silence=0.1, seed=number)
        join(verifier, node, record_of(chain.add_node(wallet, valid=0)))
    manifest = encode_manifest(Manifest(workload="lora", params={}))
    facts = JobFacts(
        manifest=cid_digest(context.store.put_bytes(manifest)),
        requester=Wallet.generate().address,
        reward=Wei(30 * CREDIT),
        audit_fee=Wei(3 * CREDIT),
        verifier_fee=Wei(CREDIT),
        units=TASKS,
        auditors_per_segment=2,
        segments_per_audit=1,
        workload=0,
        deadline=int(time.time()) + 10_000,
    )
    job = chain.add_job(facts)
    with context.database.session() as session:
        note_opened(session, Opened(job, facts))  # type: ignore[arg-type]

    work = asyncio.create_task(_work(context))
    try:
        async with asyncio.timeout(240):
            while True:
                await asyncio.sleep(0.1)
                with context.database.session() as session:
                    row = session.get(Job, job)
                    assert row is not None
                    if row.state in (JobState.DONE, JobState.FAILED):
                        break
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await context.close()
    with context.database.session() as session:
        row = session.get(Job, job)
        assert row is not None and (row.state, row.reason) == (JobState.DONE, "")
        assert Counter(session.exec(select(Task.state))) == {TaskState.VALID: TASKS}
        kinds = Counter(session.exec(select(Log.kind)))
    assert kinds["undecided"] == kinds["fault"] == 0
    assert kinds["lost"] > 0, "auditors fell silent all the time"
    paid = [line.paid_units for batch in chain.batches.values() for line in batch.content.lines]
    assert sum(paid) == TASKS
