import importlib.util
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from proofyard.chain.records import Params
from proofyard.protocol.deterrence import COLLUSION_BPS, GIVEN_BACK_BPS, STAKES, expected_gain, table
from proofyard.protocol.dial import WAD, affordable_reward, can_back, stake_at_risk
from proofyard.protocol.types import Wei

ROOT = Path(__file__).parents[2]
TOKEN = 10**18
segments = st.integers(1, 512)
asked = st.integers(1, 255)
reputations = st.one_of(st.integers(0, 2000), st.integers(0, 2**32 - 1))
stakes = st.one_of(st.integers(0, 2000), st.integers(0, 10**28)).map(Wei)


def test_the_table_is_that_of_a_registry_with_default_parameters() -> None:
    params = Params()
    assert params.collusion_bps == COLLUSION_BPS
    assert params.given_back_bps == GIVEN_BACK_BPS
    assert min(STAKES) == params.node_stake


def test_one_lie_a_task_loses_at_every_stake_and_reputation() -> None:
    rows = table()
    assert len(rows) == 88
    assert max(row.gain for row in rows) < 0
    assert any(row.odds.segments > 1 for row in rows)
    assert any(row.tasks < row.asked for row in rows)
    assert any(row.odds.wad < WAD for row in rows)


def test_the_documentation_has_the_table() -> None:
    spec = importlib.util.spec_from_file_location("dial_docs", ROOT / "scripts" / "dial_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "verification.md").read_text()
    assert module.render(page) == page


@settings(deadline=None)
@given(segments, asked)
def test_the_table_loses_however_many_segments_there_are_and_are_drawn(n: int, m: int) -> None:
    assert max(row.gain for row in table(n, m)) < 0


@given(stakes, reputations, st.integers(1, 2000), st.integers(1, 10**25).map(Wei), segments, asked, st.data())
def test_a_lie_loses_where_the_stake_backs_the_work_and_pays_where_nothing_could_make_it_lose(
    stake: Wei, valid: int, tasks: int, task_reward: Wei, n: int, m: int, data: st.DataObject
) -> None:
    reward = Wei(tasks * task_reward)
    if can_back(stake_at_risk(stake, GIVEN_BACK_BPS), reward, COLLUSION_BPS):
        assert _gain(stake, valid, tasks, task_reward, n, m, data.draw(st.integers(1, tasks))) < 0
    elif reward >= 9 * stake:
        assert _gain(stake, valid, tasks, task_reward, n, m, tasks) >= 0


@given(stakes.filter(bool), reputations, st.integers(1, 2000), segments, asked, st.integers(0, 8))
def test_a_lie_loses_with_all_the_work_that_a_stake_can_back(
    stake: Wei, valid: int, tasks: int, n: int, m: int, below: int
) -> None:
    """And even right below q = 1, where every task is audited on nearly all of its segments."""
    at_risk = stake_at_risk(stake, GIVEN_BACK_BPS)
    below_one = ((10_000 - COLLUSION_BPS) * at_risk - 1) // COLLUSION_BPS
    for most in (affordable_reward(at_risk, COLLUSION_BPS), Wei(below_one)):
        task_reward = Wei(most // tasks - below)
        if task_reward > 0:
            assert _gain(stake, valid, tasks, task_reward, n, m, tasks) < 0
            assert _gain(stake, valid, tasks, task_reward, n, m, 1) < 0


def test_an_owner_that_counted_its_tiny_tasks_would_lie_in_its_large_one() -> None:
    """Why T is how many tasks *like it* are in flight: with their plain number a lie in the large one would pay."""
    alike = _gain(Wei(100 * TOKEN), 10**6, 1, Wei(50 * TOKEN), 64, 1, 1)
    assert alike < 0
    diluted = expected_gain(
        stake=Wei(100 * TOKEN),
        consecutive_valid=10**6,
        tasks=1000,
        task_reward=Wei(50 * TOKEN // 1000),
        segments=64,
        segments_per_audit=1,
        collusion_bps=COLLUSION_BPS,
        faked=1,
    )
    lost = 50 * TOKEN // 1000 - diluted
    assert lost < 50 * TOKEN


def test_doing_the_work_gains_nothing_by_definition() -> None:
    assert _gain(Wei(100 * TOKEN), 50, 8, Wei(TOKEN), 64, 1, 0) == 0


def _gain(stake: Wei, valid: int, tasks: int, task_reward: Wei, n: int, m: int, fakes: int) -> Decimal:
    return expected_gain(
        stake=stake,
        consecutive_valid=valid,
        tasks=tasks,
        task_reward=task_reward,
        segments=n,
        segments_per_audit=m,
        collusion_bps=COLLUSION_BPS,
        faked=fakes,
    )
