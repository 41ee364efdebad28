"""What `make bench-economics` decides by itself: odds of audits and juries, what a case is worth, limits, what it
writes."""

import json
import sys
from collections.abc import Sequence
from math import comb
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import bench_economics
import bench_economics_auditors as auditors
import bench_economics_batches as batches
import bench_economics_court as court
import bench_economics_requesters as requesters
import bench_economics_verifiers as verifiers
import bench_economics_workers as workers
from bench_economics_odds import JuryOdds, Pool, audit, juries, majority, pool
from bench_economics_report import render
from bench_economics_setup import BPS, COSTS, COURT, PARAMS, Bench, Cell, K, wei
from bench_exact_report import MARKER
from proofyard.protocol.audit import Verdict
from proofyard.protocol.deterrence import expected_gain

QUICK = Bench(quick=True)
EXACT = [name for name in bench_economics.SECTIONS if name != "batches"]


@pytest.fixture(scope="module")
def cells() -> Sequence[Cell]:
    """The corners of every range, without played batches."""
    return list(bench_economics.run(QUICK, EXACT))


def test_what_is_lost_is_a_known_limit(cells: Sequence[Cell]) -> None:
    assert bench_economics.unexpected(cells) == set()


def test_every_role_has_cells_that_are_won(cells: Sequence[Cell]) -> None:
    won = {cell.role for cell in cells if not cell.lost}
    assert won == {"worker", "auditor", "juror", "challenger", "verifier", "requester"}


def test_a_lost_cell_says_what_it_takes(cells: Sequence[Cell]) -> None:
    assert [cell.name for cell in cells if cell.lost and not cell.takes] == []


def test_names_of_cells_are_unique(cells: Sequence[Cell]) -> None:
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)


def test_the_page_names_every_strategy_and_what_is_lost_in_bold(cells: Sequence[Cell]) -> None:
    page = render(cells)
    assert all(cell.strategy in page for cell in cells)
    assert all(f"**{cell.role} {cell.strategy}**" in page for cell in cells if cell.lost)
    assert all(name in page for name in COSTS)


def test_the_page_has_a_place_for_what_is_measured() -> None:
    assert MARKER in bench_economics.PAGE.read_text()


def test_a_quick_run_writes_to_out_alone(
    cells: Sequence[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "economics.md"
    page.write_text("before\n" + MARKER)
    monkeypatch.setattr(bench_economics, "ROOT", tmp_path)
    monkeypatch.setattr(bench_economics, "OUT", tmp_path / "out")
    monkeypatch.setattr(bench_economics, "PAGE", page)
    bench_economics.write(cells, quick=True)
    written = json.loads((tmp_path / "out" / "economics-quick.json").read_text())
    assert written["cells"] == len(cells)
    assert written["cells_lost"] == [cell.name for cell in cells if cell.lost]
    assert written["smallest_margin"] == min(cell.margin for cell in cells)
    assert page.read_text() == "before\n" + MARKER
    assert "lost" in capsys.readouterr().out


def test_a_new_loss_fails_the_run(cells: Sequence[Cell]) -> None:
    lost = Cell("worker", "does something new", {}, -1.0, takes="thought")
    assert bench_economics.unexpected([*cells, lost]) == {"worker does something new"}


@pytest.mark.parametrize("false_claim", [True, False])
@pytest.mark.parametrize("strategy", ["follow", "cautious", "honest"])
def test_the_ends_of_an_audit_add_up(false_claim: bool, strategy: str) -> None:
    outcomes = audit(Pool(20, 10), false_claim=false_claim, strategy=strategy)
    assert sum(odds for _, odds in outcomes) == pytest.approx(1.0)


def test_without_colluders_every_audit_finds_the_truth() -> None:
    for claim, verdict in ((True, Verdict.FAULT), (False, Verdict.VALID)):
        assert {how.verdict for how, _ in audit(Pool(20, 0), false_claim=claim, strategy="honest")} == {verdict}


def test_cautious_colluders_pass_a_fake_exactly_where_they_hold_all_first_seats() -> None:
    outcomes = audit(Pool(12, 8), false_claim=True, strategy="cautious")
    passed = sum(odds for how, odds in outcomes if how.verdict == Verdict.VALID)
    assert passed == pytest.approx(comb(8, K) / comb(20, K))


def test_a_list_that_is_too_short_decides_nothing() -> None:
    outcomes = audit(Pool(20, 10), false_claim=True, strategy="follow", listed=K)
    assert sum(odds for how, odds in outcomes if how.verdict == Verdict.UNDECIDED) > 0.5


def test_majority_of_a_jury_is_hypergeometric() -> None:
    assert majority(Pool(3, 2), 3) == pytest.approx(3 / 10)
    assert majority(Pool(1, 2), 5) == 1.0
    assert juries(pool(100, 0.0)) == JuryOdds(0.0, 0.0)


def test_more_colluders_win_more_cases() -> None:
    odds = [juries(pool(100, fraction)) for fraction in (0.1, 0.25, 0.4, 0.6)]
    assert [o.last for o in odds] == sorted(o.last for o in odds)
    assert odds[2].last < odds[2].first < 0.5 < odds[3].first < odds[3].last


def test_a_hopeless_case_costs_the_bond_and_a_certain_one_nothing() -> None:
    never, always = JuryOdds(0.0, 0.0), JuryOdds(1.0, 1.0)
    assert court.accuse(never, 1e6) == -court.BOND * (1 - COURT.requester_bps / BPS)
    assert court.accuse(always, 45.0) == 45.0
    assert court.defend(never, 100.0) == 100.0
    assert court.defend(always, 100.0) == -court.prize(court.BOND)


def test_alone_a_worker_loses_what_the_dial_says() -> None:
    """The dial's own reckoning has three in ten of the auditors collude and part of the stake given back."""
    of = workers.Situation(1_000.0, 100, 8, 10.0, 1_000, 0.0)
    gain = expected_gain(
        stake=wei(of.stake),
        consecutive_valid=of.reputation,
        tasks=of.tasks,
        task_reward=wei(of.reward),
        segments=64,
        segments_per_audit=1,
        collusion_bps=PARAMS.collusion_bps,
    )
    dialled = of.pay - float(gain) / 10**18
    assert workers.loss(of.draws(), of.stake, of.everybody) > dialled >= of.pay


def test_nodes_of_one_owner_are_reckoned_together_and_owners_each_lose() -> None:
    of = workers.Situation(1_000.0, 10_000, 100, 1.0, 1_000, 0.25)
    part = workers.Situation(100.0, 10_000, 10, 1.0, 1_000, 0.25)
    whole = workers.loss(of.draws(), of.stake, of.everybody)
    assert 10 * workers.loss(part.draws(), part.stake, part.everybody) > 0.9 * whole


def test_work_that_cannot_be_audited_is_not_offered() -> None:
    assert not workers.offered(workers.Situation(100.0, 0, 1, 85.0, 30, 0.0))
    assert workers.offered(workers.Situation(10_000.0, 0, 1, 85.0, 100, 0.0))
    assert workers.backed(100.0, 10_000, 1.0) == 46


def test_decoys_make_copying_break_even() -> None:
    share = auditors.decoys_needed(10.0)
    saved = auditors.execution(10.0)
    lost = share * (auditors.pay(10.0) + court.NODE_STAKE)
    assert (1 - share) * saved == pytest.approx(lost)


def test_a_quorum_steals_from_its_break_even_on() -> None:
    odds = juries(pool(100, 0.4))
    limit = verifiers.most_to_steal(3, odds)
    assert verifiers.steal(0.99 * limit, 3, odds) < 0 < verifiers.steal(1.01 * limit, 3, odds)


def test_a_reputation_costs_what_others_are_paid_for_auditing_it() -> None:
    assert requesters.price(10, 0.4) == pytest.approx(10 * 0.1 * 0.6 + 0.001)


def test_a_voiding_for_want_of_a_jury_costs_more_than_a_batch_can_bring() -> None:
    voids = [cell for cell in court.cells(QUICK) if "want of a jury" in cell.strategy]
    assert voids and min(cell.margin for cell in voids) > 0


def test_a_juror_that_says_what_the_accused_says_must_expect_to_lose() -> None:
    assert 0.98 < court.juror_trust() < 1


@pytest.mark.parametrize("play", batches.PLAYS, ids=lambda play: play.words)
def test_a_played_batch_is_the_same_for_the_same_seed(play: batches.Play) -> None:
    once, twice = (list(batches.played(play, 3, [7, 1])) for _ in range(2))
    assert once == twice


def test_played_batches_keep_to_the_formula() -> None:
    """What makes up its seals is found every time that it is seated: stake and pay against the cost of executing."""
    play = next(play for play in batches.PLAYS if play.votes == "random")
    margins = [margin for margin in batches.played(play, 30, [7, 2]) if margin]
    assert margins and min(margins) > 0.9 * court.NODE_STAKE
