"""The measured part of `docs/economics.md`, from the cells of `bench_economics.py`."""

from collections.abc import Callable, Sequence

from bench_economics_auditors import decoys_needed
from bench_economics_court import NODE_STAKE, VERIFIER_STAKE, accuse, juror_trust, prize
from bench_economics_odds import juries, pool
from bench_economics_setup import (
    AUDIT_FEE,
    COSTS,
    COURT,
    FETCH,
    FLIGHTS,
    PARAMS,
    RECORD,
    SEED,
    SEGMENTS,
    SEGMENTS_PER_AUDIT,
    STAKES,
    WORK,
    Cell,
    K,
    tokens,
)
from bench_economics_verifiers import QUORUMS, most_to_steal
from bench_economics_workers import Situation, backed, loss, offered
from bench_exact_report import table

NETWORK = 100
"""Owners of the network that break-even points are of."""


def render(cells: Sequence[Cell]) -> str:
    lost = [cell for cell in cells if cell.lost]
    won = min((cell for cell in cells if not cell.lost), key=lambda cell: cell.margin)
    played = int(sum(cell.where["batches"] for cell in cells if cell.simulated))
    parts = [
        "## Measured",
        f"Written by `make bench-economics`, seed {SEED}. **{len(cells) - len(lost):,} of {len(cells):,} cells are won "
        f"by the honest reply, {len(lost):,} are lost**: {len({(c.role, c.strategy) for c in lost})} strategies pay "
        f"somewhere, each named below with what it takes. The smallest margin won is {_number(won.margin)} tokens "
        f"({won.name}). {played:,} batches were played.",
        "### Strategies",
        "Smallest margin in tokens, and the situation it was found in. *Fear* is the least ratio of what a strategist "
        "expects to lose to what it saves or wins; 1 breaks even.",
        table(["role", "strategy", "cells", "lost", "smallest margin", "there", "fear"], _rows(cells)),
        "### Played batches",
        "Drawn, tallied and paid by the protocol's own code. The margin is the lower bound of a 99.9% interval.",
        table(["role", "strategy", "batches", "mean", "by the formula", "margin"], _played(cells)),
        "### What is lost, and what it takes",
        table(["strategy", "lost where", "what it takes"], _limits(lost)) if lost else "Nothing.",
        "### Where it breaks even",
        table(["what", "breaks even at"], _break_even()),
        "### What was reckoned with",
        table(["cost", "amount", "for"], [[name, f"{c.amount:g} {c.unit}", c.words] for name, c in COSTS.items()]),
        table(["parameter", "value"], _parameters()),
    ]
    return "\n\n".join(parts) + "\n"


def _by_strategy(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each strategy, roles and strategies in the order of their first cells."""
    order: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        order.setdefault((cell.role, cell.strategy), []).append(cell)
    return list(order.values())


def _rows(cells: Sequence[Cell]) -> list[list[object]]:
    rows: list[list[object]] = []
    for group in _by_strategy([cell for cell in cells if not cell.simulated]):
        least, lost = min(group, key=lambda cell: cell.margin), sum(cell.lost for cell in group)
        fears = [cell.safety for cell in group if cell.safety is not None]
        strategy = f"**{least.strategy}**" if lost else least.strategy
        fear = f"{min(fears):.2f}" if fears else ""
        rows.append([least.role, strategy, f"{len(group):,}", lost, _number(least.margin), _where(least), fear])
    return rows


def _played(cells: Sequence[Cell]) -> list[list[object]]:
    counted = ("batches", "mean", "formula")
    return [
        [
            cell.role,
            f"{cell.strategy} ({_where(cell, without=counted)})",
            f"{cell.where['batches']:,}",
            cell.where["mean"],
            cell.where.get("formula", ""),
            _number(cell.margin),
        ]
        for cell in cells
        if cell.simulated
    ]


def _limits(lost: Sequence[Cell]) -> list[list[object]]:
    rows: list[list[object]] = []
    for group in _by_strategy(lost):
        worst = min(group, key=lambda cell: cell.margin)
        rows.append([f"**{worst.role} {worst.strategy}**", _ranges(group), worst.takes])
    return rows


def _ranges(cells: Sequence[Cell]) -> str:
    """The values that lost cells have, where they are fewer than all."""
    keys = list(cells[0].where)
    values = {key: sorted({cell.where[key] for cell in cells if key in cell.where}) for key in keys}
    return ", ".join(
        f"{key} {_number(found[0])}" + (f" to {_number(found[-1])}" if len(found) > 1 else "")
        for key, found in values.items()
    )


def _where(cell: Cell, without: tuple[str, ...] = ()) -> str:
    return ", ".join(f"{key} {_number(value)}" for key, value in cell.where.items() if key not in without)


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _break_even() -> list[list[object]]:
    rows: list[list[object]] = []
    for stake in STAKES:
        for costs, words in ((WORK, f"costs {WORK:.0%} of its reward"), (1.0, "costs all that it pays")):
            fraction = _least(lambda f, s=stake, c=costs: _faking_pays(s, f, c))  # type: ignore[misc]
            rows.append(
                [
                    f"a worker with {stake:,.0f} at stake fakes, where work {words}",
                    f"{fraction} of all owners colluding",
                ]
            )
    for stake in STAKES:
        fraction = _least(lambda f, s=stake: accuse(juries(pool(NETWORK, f)), prize(s)) > 0)  # type: ignore[misc]
        rows.append([f"a false challenge of somebody with {stake:,.0f} at stake", f"{fraction} colluding"])
    for seats in QUORUMS:
        limits = [
            f"{most_to_steal(seats, juries(pool(NETWORK, f))):,.0f} with {f:.0%} of the owners"
            for f in (0.25, 1 / 3, 0.4)
        ]
        rows.append([f"two thirds of {seats} seats steal the budgets of a window", "; ".join(limits)])
    for reward in (1.0, 10.0, 85.0):
        share = f"{decoys_needed(reward):.3%} of audits having false answers on purpose"
        rows.append([f"copying leaked bytes, tasks of {reward:g}", share])
    fee = WORK * K * SEGMENTS_PER_AUDIT / SEGMENTS
    rows.append(
        ["auditing at all", f"an audit fee of {fee:.1%} of the reward, and {K * FETCH:g} a task for moving states"]
    )
    rows.append(["signing records unseen", f"one record in {VERIFIER_STAKE / RECORD:,.0f} that does not validate"])
    rows.append(["dropping a receipt", f"tasks of {tokens(COURT.receipt_penalty) / (1 + AUDIT_FEE):.1f}"])
    rows.append(["a juror that says what the accused says", f"{juror_trust():.2%} of all challenges right"])
    return rows


def _least(pays: Callable[[float], bool]) -> str:
    """The least percentage of colluding owners for which a strategy pays."""
    return next((f"{percent}%" for percent in range(1, 60) if pays(percent / 100)), "more than 59%")


def _faking_pays(stake: float, fraction: float, costs: float) -> bool:
    for reputation, (asked, reward) in ((r, flight) for r in (0, 100, 10_000) for flight in FLIGHTS):
        of = Situation(stake, reputation, backed(stake, asked, reward), reward, NETWORK, fraction)
        if offered(of) and loss(of.draws(), of.stake, of.everybody) <= costs * of.pay:
            return True
    return False


def _parameters() -> list[list[object]]:
    amounts = ("node_stake", "verifier_stake", "settle_penalty")
    shares = ("collusion_bps", "slash_requester_bps", "slash_auditor_bps", "slash_redress_bps", "leader_bps")
    fines = ("bond", "appeal_bond", "juror_fine", "receipt_penalty", "late_fine")
    of_court = ("winner_bps", "requester_bps", "jury_bps", "jury_size", "appeal_jury_size")
    return [
        *([name, f"{tokens(getattr(PARAMS, name)):,g}"] for name in amounts),
        *([name, getattr(PARAMS, name)] for name in shares),
        *([f"court.{name}", f"{tokens(getattr(COURT, name)):,g}"] for name in fines),
        *([f"court.{name}", getattr(COURT, name)] for name in of_court),
        ["k, m, N", f"{K}, {SEGMENTS_PER_AUDIT}, {SEGMENTS}"],
        ["at most shared out of one case, or fault", f"{NODE_STAKE:,g}"],
    ]
