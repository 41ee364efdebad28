import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path

import msgspec
import pytest

from proofyard.node.journal import Journal, JournalError
from proofyard.node.rounds.machine import Durable
from proofyard.node.rounds.messages import ShownDelta
from proofyard.protocol.certificate import Delta
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import AuditOffer, OpenSeal, Receipt, SealOpened, SubmitCommitment, TaskOffer
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, Signature, TaskIndex

VERIFIER = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
TASK = TaskSpec(index=TaskIndex(2), kind="train")
OFFER = TaskOffer(JobId(1), raw_cid(b"m"), TASK, (), (), 15.0)
SEED = Digest(bytes(32))
AUDIT = AuditOffer(BatchId(7), SEED, JobId(1), raw_cid(b"m"), TASK, SegmentIndex(3), raw_cid(b"b"), (), 15.0)
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
        Digest(bytes(32)),
    ),
    Signature(bytes(65)),
    (raw_cid(b"0"), raw_cid(b"1")),
    bytes(32),
)


def test_unfinished_tasks_survive_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "node.db")
    journal.accept_task(VERIFIER, OFFER)
    journal.close()
    journal = Journal(tmp_path / "node.db")
    assert journal.open_tasks() == [(VERIFIER, OFFER, None)]
    journal.finish_task(VERIFIER, OFFER, SUBMISSION)
    assert journal.open_tasks() == [(VERIFIER, OFFER, SUBMISSION)]
    journal.close_task(VERIFIER, OFFER)
    assert journal.open_tasks() == []
    journal.accept_task(VERIFIER, OFFER)
    assert journal.submission(VERIFIER, OFFER) == SUBMISSION, "what is finished stays so when it is offered again"
    journal.close()


def test_a_task_that_is_done_again_from_other_inputs_keeps_the_states_of_both(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "node.db")
    again = msgspec.structs.replace(OFFER, inputs=(raw_cid(b"another result"),))
    for offer in (OFFER, again):
        journal.accept_task(VERIFIER, offer)
        journal.finish_task(VERIFIER, offer, SUBMISSION)
    assert sorted(len(held.offer.inputs) for held in journal.held()) == [0, 1]
    journal.drop_task(VERIFIER, again)
    assert [held.offer for held in journal.held()] == [OFFER]
    journal.close()


def test_a_seal_is_given_once_whoever_asks_and_resubmitted_until_it_is_taken(tmp_path: Path) -> None:
    opened, other = SealOpened(Digest(b"a" * 32), Digest(b"k" * 32), "", b"s" * 32), Address("0x" + "1" * 40)
    journal = Journal(tmp_path / "node.db")
    journal.accept_audit(VERIFIER, AUDIT)
    assert journal.sealed(AUDIT) is None
    journal.seal(VERIFIER, AUDIT, opened)
    journal.accept_audit(VERIFIER, AUDIT)
    assert journal.sealed(AUDIT) == opened
    assert journal.open_audits() == [(VERIFIER, AUDIT, opened)]
    journal.submitted(VERIFIER, AUDIT)
    journal.accept_audit(other, AUDIT)
    assert journal.open_audits() == []
    journal.drop_audit(VERIFIER, AUDIT)
    assert journal.sealed(AUDIT) == opened, "a seal is not taken back"
    journal.close()


def test_a_seal_does_not_serve_another_seed_or_state(tmp_path: Path) -> None:
    """A block that goes takes its hash along, and perhaps the batch: the same place is then another question."""
    old, new = (SealOpened(SEED, SEED, "", bytes([number]) * 32) for number in (1, 2))
    journal = Journal(tmp_path / "node.db")
    journal.accept_audit(VERIFIER, AUDIT)
    journal.seal(VERIFIER, AUDIT, old)
    journal.submitted(VERIFIER, AUDIT)
    again = msgspec.structs.replace(AUDIT, seed=Digest(b"n" * 32))
    for offer in (again, msgspec.structs.replace(AUDIT, before=raw_cid(b"another state"))):
        journal.accept_audit(VERIFIER, offer)
        assert journal.sealed(offer) is None
        journal.drop_audit(VERIFIER, offer)
        assert journal.sealed(AUDIT) == old, "an offer that comes to nothing takes no seal away"
    journal.accept_audit(VERIFIER, again)
    journal.seal(VERIFIER, again, new)
    assert (journal.sealed(again), journal.sealed(AUDIT)) == (new, None)
    assert journal.open_audits() == [(VERIFIER, again, new)]
    assert journal.opening(VERIFIER, OpenSeal(AUDIT.batch, AUDIT.job, TASK.index, AUDIT.segment)) == new
    journal.close()


def test_a_seal_can_be_opened_after_a_restart_by_its_verifier_only(tmp_path: Path) -> None:
    opened = SealOpened(Digest(b"a" * 32), Digest(b"k" * 32), "", b"s" * 32)
    journal = Journal(tmp_path / "node.db")
    journal.accept_audit(VERIFIER, AUDIT)
    request = OpenSeal(AUDIT.batch, AUDIT.job, TASK.index, AUDIT.segment)
    assert journal.opening(VERIFIER, request) is None
    journal.seal(VERIFIER, AUDIT, opened)
    journal.close()
    journal = Journal(tmp_path / "node.db")
    assert journal.opening(VERIFIER, request) == opened
    assert journal.answers() == {opened.after}
    assert journal.opening(Address("0x" + "1" * 40), request) is None
    journal.close()


def test_a_seal_is_shown_to_others_once_its_own_verifier_has_seen_it_or_had_time_to(tmp_path: Path) -> None:
    opened, request = SealOpened(SEED, SEED, "", b"s" * 32), OpenSeal(AUDIT.batch, AUDIT.job, TASK.index, AUDIT.segment)
    journal = Journal(tmp_path / "node.db")
    journal.accept_audit(VERIFIER, AUDIT)
    journal.seal(VERIFIER, AUDIT, opened, now=100.0)
    assert journal.opened(request, sealed_before=100.0) is None
    assert journal.opened(request, sealed_before=101.0) == opened
    assert journal.opening(VERIFIER, request) == opened
    assert journal.opened(request, sealed_before=0.0) == opened
    journal.close()


def test_an_unusable_journal_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="data_dir"):
        Journal(tmp_path / "file" / "node.db")


def held_by(path: Path) -> list[bytes]:
    """What a reader finds in the file that was told of nothing else."""
    with contextlib.closing(sqlite3.connect(path)) as reader:
        return [row[0] for row in reader.execute("select submission from node_work where submission is not null")]


async def test_what_lasts_was_synced_and_many_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, synced = Journal(tmp_path / "node.db"), []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(len(held_by(tmp_path / "node.db")))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    offers = [msgspec.structs.replace(OFFER, job=JobId(number)) for number in range(20)]

    async def one(offer: TaskOffer) -> None:
        journal.accept_task(VERIFIER, offer)
        journal.finish_task(VERIFIER, offer, SUBMISSION)
        assert journal.submission(VERIFIER, offer) == SUBMISSION, "it is there at once"
        await journal.lasting()
        assert synced and synced[-1] > 0

    await asyncio.gather(*map(one, offers))
    assert synced[-1] == 20 and len(synced) < 5
    journal.close()


async def test_what_could_not_be_written_is_written_later_and_nobody_is_told_that_it_lasts(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    journal = Journal(path)
    journal.accept_task(VERIFIER, OFFER)
    journal.finish_task(VERIFIER, OFFER, SUBMISSION)
    await journal.lasting()
    pages = journal._db.execute("pragma page_count").fetchone()[0]
    journal._db.execute(f"pragma max_page_count={pages}")
    big = msgspec.structs.replace(SUBMISSION, trace=SUBMISSION.trace * 2000)
    journal_full = False
    for number in range(2, 50):
        offer = msgspec.structs.replace(OFFER, job=JobId(number))
        try:
            journal.accept_task(VERIFIER, offer)
            journal.finish_task(VERIFIER, offer, big)
        except JournalError:
            journal_full = True
            break
    assert journal_full
    journal._db.execute("pragma max_page_count=1073741823")
    journal.finish_task(VERIFIER, offer, big)
    await journal.lasting()
    assert len(held_by(path)) == len(journal.held()) == number
    journal.close()


def test_receipts_are_found_by_when_they_fall_due(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "node.db")
    for number in (1, 2, 3):
        receipt = Receipt(Digest(bytes([number]) * 32), JobId(number), 100 * number, Signature(bytes(65)))
        journal.keep_receipt(VERIFIER, TaskIndex(0), receipt)
    assert [receipt.job for receipt in journal.receipts(100, 200)] == [2]
    assert journal.jobs_since(150) == [2, 3]
    journal.forget_receipts(200)
    assert [receipt.deadline for receipt in journal.receipts(0)] == [200, 300]
    journal.close()


def test_what_was_voted_and_found_right_survives_a_restart_and_goes_with_the_job(tmp_path: Path) -> None:
    one, other = Digest(b"1" * 32), Digest(b"2" * 32)
    journal = Journal(tmp_path / "node.db")
    assert journal.durable(one) is None
    assert journal.begin_round(one, JobId(1), 5.0) == 5.0 and journal.begin_round(other, JobId(2), 6.0) == 6.0
    for view in (1, 2):
        journal.keep_round(one, Durable(view, Digest(b"v" * 32)))
    journal.keep_round(other, Durable(7))
    shown = ShownDelta(one, SUBMISSION.commitment, SUBMISSION.signature, SUBMISSION.trace)
    delta = Delta(SUBMISSION.commitment.task, SUBMISSION.commitment.result)
    journal.keep_delta(0, shown)
    journal.keep_delta(1, msgspec.structs.replace(shown, trace=()))
    journal.close()
    journal = Journal(tmp_path / "node.db")
    assert journal.begin_round(one, JobId(1), 9.0) == 5.0, "it goes on"
    assert journal.durable(one) == Durable(2, Digest(b"v" * 32))
    assert [each.trace for each in journal.shown_deltas(one)] == [SUBMISSION.trace, ()]
    assert journal.shown_delta(one, delta) == shown and journal.shown_delta(other, delta) is None
    journal.forget_deltas(one)
    assert not journal.shown_deltas(one) and journal.durable(one) is not None
    journal.keep_delta(0, shown)
    journal.forget_rounds(JobId(1))
    assert journal.durable(one) is None and not journal.shown_deltas(one) and journal.durable(other) == Durable(7)
    with pytest.raises(JournalError, match="not begun"):
        journal.keep_round(one, Durable(3))
    journal.close()
