from pathlib import Path

import pytest

from proofyard.node.journal import Journal, JournalError
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import AuditOffer, OpenSeal, SealOpened, SubmitCommitment, TaskOffer
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex

VERIFIER = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
TASK = TaskSpec(index=TaskIndex(2), kind="train")
OFFER = TaskOffer(JobId(1), raw_cid(b"m"), TASK, (), (), 15.0)
AUDIT = AuditOffer(BatchId(7), JobId(1), raw_cid(b"m"), TASK, SegmentIndex(3), raw_cid(b"b"), (), 15.0)
SUBMISSION = SubmitCommitment(
    Commitment(
        JobId(1),
        TaskIndex(2),
        VERIFIER,
        Digest(bytes(32)),
        Digest(bytes(32)),
        Digest(bytes(32)),
        1,
        raw_cid(b"r"),
        1,
    ),
    Signature(bytes(65)),
    (raw_cid(b"0"), raw_cid(b"1")),
)


def test_unfinished_tasks_survive_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "node.db")
    journal.accept_task(VERIFIER, OFFER)
    journal.close()
    journal = Journal(tmp_path / "node.db")
    assert journal.open_tasks() == [(VERIFIER, OFFER, None)]
    journal.finish_task(VERIFIER, SUBMISSION)
    assert journal.open_tasks() == [(VERIFIER, OFFER, SUBMISSION)]
    journal.close_task(VERIFIER, OFFER)
    assert journal.open_tasks() == []
    journal.close()


def test_a_seal_can_be_opened_after_a_restart_by_its_verifier_only(tmp_path: Path) -> None:
    opened = SealOpened(Digest(b"a" * 32), "", b"s" * 32)
    journal = Journal(tmp_path / "node.db")
    journal.accept_audit(VERIFIER, AUDIT)
    request = OpenSeal(AUDIT.batch, TASK.index, AUDIT.segment)
    assert journal.opening(VERIFIER, request) is None
    journal.seal(VERIFIER, AUDIT, opened)
    journal.close()
    journal = Journal(tmp_path / "node.db")
    assert journal.opening(VERIFIER, request) == opened
    assert journal.answers() == {opened.after}
    assert journal.opening(Address("0x" + "1" * 40), request) is None
    journal.close()


def test_an_unusable_journal_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="data_dir"):
        Journal(tmp_path / "file" / "node.db")
