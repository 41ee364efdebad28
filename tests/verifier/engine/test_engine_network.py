"""Whole jobs through the engine: crashes, failing effects, reorganisations, cheats and churn in every order that a seed
draws. Whatever happens, every task is accepted and paid once, and the results are those of honest work."""

import pytest
from engine_network import Network, digest, honest_results

from proofyard.protocol.audit import UNDECIDED_AFTER_S
from proofyard.protocol.cid import make_cid
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
