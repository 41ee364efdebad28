"""Nobody learns from a job's log what others said of a segment that is still to be answered."""

from api_scene import address, digest, job_row, task_row

from proofyard.protocol.seal import Opening, seal_of
from proofyard.protocol.types import Address, BatchId, Digest, JobId, SegmentIndex, TaskIndex
from proofyard.verifier.engine import audits
from proofyard.verifier.engine.events import Now, Place, SealAnswered
from proofyard.verifier.engine.machine import Engine
from proofyard.verifier.engine.rows import Batch, BatchState, Log, Seat, SeatState, Segment, TaskState
from proofyard.verifier.engine.world import Node, Rules, Step

NOW = Now(1000.0, 0.0, 10)
PLACE: Place = (JobId(1), TaskIndex(0), SegmentIndex(0))
SAME, OTHER = digest(3), digest(4)
AUDITORS = tuple(address(number) for number in (1, 2, 3))


def opening(after: Digest) -> Opening:
    return Opening(after, Digest(bytes(32)), "", bytes(32))


def sealed(auditor: Address, after: Digest) -> Seat:
    seat = Seat(batch=1, job=PLACE[0], task=PLACE[1], segment=0, auditor=auditor, state=SeatState.SEALED)
    seat.seal = seal_of(opening(after), auditor)
    return seat


def told(step: Step) -> list[str]:
    return [row.kind for row in step.rows if isinstance(row, Log) and row.kind.startswith("audit-m")]


def test_votes_are_told_with_the_verdict() -> None:
    segment = Segment(
        batch=1,
        job=PLACE[0],
        task=PLACE[1],
        index=0,
        auditors=AUDITORS,
        seats=2,
        claimed=SAME,
        worker=address(9),
        workload="lora",
        looked=True,
    )
    batch = Batch(id=1, root=digest(1), members=b"", lines=((PLACE[0], 100),), chain_id=BatchId(5), drawn_at=1000)
    batch.state = BatchState.AUDITING
    seats = [sealed(AUDITORS[0], SAME), sealed(AUDITORS[1], OTHER)]
    engine = Engine(Rules(own=1), [job_row(1), task_row(1, 0, TaskState.COMMITTED), batch, segment, *seats])
    world = engine.world
    for number, auditor in enumerate(AUDITORS, 1):
        world.nodes[auditor] = Node(auditor, address(10 + number), number, 10**20, 0, frozenset(("lora",)), 1, 4, 2**40)
    audits.begin(world, batch, NOW)
    audits.seat(world, NOW)
    world.step()
    for auditor, after in ((AUDITORS[0], SAME), (AUDITORS[1], OTHER)):
        audits.opened(world, SealAnswered(auditor, BatchId(5), PLACE, Digest(b""), opening(after)), NOW)
    audits.seat(world, NOW)
    assert told(world.step()) == [], "a third auditor is asked now"
    third = world.rows.seats[1, PLACE][AUDITORS[2]]
    third.state, third.seal = SeatState.SEALED, seal_of(opening(SAME), AUDITORS[2])
    audits.wake(world, ("look", (1, PLACE)), NOW)
    audits.seat(world, NOW)
    audits.opened(world, SealAnswered(AUDITORS[2], BatchId(5), PLACE, Digest(b""), opening(SAME)), NOW)
    assert told(world.step()) == []
    audits.seat(world, NOW)
    assert segment.verdict != "pending"
    assert sorted(told(world.step())) == ["audit-match", "audit-match", "audit-mismatch"]
