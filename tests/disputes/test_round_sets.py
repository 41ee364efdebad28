"""Which rounds are closed, read from a chain and its lists: what everybody derives the same graph from."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from scene import MANIFEST, MANIFEST_CID

from proofyard.artifacts import ArtifactUnavailable
from proofyard.chain import Wallet
from proofyard.chain.wallet import sign_commitment
from proofyard.disputes.committed import closed_of, graph_of
from proofyard.disputes.errors import ListWithheld
from proofyard.disputes.rounds import ChainMoved, Counted
from proofyard.protocol.bls import BlsSignature
from proofyard.protocol.certificate import BLS, Certificate, Delta, Phase, round_after
from proofyard.protocol.cid import cid_digest, raw_cid
from proofyard.protocol.closing import dropped_tasks, roster_among
from proofyard.protocol.commitment import Commitment, Domain
from proofyard.protocol.mark import mark_of
from proofyard.protocol.members import Member, encode_members, members_root
from proofyard.protocol.types import Address, BatchId, Cid, Digest, JobId, Signature, TaskIndex
from proofyard.workloads.workload import all_tasks, finals_of, load_workload, possible_finals, task_graph

RULES = {"quorum": 2, "timeout_s": 100, "late_rounds": 1}
JOB = JobId(7)
MANIFEST = msgspec.structs.replace(
    MANIFEST, params=MANIFEST.params | {"workers": 3, "rounds": 3, "outer": "none", "closing": RULES}
)
NODE = Wallet.from_key(bytes([7]) * 32)
DOMAIN = Domain(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))


def member(task: int, *, job: int = JOB, manifest: Cid = MANIFEST_CID, signed: bool = True) -> Member:
    commitment = Commitment(
        job=JobId(job),
        task=TaskIndex(task),
        node=NODE.address,
        manifest=cid_digest(manifest),
        inputs=Digest(bytes(32)),
        trace_root=Digest(bytes(32)),
        segments=2,
        result=raw_cid(b"result"),
        work_units=1,
        mark=mark_of(bytes(32), decoy=False),
    )
    signature = sign_commitment(DOMAIN, commitment, NODE) if signed else Signature(bytes(65))
    return Member(commitment, signature, ())


class Chain:
    """Batches of a job by the times of their blocks; block n is of second n."""

    domain = DOMAIN

    def __init__(self, *batches: tuple[int, list[Member]], now: int = 10_000) -> None:
        self.now, self.forks, self.moves = now, 0, 0
        self.lists = {raw_cid(encode_members(tuple(said))): encode_members(tuple(said)) for _, said in batches}
        self.reads: list[Cid] = []
        self.events = [self._event(number, at, said) for number, (at, said) in enumerate(batches, 1)]

    def _event(self, number: int, at: int, said: list[Member]) -> Any:
        position = SimpleNamespace(block=at, block_hash=Digest(at.to_bytes(32, "big")), index=0)
        root, digest = members_root(tuple(said)), cid_digest(raw_cid(encode_members(tuple(said))))
        return SimpleNamespace(
            batch=BatchId(number), position=position, root=root, size=len(said), members=digest, lines=()
        )

    def head(self) -> tuple[int, int]:
        return self.now, self.now

    def block_hash(self, block: int) -> Digest:
        self.forks += self.moves > 0
        self.moves -= self.moves > 0
        return Digest((block + self.forks).to_bytes(32, "big"))

    def block_time(self, block: int) -> int:
        return block

    def job(self, job: JobId) -> Any:
        return SimpleNamespace(open_block=1000, manifest=cid_digest(MANIFEST_CID))

    def committed(self, job: JobId) -> list[Any]:
        return self.events

    def settled(self, job: JobId) -> list[Any]:
        return []

    async def read(self, cid: Cid, max_bytes: int) -> bytes:
        self.reads.append(cid)
        if cid not in self.lists:
            raise ArtifactUnavailable(cid, 0, [])
        return self.lists[cid]


async def sets(chain: Any, counted: Counted | None = None) -> list[tuple[int, list[tuple[int, int]], tuple[int, ...]]]:
    closed = await closed_of(chain, chain.read, JOB, MANIFEST, counted)
    return [(each.closed_at, [(entry.task, entry.late) for entry in each.taken], each.dropped) for each in closed]


async def deps(chain: Any) -> list[tuple[int, ...]]:
    return [spec.deps for spec in await graph_of(chain, chain.read, JOB, MANIFEST)]


def everything() -> list[tuple[int, list[Member]]]:
    """Task 1 comes late for the second round, task 3 for every one."""
    return [
        (1010, [member(0), member(2)]),
        (1150, [member(1)]),
        (1160, [member(4), member(5)]),
        (1250, [member(6), member(7), member(8)]),
    ]


async def test_a_job_without_rules_has_its_graph_and_no_chain_is_asked() -> None:
    plain = msgspec.structs.replace(MANIFEST, params={k: v for k, v in MANIFEST.params.items() if k != "closing"})
    workload = load_workload("lora")
    chain: Any = None
    assert await closed_of(chain, Chain().read, JOB, plain) == ()
    assert await graph_of(chain, Chain().read, JOB, plain) == tuple(workload.graph(plain)) == all_tasks(workload, plain)
    assert finals_of(workload, plain) == (6, 7, 8) and possible_finals(workload, plain) == {6, 7, 8}


async def test_a_graph_has_the_open_rounds_each_on_what_the_one_before_took() -> None:
    assert await deps(Chain()) == [(), (), ()]
    assert await deps(Chain((1010, [member(0), member(2)]))) == [(), (), ()] + 3 * [(0, 2)]
    whole = Chain(*everything())
    assert await sets(whole) == [(1100, [(0, 0), (2, 0)], ()), (1200, [(1, 1), (4, 0), (5, 0)], ()), (1250, SIX, (3,))]
    assert await deps(whole) == [(), (), ()] + 3 * [(0, 2)] + 3 * [(1, 4, 5)]
    workload, closed = load_workload("lora"), await closed_of(whole, whole.read, JOB, MANIFEST)  # type: ignore[arg-type]
    assert finals_of(workload, MANIFEST, closed) == (6, 7, 8) and dropped_tasks(closed) == {3}
    assert set(finals_of(workload, MANIFEST, closed)) <= possible_finals(workload, MANIFEST) == set(range(3, 9))
    assert finals_of(workload, MANIFEST, closed[:2]) == ()
    units = [(spec.segments, spec.work_units) for spec in task_graph(workload, MANIFEST, closed)]
    assert units == [(spec.segments, spec.work_units) for spec in all_tasks(workload, MANIFEST)]


SIX = [(6, 0), (7, 0), (8, 0)]


VOTER = NODE.as_voter(1)
ROSTER = roster_among((VOTER,))
VOTED = msgspec.structs.replace(
    MANIFEST, params=MANIFEST.params | {"closing": RULES | {"voters": msgspec.to_builtins((VOTER,))}}
)


def certified(*sets: list[int]) -> Certificate:
    """What the only voter has signed of the last of these sets."""
    *before, own = [tuple(Delta(TaskIndex(task), raw_cid(b"result")) for task in tasks) for tasks in sets]
    made = Certificate(Phase.COMMIT, 1, own, ROSTER.signers([NODE.address]), BlsSignature(bytes(96)))
    each = round_after(DOMAIN, JobId(JOB), cid_digest(MANIFEST_CID), ROSTER, before)
    statement = each.statement(Phase.COMMIT, 1, made.subject)
    return msgspec.structs.replace(made, signature=BLS.sign(NODE.voter_secret(), statement))


async def test_where_nodes_decide_certificates_in_lists_say_what_a_round_took_and_times_say_nothing() -> None:
    first, second = certified([0, 2]), certified([0, 2], [1, 3, 4, 5])
    said = [
        (1010, [member(0), msgspec.structs.replace(member(2), certificate=first), member(1)]),
        (1020, [msgspec.structs.replace(member(task), certificate=second) for task in (3, 4)]),
    ]
    for lists, count in ((said[:1], 1), (said, 2), (said[1:], 0)):
        chain: Any = Chain(*lists)
        closed = await closed_of(chain, chain.read, JOB, VOTED)
        assert [[each.task for each in one.taken] for one in closed] == [[0, 2], [1, 3, 4, 5]][:count]
    chain = Chain(*said)
    specs = await graph_of(chain, chain.read, JOB, VOTED)
    assert [spec.deps for spec in specs] == [(), (), ()] + 3 * [(0, 2)] + 3 * [(1, 3, 4, 5)]
    timed: Any = Chain(*everything())
    assert await closed_of(timed, timed.read, JOB, VOTED) == ()


async def test_a_roster_without_proofs_closes_no_round() -> None:
    strange = msgspec.structs.replace(VOTER, possession=BlsSignature(bytes(96)))
    rules = RULES | {"voters": msgspec.to_builtins((strange,))}
    manifest = msgspec.structs.replace(MANIFEST, params=MANIFEST.params | {"closing": rules})
    chain: Any = Chain((1010, [msgspec.structs.replace(member(0), certificate=certified([0, 2]))]))
    assert await closed_of(chain, chain.read, JOB, manifest) == ()


async def test_what_is_not_signed_or_is_of_another_job_counts_for_nothing() -> None:
    lies = [
        member(1, signed=False),
        member(1, job=8),
        member(1, manifest=raw_cid(b"another")),
        member(9),
        member(0xFFFFFFFF),
    ]
    for lie in lies:
        chain = Chain((1005, [lie]), *everything())
        assert await sets(chain) == await sets(Chain(*everything()))


async def test_what_nobody_may_know_yet_does_not_close_a_round() -> None:
    """In the second in which its time is over another block may come."""
    assert not await sets(Chain(*everything(), now=1100))
    assert len(await sets(Chain(*everything(), now=1101))) == 1


async def test_a_list_is_read_once_and_again_in_another_block() -> None:
    chain, counted = Chain(*everything()), Counted(16)
    first = await sets(chain, counted)
    assert len(chain.reads) == 4 and await sets(chain, counted) == first and len(chain.reads) == 4
    moved = Chain((1010, [member(0), member(2)]), (1090, [member(1)]), *everything()[2:])
    assert (await sets(moved, counted))[0] == (1090, [(0, 0), (1, 0), (2, 0)], ())
    assert len(moved.reads) == 1


async def test_a_list_that_nobody_has_is_said_and_nothing_is_made_up() -> None:
    chain = Chain(*everything())
    chain.lists.pop(raw_cid(encode_members((member(1),))))
    with pytest.raises(ListWithheld):
        await sets(chain)


async def test_a_chain_that_goes_back_while_it_is_read_is_read_again() -> None:
    chain = Chain(*everything())
    chain.moves = 2
    assert await sets(chain) == await sets(Chain(*everything()))
    chain.moves = 100
    with pytest.raises(ChainMoved, match="job 7"):
        await sets(chain)
