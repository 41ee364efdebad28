"""Nodes agree on what a round takes, over real QUIC: with everybody there, without a leader, through a restart, against
liars."""

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rounds_network import (
    DOMAIN,
    JOB,
    MANIFEST,
    MANIFEST_CID,
    WALLETS,
    ballot,
    computed,
    leaders,
    made,
    roster,
    signed,
    task_of,
    town_in,
)

from proofyard.chain import Wallet
from proofyard.discovery.asking import Rate
from proofyard.node.journal import JournalError
from proofyard.node.rounds.ballot import NoBallot, delta_of, next_ballot
from proofyard.node.rounds.machine import Durable
from proofyard.node.rounds.messages import AskRound, Heard, Proposal, ShowDelta, ShownDelta
from proofyard.node.rounds.voter import RoundVoter
from proofyard.protocol.certificate import Phase, validate_certificate
from proofyard.protocol.cid import raw_cid
from proofyard.protocol.messages import Ack
from proofyard.protocol.types import Address, Digest, TaskIndex
from proofyard.transport import Endpoint, RequestFailed

PATIENCE_S = 120.0


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


async def test_four_nodes_decide_a_round_among_themselves(tmp_path: Path) -> None:
    of = ballot()
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = [await town.node(address) for address in WALLETS]
        voters = [node.begin(of) for node in nodes]
        for node, voter in zip(nodes, voters, strict=True):
            node.finish(voter)
        found = [await voter.decided() for voter in voters]
        assert len({each.subject for each in found}) == 1 and len(found[0].deltas) == 4
        for each in found:
            validate_certificate(of.round, roster(), each, Phase.COMMIT)
        for node in nodes:
            kept = node.journal.durable(of.round.digest)
            assert kept is not None and kept.decided in found
            assert all(node.store.block_size(delta.result) for delta in found[0].deltas), "everybody looked at all"


async def test_a_dead_leader_is_replaced_and_the_round_does_without_its_result(tmp_path: Path) -> None:
    of = ballot()
    dead = leaders(of)[0]
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = [await town.node(address) for address in WALLETS if address != dead]
        voters = [node.begin(of, timeout_s=0.5, closes_s=0.5) for node in nodes]
        for node, voter in zip(nodes, voters, strict=True):
            node.finish(voter)
        found = [await voter.decided() for voter in voters]
        assert len({each.subject for each in found}) == 1 and found[0].view > 1
        assert dead not in {of.worker(delta.task) for delta in found[0].deltas}
        late = await town.node(dead)
        back = late.begin(of)
        assert (await back.decided()).subject == found[0].subject, "who comes back is told, before it says anything"


async def test_the_log_says_what_a_round_waits_for_and_who_is_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("proofyard.node.rounds.voter.FIRST_TOLD_S", 0.05)
    of = ballot()
    async with town_in(tmp_path) as town:
        first, second, *others = WALLETS
        node = await town.node(first)
        await town.node(second)
        voter = node.begin(of, timeout_s=1.0, closes_s=0.0)
        node.finish(voter)
        await until(lambda: "voters with 2 of 4 votes are not reached" in caplog.text)
        assert f"job {JOB}: round 0 is not decided, its time is up: 1 of its 4 results are here" in caplog.text
        told = caplog.text.splitlines()[-1]
        assert all(f"{address}: no peer answers" in told and "it is away" in told for address in others)
        for address in others:
            await town.node(address)
        await until(lambda: not voter._unreached())


async def test_a_voter_that_dies_goes_on_from_its_disk(tmp_path: Path) -> None:
    """It has voted in view 2 or later, and is needed for any quorum."""
    of = ballot()
    others = leaders(of)[1:]
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        alone = await town.node(others[0])
        voter = alone.begin(of, timeout_s=0.5, closes_s=0.0)
        alone.finish(voter)
        second = await town.node(others[1])
        waiting = second.begin(of, timeout_s=0.5, closes_s=0.0)
        second.finish(waiting)
        done = task_of(of, others[0])
        await until(lambda: waiting._results.has(done))

        def has_left_view_1() -> bool:
            kept = alone.journal.durable(of.round.digest)
            return kept is not None and kept.view > 1

        await until(has_left_view_1)
        kept = alone.journal.durable(of.round.digest)
        await alone.die()
        again = await town.node(others[0])
        assert kept is not None and (restored := again.journal.durable(of.round.digest)) is not None
        assert restored.view >= kept.view
        back = again.begin(of, timeout_s=0.5, closes_s=0.0)
        third = await town.node(others[2])
        last = third.begin(of, timeout_s=0.5)
        third.finish(last)
        await until(lambda: last._results.has(done))
        third.time_is_up(last)
        assert (await back.decided()).subject == (await last.decided()).subject
        assert done in {delta.task for delta in (await last.decided()).deltas}, "nobody did its task again"


async def test_what_is_not_on_the_disk_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first leader's disk is full: nobody hears of a proposal, until there is space."""
    of = ballot()
    leader = leaders(of)[0]
    monkeypatch.setattr("proofyard.node.rounds.voter.KEEP_S", 0.2)
    said, hear = set(), RoundVoter.hear

    def heard(voter: RoundVoter, sender: Address, message: Any) -> None:
        said.add(sender)
        hear(voter, sender, message)

    monkeypatch.setattr(RoundVoter, "hear", heard)
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = {address: await town.node(address) for address in WALLETS}
        journal, keep, tried = nodes[leader].journal, nodes[leader].journal.keep_round, []

        def full(*given: Any) -> None:
            tried.append(given)
            raise JournalError("no space left")

        monkeypatch.setattr(journal, "keep_round", full)
        voters = {address: node.begin(of, timeout_s=4.0) for address, node in nodes.items()}
        for address, node in nodes.items():
            node.finish(voters[address])
        await until(lambda: len(tried) > 2)
        assert leader not in said and journal.durable(of.round.digest) == Durable()
        monkeypatch.setattr(journal, "keep_round", keep)
        assert len({(await voter.decided()).subject for voter in voters.values()}) == 1


@pytest.mark.parametrize("shows", [False, True], ids=["nothing at all", "a commitment to what nobody has"])
async def test_a_leader_that_proposes_what_nobody_has_is_replaced(tmp_path: Path, shows: bool) -> None:
    of = ballot()
    liar, *honest = leaders(of)
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = {address: await town.node(address) for address in honest}
        voters = {address: node.begin(of, timeout_s=0.5) for address, node in nodes.items()}
        endpoint = await town.endpoint(liar)
        mine = task_of(of, liar)
        nowhere, _ = made(of, mine, by=0.02)
        asked = []

        async def show(_connection: Any, message: ShowDelta, _body: Any) -> ShownDelta:
            asked.append(message.delta)
            if message.delta != delta_of(nowhere):
                raise RequestFailed("no-delta", "and that not even")
            return nowhere

        if shows:
            endpoint.on(ShowDelta, show)
        others = [delta_of(made(of, task)[0]) for task in of.terms.tasks if task != mine]
        deltas = tuple(sorted((delta_of(nowhere), *others), key=lambda delta: delta.task))
        for address in honest:
            connection = await town.reach(endpoint, address)
            await connection.request(Proposal(of.round.digest, 1, deltas), reply=Heard)
        await until(lambda: all(voter._machine._pending for voter in voters.values()) and (asked or not shows))
        for address, node in nodes.items():
            node.finish(voters[address])
            node.time_is_up(voters[address])
        found = [await voter.decided() for voter in voters.values()]
        assert len({each.subject for each in found}) == 1 and found[0].view > 1
        assert delta_of(nowhere) not in found[0].deltas
        assert bool(asked) == shows


@pytest.mark.parametrize("lie", ["its last state makes another", "it begins with another"])
async def test_a_result_is_looked_at_before_it_counts(tmp_path: Path, lie: str) -> None:
    of = ballot()
    liar, *honest = leaders(of)
    async with town_in(tmp_path) as town, asyncio.timeout(PATIENCE_S):
        nodes = {address: await town.node(address) for address in honest}
        voters = {address: node.begin(of, timeout_s=0.5) for address, node in nodes.items()}
        playing = await town.node(liar)
        mine = task_of(of, liar)
        begins_so = lie == "it begins with another"
        result, *states = computed(of.specs[mine], (), 0.01, seed=int(begins_so))
        other, *_ = computed(of.specs[mine], (), 0.03)
        false, artifacts = signed(of, mine, WALLETS[liar], result if begins_so else other, states)
        for data in artifacts:
            playing.store.put_bytes(data)
        for address in honest:
            connection = await town.reach(playing.endpoint, address)
            assert not (await connection.request(false, reply=Ack)).proceed
        await until(
            lambda: all(voter._gathering.false == {false.commitment.struct_hash()} for voter in voters.values())
        )
        for address, node in nodes.items():
            node.finish(voters[address])
        right = set(of.terms.tasks) - {mine}
        await until(lambda: all(voter._results.has(task) for task in right for voter in voters.values()))
        for address, node in nodes.items():
            node.time_is_up(voters[address])
        found = [await voter.decided() for voter in voters.values()]
        assert {delta.task for delta in found[0].deltas} == right


async def test_rounds_are_nothing_to_who_does_not_vote_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proofyard.node.rounds.service.OF_PEER", Rate(0.0, 8.0))
    of = ballot()
    first = next(iter(WALLETS))
    async with town_in(tmp_path) as town, Endpoint(Wallet.generate(), network=DOMAIN) as stranger:
        node = await town.node(first)
        node.journal.begin_round(of.round.digest, JOB, time.time() - 1000)
        voter = node.begin(of)
        assert voter._closes_s == 0, "its time went on while it was away"
        node.finish(voter)
        task = task_of(of, first)
        shown, _ = made(of, task)
        connection = await town.reach(stranger, first)
        for message in (AskRound(of.round.digest), ShowDelta(of.round.digest, delta_of(shown)), shown):
            with pytest.raises(RequestFailed, match="no-round"):
                await connection.request(message, reply=Ack)
        await until(lambda: node.journal.shown_deltas(of.round.digest))
        member = await town.endpoint(leaders(of)[1] if leaders(of)[0] == first else leaders(of)[0])
        known = await town.reach(member, first)
        assert await known.request(AskRound(of.round.digest), reply=Heard) == Heard()
        assert await known.request(ShowDelta(of.round.digest, delta_of(shown)), reply=ShownDelta) == shown
        with pytest.raises(RequestFailed, match="no-round"):
            await known.request(AskRound(Digest(bytes(32))), reply=Heard)
        for _ in range(20):
            try:
                await known.request(AskRound(of.round.digest), reply=Heard)
            except RequestFailed as error:
                assert error.code == "busy"
                break
        else:
            pytest.fail("whoever asks without end is always answered")
        await node.rounds.leave(JOB)
        assert not node.journal.shown_deltas(of.round.digest) and node.journal.durable(of.round.digest) is None


def test_what_a_round_takes_is_its_workers_own_and_rests_on_the_round_before() -> None:
    of = ballot()
    shown, _ = made(of, 0)
    assert not of.objection(shown)
    other = next(wallet for address, wallet in WALLETS.items() if address != of.worker(TaskIndex(0)))
    cases = {
        "not": made(of, 0, signer=other)[0],
        "has not signed": replace(shown, signature=bytes(65)),
        "the states": replace(shown, trace=shown.trace[:1]),
        "none that this round": replace(shown, commitment=_with(shown, task=TaskIndex(4))),
        "units of work": replace(shown, commitment=_with(shown, work_units=1)),
        "does not rest on": replace(shown, commitment=_with(shown, inputs=bytes(32))),
    }
    for reason, each in cases.items():
        assert reason in of.objection(each), reason
    later = ballot([tuple(delta_of(made(of, task)[0]) for task in range(1, 4))])
    assert set(later.specs) == {0, 4, 5, 6, 7}, "what was left out is late"
    assert later.specs[TaskIndex(4)].deps == (1, 2, 3) and later.inputs[TaskIndex(0)] == of.inputs[TaskIndex(0)]
    assert later.round.before != of.round.before
    taken = [tuple(delta_of(made(of, task)[0]) for task in range(4))]
    for sets in ([], taken):
        elsewhere = next_ballot(DOMAIN, JOB, raw_cid(b"another manifest"), MANIFEST, roster(), sets)
        assert elsewhere.round.digest != ballot(sets).round.digest, "each round names its manifest"
    with pytest.raises(NoBallot, match="no round 3"):
        ballot([()] * 3)
    with pytest.raises(NoBallot):
        plain = replace(MANIFEST, params=MANIFEST.params | {"closing": None})
        next_ballot(DOMAIN, JOB, MANIFEST_CID, plain, roster(), ())


def _with(shown: ShownDelta, **changes: Any) -> Any:
    return dataclasses.replace(shown.commitment, **changes)
