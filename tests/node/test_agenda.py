"""Audits in the gaps, and by deadline: the order of a node's work under a clock of the test's own."""

import math
from random import Random
from typing import Any

import pytest

from proofyard.node.agenda import MARGIN, Agenda
from proofyard.node.work import Work
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import AuditOffer, TaskOffer
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex

VERIFIER = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
SEED = Digest(bytes(32))
SEGMENTS = 4


class Node:
    """A machine with one executor and a simulated clock. Segments of job n take `seconds[n]`."""

    def __init__(self, **seconds: float) -> None:
        self.agenda, self.now, self.numbers = Agenda(), 0.0, 0
        self.seconds = {int(name.removeprefix("job")): value for name, value in seconds.items()}
        self.log: list[tuple[float, str]] = []
        self.done: dict[int, float] = {}
        self.arrivals: list[tuple[float, Work]] = []
        self.steps_lost = 0.0

    def task(self, job: int, index: int = 0, at: float = 0.0) -> Work:
        spec = TaskSpec(index=TaskIndex(index), kind="train", segments=SEGMENTS)
        return self._arrives(at, TaskOffer(JobId(job), raw_cid(b"%d" % job), spec, (), (), 15.0))

    def audit(self, job: int, wanted_s: float, at: float = 0.0, segment: int = 0) -> Work:
        spec = TaskSpec(index=TaskIndex(self.numbers), kind="train", segments=SEGMENTS)
        place = (JobId(job), raw_cid(b"%d" % job), spec, SegmentIndex(segment), raw_cid(b"s"))
        offer = AuditOffer(BatchId(1), SEED, *place, (), 15.0, wanted_s=wanted_s)
        work = self._arrives(at, offer)
        work.wanted_at = at + wanted_s
        return work

    def _arrives(self, at: float, offer: Any) -> Work:
        self.numbers += 1
        work = Work(VERIFIER, offer, ready=True, number=self.numbers)
        self.arrivals.append((at, work))
        self.arrivals.sort(key=lambda arrival: arrival[0])
        return work

    def run(self) -> None:
        """Until everything is done."""
        left = {}
        while True:
            self._take_in(self.now)
            work = self.agenda.next(self.now)
            if work is None:
                if not self.arrivals:
                    return
                self.now = self.arrivals[0][0]
                continue
            seconds = self.seconds[work.offer.job]  # type: ignore[union-attr]
            if isinstance(work.offer, AuditOffer):
                self.log.append((self.now, f"audit {work.number}"))
                self._pass(seconds)
                self.agenda.took(work.offer, seconds)
                self.done[work.number] = self.now
                continue
            self.log.append((self.now, f"task {work.number}"))
            remaining = left.setdefault(work.number, SEGMENTS)
            while remaining:
                if self._interrupted(work, seconds):
                    break
                remaining -= 1
                left[work.number] = remaining
                self.agenda.took(work.offer, seconds)
                if remaining and self.agenda.interrupts(work, self.now, at_border=True):
                    break
            if remaining:
                self.agenda.add(work)
            else:
                self.done[work.number] = self.now

    def _interrupted(self, work: Work, seconds: float) -> bool:
        """A segment is computed, or interrupted in its midst at the moment when an audit is due."""
        end = self.now + seconds
        while self.now < end:
            due = self.agenda.due_at()
            arrival = self.arrivals[0][0] if self.arrivals else math.inf
            self.now = min(end, max(self.now, due), max(self.now, arrival))
            self._take_in(self.now)
            if self.now < end and self.agenda.interrupts(work, self.now, at_border=False):
                self.steps_lost += seconds - (end - self.now)
                return True
        return False

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self._take_in(self.now)

    def _take_in(self, now: float) -> None:
        while self.arrivals and self.arrivals[0][0] <= now:
            self.agenda.add(self.arrivals.pop(0)[1])


def test_an_audit_waits_for_a_gap_and_a_gap_does_not_wait_for_its_deadline() -> None:
    node = Node(job1=10.0, job2=1.0)
    first = node.task(1)
    audit = node.audit(2, wanted_s=100.0, at=1.0)
    second = node.task(1, 1, at=60.0)
    node.run()
    assert [name for _, name in node.log] == [f"task {first.number}", f"audit {audit.number}", f"task {second.number}"]
    assert node.done[audit.number] == 41.0, "as soon as the first task has ended, long before it is due"
    assert node.steps_lost == 0


def test_training_stops_for_an_audit_that_is_due_where_a_segment_ends() -> None:
    node = Node(job1=10.0, job2=1.0)
    node.agenda.took(node.audit(2, wanted_s=0.0).offer, 1.0)  # type: ignore[arg-type]
    node.arrivals.clear()
    task, audit = node.task(1), node.audit(2, wanted_s=25.0, at=1.0)
    node.run()
    assert node.done[audit.number] == 21.0 <= 26.0, "at the last border before it would be late"
    assert node.steps_lost == 0
    assert node.done[task.number] == 41.0


def test_a_segment_that_is_longer_than_the_time_left_is_given_up_for_a_due_audit() -> None:
    node = Node(job1=1000.0, job2=1.0)
    node.task(1)
    audit = node.audit(2, wanted_s=20.0, at=5.0)
    node.run()
    assert node.done[audit.number] <= 25.0


def test_one_interruption_serves_all_audits_that_are_ready() -> None:
    node = Node(job1=10.0, job2=1.0)
    task = node.task(1)
    audits = [node.audit(2, wanted_s=20.0 + 40 * number, at=1.0) for number in range(3)]
    node.run()
    names = [name for _, name in node.log]
    assert names.count(f"task {task.number}") == 2
    assert all(node.done[audit.number] <= audit.wanted_at for audit in audits)


def test_the_work_of_other_jobs_fills_the_gaps() -> None:
    node = Node(job1=1.0, job2=1.0, job3=1.0)
    works = [node.task(1), node.audit(3, wanted_s=500.0), node.task(2)]
    node.run()
    assert [name.split()[0] for _, name in node.log] == ["task", "task", "audit"]
    assert len(node.done) == len(works)


@pytest.mark.parametrize("seed", range(40))
def test_no_answer_is_late_that_a_machine_has_time_for(seed: int) -> None:
    """Audits of jobs whose segments are known arrive at random, among tasks without end."""
    random = Random(seed)
    node = Node(job1=random.uniform(1, 30), job2=random.uniform(0.1, 3))
    node.agenda.took(node.audit(2, wanted_s=1.0).offer, node.seconds[2])  # type: ignore[arg-type]
    node.arrivals.clear()
    for index in range(30):
        node.task(1, index)
    audits, at = [], 0.0
    for _ in range(30):
        at += random.uniform(2.5 * MARGIN * node.seconds[2], 40)
        audits.append(node.audit(2, wanted_s=random.uniform(2.2 * MARGIN * node.seconds[2], 60), at=at))
    node.run()
    assert len(node.done) == 60
    late = [audit for audit in audits if node.done[audit.number] > audit.wanted_at + 1e-9]
    assert late == []
