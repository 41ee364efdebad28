"""Worlds drawn by hypothesis: any mix of jobs, cheats, auditors, other batches and budgets."""

from hypothesis import strategies as st
from worlds import TOKEN, Job, Node, Work, World, states_of

from proofyard.protocol.cid import cid_bytes, raw_cid
from proofyard.protocol.types import Cid, JobId, TaskIndex, Wei

AMOUNTS = st.sampled_from([0, 1, 10**15, TOKEN, 100 * TOKEN]).map(Wei)
KINDS = st.sampled_from(["honest", "honest", "honest", "liar", "mob", "friend", "cannot", "absent"])


@st.composite
def jobs(draw: st.DrawFn, number: int) -> Job:
    segments = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    count = len(segments)
    return Job(
        JobId(number),
        segments,
        tuple(draw(st.integers(1, 50)) for _ in segments),
        k=draw(st.integers(2, 3)),
        m=draw(st.integers(1, 2)),
        reward=draw(AMOUNTS),
        audit_fee=draw(AMOUNTS),
        verifier_fee=draw(AMOUNTS),
        exact=draw(st.sampled_from([True, True, True, False])),
        deps=tuple(tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=2)))) if i else () for i in range(count)),
    )


@st.composite
def works(draw: st.DrawFn, job: Job, nodes: list[Node], attempt: int = 0) -> list[Work]:
    return [
        Work(
            int(job.id),
            task,
            draw(st.sampled_from(nodes)).name,
            fake=tuple(draw(st.sets(st.integers(0, segments - 1), max_size=1))),
            hollow=tuple(draw(st.sets(st.integers(0, segments - 1), max_size=1))) if draw(st.booleans()) else (),
            withheld=draw(st.integers(0, 9)) == 0,
            lawless=draw(st.integers(0, 9)) == 0,
            bad_result=draw(st.sampled_from([None, None, None, None, True, False])),
            decoy=draw(st.integers(0, 4)) == 0,
            unopened=draw(st.integers(0, 4)) == 0 and attempt > 0,
        )
        for task, segments in enumerate(job.segments)
    ]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    owners = draw(st.integers(2, 9))
    nodes = [
        Node(
            f"n{i}",
            f"owner-{i % owners}",
            valid=draw(st.sampled_from([0, 15, 2000])),
            stake=Wei(draw(st.sampled_from([0, 100, 10_000])) * TOKEN),
            active=draw(st.integers(0, 9)) > 0,
            old_key=draw(st.integers(0, 9)) == 0,
        )
        for i in range(owners * draw(st.integers(1, 2)))
    ]
    chosen = [draw(jobs(number)) for number in range(1, 1 + draw(st.integers(1, 3)))]
    others = {}
    for batch in draw(st.sets(st.sampled_from([8, 9, 11, 12]), max_size=2)):
        others[batch] = [w for job in chosen for w in draw(works(job, nodes))][: draw(st.integers(1, 4))]
    attempt = draw(st.integers(0, 1))
    units = {job.id: job for job in chosen}

    def result(key: tuple[JobId, TaskIndex]) -> Cid:
        """Of an earlier batch: what honest work gives, or something else."""
        states = states_of(Work(key[0], key[1], ""), units[key[0]].segments[key[1]])
        honest = raw_cid(b"result" + cid_bytes(raw_cid(states[-1])))
        return draw(st.sampled_from([honest, raw_cid(b"another result")]))

    keys = [(job.id, TaskIndex(task)) for job in chosen for task in range(len(job.segments))]
    return World(
        chosen,
        nodes,
        [work for job in chosen for work in draw(works(job, nodes, attempt))],
        auditors={node.name: draw(KINDS) for node in nodes},
        others=others,
        hidden={batch for batch in others if draw(st.integers(0, 3)) == 0},
        paid={key: result(key) for key in draw(st.sets(st.sampled_from(keys), max_size=1))},
        scarce=draw(st.one_of(st.none(), st.none(), AMOUNTS)),
        tag=draw(st.integers(0, 1000)),
        attempt=attempt,
    )
