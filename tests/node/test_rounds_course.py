"""A job's rounds by its voters alone, over real QUIC: nobody gives work out, a slow node is late, a dead one comes
back."""

import asyncio
from pathlib import Path

import pytest
import rounds_network
from msgspec import to_builtins
from msgspec.structs import replace
from rounds_network import (
    COUNT,
    DOMAIN,
    JOB,
    MANIFEST_CID,
    WALLETS,
    WORKLOAD,
    Node,
    ballot,
    leaders,
    roster,
    task_of,
    town_in,
)

from proofyard.chain import ChainError
from proofyard.node.rounds import course as course_module
from proofyard.protocol.certificate import CertificateInvalid, validate_certificates
from proofyard.protocol.cid import cid_digest
from proofyard.protocol.closing import final_tasks, taken_rounds
from proofyard.workloads.workload import all_tasks, rounds_of

PATIENCE_S = 200.0


@pytest.fixture
def closes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three results are enough after a second."""
    closing = {"quorum": 3, "timeout_s": 1}
    params = rounds_network.MANIFEST.params | {"closing": closing}
    monkeypatch.setattr(rounds_network, "MANIFEST", replace(rounds_network.MANIFEST, params=params))


async def test_a_job_ends_with_nobody_in_charge(tmp_path: Path) -> None:
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = [await town.node(address) for address in WALLETS]
        courses = [node.course() for node in nodes]
        ended = await asyncio.gather(*(course.run() for course in courses))
        sets = courses[0].sets
        assert all(course.sets == sets for course in courses)
        assert [[delta.task for delta in each] for each in sets] == [[*range(4)], [*range(4, 8)], [*range(8, 12)]]
        for certificates in ended:
            validate_certificates(DOMAIN, JOB, cid_digest(MANIFEST_CID), roster(), certificates)
        with pytest.raises(CertificateInvalid):
            validate_certificates(DOMAIN, JOB, cid_digest(MANIFEST_CID), roster(), ended[0][1:])
        rules = rounds_of(WORKLOAD, rounds_network.MANIFEST)
        assert rules is not None and final_tasks(rules, taken_rounds(rules, sets)) == (8, 9, 10, 11)
        for node in nodes:
            assert len(node.tasks) == len(set(node.tasks)) == 3, "each its own, once"
            assert all(node.store.block_size(delta.result) for delta in sets[-1])


async def test_no_round_begins_before_what_all_but_the_last_took_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course_module, "PAID_S", 0.05)
    params = rounds_network.MANIFEST.params
    closing = {"quorum": 4, "timeout_s": 600, "ahead": 1, "voters": to_builtins(roster().voters)}
    monkeypatch.setattr(
        rounds_network, "MANIFEST", replace(rounds_network.MANIFEST, params=params | {"closing": closing})
    )
    units = [task.work_units for task in all_tasks(WORKLOAD, rounds_network.MANIFEST)]
    asked = 0

    async def paid(self: Node) -> int:
        nonlocal asked
        asked += 1
        if asked % 3 == 0:
            raise ChainError("away")
        return self.units_paid

    monkeypatch.setattr(Node, "paid", paid)
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = [await town.node(address) for address in WALLETS]
        courses = [node.course() for node in nodes]
        running = asyncio.gather(*(course.run() for course in courses))
        for node in nodes:
            node.units_paid = sum(units[:4]) - 1
        while asked < 20:
            await asyncio.sleep(0.02)
        assert {len(node.tasks) for node in nodes} == {2}
        for node in nodes:
            node.units_paid += 1
        assert all(len(certificates) == 3 for certificates in await running)


async def test_a_slow_nodes_result_is_late_for_its_round_and_in_the_next(tmp_path: Path, closes_soon: None) -> None:
    slow = leaders(ballot())[-1]
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = {address: await town.node(address) for address in WALLETS}
        nodes[slow].may_work.clear()
        courses = {address: node.course(timeout_s=1.0) for address, node in nodes.items()}
        running = asyncio.gather(*(course.run() for course in courses.values()))
        while not courses[slow].certificates:
            await asyncio.sleep(0.02)
        nodes[slow].may_work.set()
        await running
        sets = courses[slow].sets
        own = task_of(ballot(), slow)
        assert all(course.sets == sets for course in courses.values())
        assert own not in [delta.task for delta in sets[0]] and len(sets[0]) == COUNT - 1
        assert nodes[slow].tasks.count(own) == 1, "it went on with what it was at"


async def test_a_node_that_was_away_comes_back_to_where_the_others_are(tmp_path: Path, closes_soon: None) -> None:
    address = leaders(ballot())[0]
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = [await town.node(each) for each in WALLETS if each != address]
        dying = await town.node(address)
        first = dying.course(timeout_s=1.0)
        courses = [node.course(timeout_s=1.0) for node in nodes]
        running = asyncio.gather(*(course.run() for course in courses))
        leaving = asyncio.create_task(first.run())
        while not first.certificates:
            await asyncio.sleep(0.02)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await dying.die()
        while len(courses[0].certificates) < 2:
            await asyncio.sleep(0.02)
        back = await town.node(address)
        course = back.course(timeout_s=1.0)
        await asyncio.gather(course.run(), running)
        assert all(other.sets == course.sets for other in courses)
        assert not {delta.task for delta in course.sets[0]} & set(back.tasks), (
            "what it has decided it does not do again"
        )
