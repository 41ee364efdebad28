"""Full queues and slow auditors delay, they never decide: many honest tasks on few nodes all end valid."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from simulated import Counting, SimulatedNode
from stage import CREDIT, FakeChain, introduce, join, make_verifier, record_of

from proofyard.chain import Wallet
from proofyard.protocol import signature
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.manifest import Manifest, encode_manifest
from proofyard.protocol.messages import Announce
from proofyard.protocol.types import Address, Signature, Wei
from proofyard.protocol.view import JobFacts
from proofyard.verifier.engine.rows import Job, JobState, Log, Task, TaskState

TASKS, NODES = 300, 5


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
    verifier = make_verifier(chain, tmp_path, workload=Counting(TASKS), lease_s=0.4)
    introduce(verifier)
    context = verifier.context
    announce = Announce(("lora",), 0, 0, "", tasks=2, audits=2)
    for number in range(NODES):
        wallet = Wallet.generate()
        node = SimulatedNode(verifier, wallet, queue=2, silence=0.1, seed=number)
        join(verifier, node, record_of(chain.add_node(wallet, valid=0)), announce)
    manifest = encode_manifest(Manifest(workload="lora", params={}))
    job = chain.add_job(
        JobFacts(
            manifest=cid_digest(context.store.put_bytes(manifest)),
            requester=Wallet.generate().address,
            reward=Wei(30 * CREDIT),
            audit_fee=Wei(3 * CREDIT),
            verifier_fee=Wei(CREDIT),
            units=TASKS,
            auditors_per_segment=2,
            segments_per_audit=1,
            workload=0,
            deadline=chain.clock + 10_000,
        )
    )
    async with verifier.running():
        await verifier.until(
            lambda: job in verifier.rows.jobs and verifier.rows.jobs[job].state == JobState.DONE, seconds=240
        )
        await verifier.runner.tell_all([])
    (row,) = verifier.stored(Job)
    assert (row.state, row.reason, row.units_paid, row.units_open) == (JobState.DONE, "", TASKS, 0)
    assert Counter(task.state for task in verifier.stored(Task)) == {TaskState.ACCEPTED: TASKS}
    kinds = Counter(line.kind for line in verifier.stored(Log))
    assert kinds["undecided"] == kinds["fault"] == 0
    assert kinds["lost"] > 0, "auditors fell silent all the time"
    paid = [line.paid_units for batch in chain.batches.values() for line in batch.content.lines]
    assert sum(paid) == TASKS
    verifier.context.database.close()
