import math

from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.dial import audit_probability, p_floor, p_trust
from proofyard.protocol.types import Wei

amounts = st.integers(1, 10**28).map(Wei)


def test_a_new_node_is_always_audited_and_a_proven_one_rarely() -> None:
    assert [p_trust(n) for n in (0, 9, 10, 50)] == [1.0, 1.0, 0.1, 0.02]


def test_one_task_gives_the_condition_of_proof_of_sampling() -> None:
    assert math.isclose(p_floor(Wei(99), 1, Wei(1)), 0.01)
    assert math.isclose(p_floor(Wei(100), 1, Wei(1), 0.1), 1 / (0.9 * 101))


def test_work_in_flight_is_collateral() -> None:
    floors = [p_floor(Wei(10**20), tasks, Wei(tasks * 10**18)) for tasks in (1, 100, 1000)]
    assert [round(100 * floor, 1) for floor in floors] == [1.0, 0.7, 0.2]


def test_nothing_in_flight_needs_no_floor_and_too_much_needs_every_audit() -> None:
    assert p_floor(Wei(1), 0, Wei(0)) == 0.0
    assert p_floor(Wei(0), 5, Wei(10), 0.1) == 1.0


@given(amounts, st.integers(1, 10**6), amounts, st.floats(0, 0.5))
def test_the_floor_makes_cheating_everywhere_lose(stake: Wei, tasks: int, reward: Wei, collusion: float) -> None:
    floor = p_floor(stake, tasks, reward, collusion)
    assert 0 <= floor <= 1
    caught = -math.expm1(tasks * math.log1p(-floor)) if floor < 1 else 1.0
    needed = min(1.0, reward / ((1 - collusion) * (stake + reward)))
    assert caught >= needed - 1e-9


@given(st.integers(0, 10**6), amounts, st.integers(0, 1000), amounts)
def test_the_dial_never_falls_below_either_part(valid: int, stake: Wei, tasks: int, reward: Wei) -> None:
    probability = audit_probability(valid, stake, tasks, reward)
    assert probability == max(p_trust(valid), p_floor(stake, tasks, reward))
