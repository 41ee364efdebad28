"""Whole jobs through the engine: crashes, failing effects, reorganisations, cheats and churn in every order that a seed
draws. Whatever happens, every task is accepted and paid once, and the results are those of honest work."""

from collections.abc import Sized
from dataclasses import fields
from typing import Any

import pytest
from engine_network import Network, digest, honest_results

from proofyard.protocol.audit import UNDECIDED_AFTER_S
from proofyard.protocol.cid import make_cid
from proofyard.protocol.types import Wei
from proofyard.verifier.engine.batches import DEEP_BLOCKS
from proofyard.verifier.engine.events import Backed, Tick
from proofyard.verifier.engine.jobs import FORGET_S
from proofyard.verifier.engine.rows import JobState


def check(network: Network, until: float = 3000.0) -> None:
    network.run(until)
    for job in network.jobs:
        honest = honest_results(job, make_cid(digest("manifest", network.opened[job])), network.specs)
        assert {key: cid for key, cid in network.accepted.items() if key[0] == job} == honest
        assert all(network.paid[key] == 1 for key in honest)
        assert network.stored["job", (job,)].state == JobState.DONE  # type: ignore[attr-defined]
    network.run_to(network.final)


@pytest.mark.parametrize("seed", range(10))
def test_a_job_ends_with_everything_paid_once(seed: int) -> None:
    check(Network(seed), 300)


@pytest.mark.parametrize("seed", range(10))
def test_what_rests_on_a_cheats_result_is_done_again(seed: int) -> None:
    check(Network(seed, cheats=1, nodes=7, look_ahead=2), 600)


@pytest.mark.parametrize("seed", range(30))
def test_a_process_that_dies_anywhere_loses_nothing(seed: int) -> None:
    network = Network(seed, crash=0.05, fail=0.1, jobs=2)
    check(network)


@pytest.mark.parametrize("seed", range(30))
def test_a_reorganisation_is_followed(seed: int) -> None:
    check(Network(seed, reorg=0.15))


def test_numbers_that_a_reorganisation_swaps_hold_nothing_of_each_other() -> None:
    swaps = 0
    for seed in range(40):
        network = Network(seed, reorg=0.3, jobs=3, crash=0.01 * (seed % 2), fail=0.1 * (seed % 3 == 0), rounds=2)
        check(network)
        swaps += network.swaps
    assert swaps >= 40, "no number was another job's"


@pytest.mark.parametrize("seed", range(30))
def test_decoys_come_first_and_nothing_tells_which_they_are(seed: int) -> None:
    network = Network(seed, decoys=8000, nodes=7, look_ahead=2, cheats=seed % 2, jobs=2)
    check(network)
    assert network.decoys


@pytest.mark.parametrize("seed", range(30))
def test_decoys_survive_crashes_and_reorganisations(seed: int) -> None:
    check(Network(seed, decoys=3000, cheats=1, nodes=8, crash=0.03, fail=0.1, reorg=0.1, churn=0.02, look_ahead=1))


def test_a_batch_that_was_judged_by_a_wrong_time_is_judged_again() -> None:
    """And not only once it may be undecided: its auditors are there."""
    refused = 0
    for seed in range(40):
        network = Network(seed, crash=0.02, clock=0.8, decoys=3000, cheats=seed % 2, nodes=8, jobs=2)
        check(network, UNDECIDED_AFTER_S)
        refused += network.refused
    assert refused, "no time was wrong when a segment was looked at"


@pytest.mark.parametrize("seed", range(50))
def test_everything_at_once(seed: int) -> None:
    check(Network(seed, cheats=1, nodes=8, crash=0.02, fail=0.1, reorg=0.05, churn=0.02, jobs=2, look_ahead=1))


BY_NODE = frozenset(
    (
        *("scheduling.load", "scheduling.held", "scheduling.exposure", "scheduling.hungry"),
        *("audits.listed", "audits.working", "audits.queued"),
    )
)
"""What nodes and owners have to do: nothing in the end."""
OF_NODES = frozenset(
    f"scheduling.{name}"
    for name in (
        "keys",
        "heaps",
        "here",
        "of_owner",
        "limits",
        "losses",
        "guilty",
        "objections",
        "new_nodes",
        "looking",
    )
)
"""What is remembered of nodes and not of jobs, and a cache."""
OF_FAULTS = frozenset(("rows.faults", "rows.guilty"))
UNTIL_DUE = frozenset(("jobs.deadlines", "jobs.young", "world._timers"))
"""Until the deadline of a job that is over, and until the next one is taken."""


def remembered(network: Network) -> dict[str, Any]:
    """What the engine holds, by name."""
    world = network.engine.world
    parts = {
        "rows": vars(world.rows),
        "world": {name: getattr(world, name) for name in ("_wanted", "_timers", "_logged")},
    }
    for kind, memory in world._memory.items():
        parts[kind.__module__.rpartition(".")[2]] = {each.name: getattr(memory, each.name) for each in fields(memory)}  # type: ignore[arg-type]
    found = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    return {name: value for name, value in found.items() if isinstance(value, Sized) and len(value)}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_remembered_of_jobs_that_are_over(seed: int) -> None:
    """Whatever happened to them: the store has their rows, the memory grows by none of them."""
    faults = {"crash": 0.02, "fail": 0.1, "reorg": 0.1, "churn": 0.02, "decoys": 3000} if seed % 2 else {}
    network = Network(seed, cheats=seed % 3 == 0, nodes=8, jobs=2, look_ahead=1, **faults)
    network.run_to(lambda: network.done() and network.final())
    network.reorg = network.churn = network.crash = network.fail = 0.0
    end = network.mono + 120
    network.run_to(lambda: network.mono > end, end + 10)
    for _ in range(DEEP_BLOCKS + 1):
        network.chain.mine()
        network._read_chain()
    for _ in range(3):
        network.mono += FORGET_S + 1
        while (wake := network.engine.next_wake) is not None and wake <= network.mono:
            network.tell(Tick())
    network.tell(Backed(Wei(10**24), 0, network.chain.head.number))
    found = remembered(network)
    assert not found.keys() - BY_NODE - OF_NODES - OF_FAULTS - UNTIL_DUE, found
    assert not [name for name in BY_NODE & found.keys() if any(found[name].values())], found
    assert all(key[:2] == ("jobs", "deadline") for _, _, key in network.engine.world._timers)
