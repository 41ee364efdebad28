"""Auditors that do not execute, or vote for somebody, against auditors that execute what they are handed."""

from collections.abc import Iterator
from itertools import product

import msgspec

from bench_economics_court import NODE_STAKE, TASKS, prize
from bench_economics_odds import Pool, audit, juries, pool
from bench_economics_setup import (
    AUDIT_FEE,
    COLLUDING,
    FETCH,
    OWNERS,
    PARAMS,
    SEGMENTS,
    SEGMENTS_PER_AUDIT,
    STAKES,
    WORK,
    Bench,
    Cell,
    K,
    Where,
    share,
    tokens,
)
from bench_economics_workers import Situation, backed, loss_by, offered, stake_lost
from proofyard.protocol.audit import Verdict
from proofyard.protocol.earnings import LEAST_SEAT_PAY
from proofyard.protocol.seal import KEYED_ONE_IN
from proofyard.verifier.settings import VerifierSettings

DECOYS = share(next(f.default for f in msgspec.structs.fields(VerifierSettings) if f.name == "decoys_bps"))
"""The share of tasks, and so of audits, whose states are false on purpose, as verifiers order them."""


def pay(reward: float) -> float:
    """A seat's part of the audit fee, for a task of `reward`; for less than the least nodes take no work."""
    return max(tokens(LEAST_SEAT_PAY), AUDIT_FEE * reward / (K * SEGMENTS_PER_AUDIT))


def execution(reward: float, segments: int = SEGMENTS) -> float:
    return WORK * reward / segments


def seen_with(others: Pool) -> float:
    """The probability that a seated auditor's answer, which nobody else gives, is found false: k + 1 owners give
    another."""
    return sum(
        odds * _others_agree(others.without(honest=how.honest, colluding=how.colluding), how.honest)
        for how, odds in audit(others, false_claim=True, strategy="honest")
    )


def _others_agree(left: Pool, agreeing: int) -> float:
    """One more who contradicts brings in further auditors until k + 1 agree: honest ones, if there are enough."""
    return 1.0 if agreeing + left.honest > K else 0.0


def decoys_needed(reward: float, stake: float = NODE_STAKE) -> float:
    """The share of audits whose leaked answers would have to be false, so that copying bytes does not pay."""
    saved = execution(reward)
    return saved / (saved + pay(reward) + stake)


def cells(bench: Bench) -> Iterator[Cell]:
    yield from _copying(bench)
    yield from _accusing(bench)
    yield from _colluding(bench)


def _copying(bench: Bench) -> Iterator[Cell]:
    for owners, reward in product(bench.corners(OWNERS), bench.corners(TASKS)):
        where: Where = {"owners": owners, "reward": reward}
        others = pool(owners, 1 / owners)
        earned, stake = pay(reward), stake_lost(NODE_STAKE, others)
        costs = execution(reward) + FETCH
        yield Cell(
            "auditor", "is silent", where, earned - costs, earned / costs, "an audit fee above the cost of a segment"
        )
        found = seen_with(others.without(colluding=1))
        yield Cell("auditor", "seals what it makes up", where, earned - costs + found * stake)
        # A digest without the bytes has no key; in a drawn share of segments everybody checks that who has the state.
        caught = (earned + stake) / KEYED_ONE_IN
        yield Cell("auditor", "copies a leaked digest", where, caught - costs, caught / costs)
        for false, who in ((DECOYS, "an honest worker leaks"), (1.0, "a faking worker leaks")):
            lost = false * found * (earned + stake)
            saved = execution(reward)
            takes = (
                f"decoys, {decoys_needed(85.0):.1%} of all audits (tasks of 85 tokens; {decoys_needed(1.0):.3%} of 1)"
            )
            yield Cell("auditor", f"copies bytes that {who}", where, lost - saved, lost / saved, takes)


def _accusing(bench: Bench) -> Iterator[Cell]:
    """Colluders with enough seats accuse an innocent worker. It contests its fault, and so do the auditors that are
    outvoted with it: the accusers pay if a jury agrees."""
    for owners, fraction, stake in product(bench.corners(OWNERS), COLLUDING[1:], bench.corners(STAKES)):
        everybody = pool(owners, fraction)
        for way in ("follow", "cautious"):
            value = accusing(everybody.without(honest=1), stake, way)
            words = "always" if way == "follow" else "where they hold all seats"
            yield Cell(
                "auditor",
                f"accuses falsely with colluders, {words}",
                {"owners": owners, "colluding": fraction, "stake": stake},
                -value,
                takes="a larger jury of appeal",
            )


def accusing(auditors: Pool, stake: float, way: str) -> float:
    """What colluders expect of accusing innocent workers of such a stake, for each audit that one of them sits on."""
    odds = juries(auditors.without(colluding=K + 1))
    back = share(PARAMS.given_back_bps)
    liars = (K + 1) * NODE_STAKE - prize((K + 1) * NODE_STAKE)
    seated = value = 0.0
    for how, probability in audit(auditors, false_claim=False, strategy=way):
        seated += probability * (how.colluding > 0)
        if how.verdict == Verdict.FAULT:
            gain = back * (min(stake, NODE_STAKE) + how.honest * NODE_STAKE)
            value += probability * (odds.last * gain - (1 - odds.last) * liars)
        elif way == "follow":
            value -= probability * how.colluding * stake_lost(NODE_STAKE, auditors)
    return value / seated if seated else 0.0


def _colluding(bench: Bench) -> Iterator[Cell]:
    """What worker and auditors expect together, by how the auditors vote, against honest ones."""
    for owners, fraction, stake in product(bench.corners(OWNERS), COLLUDING[1:], bench.corners(STAKES)):
        for reward in (1.0, 10.0):
            of = Situation(stake, 100, backed(stake, 100, reward), reward, owners, fraction)
            if not offered(of):
                continue
            for way, words in (("follow", "always"), ("cautious", "where they hold all seats")):
                lost = loss_by(way, of.draws(), of.stake, of.everybody)
                saved = WORK * of.pay
                strategy = f"votes for a faking colluder, {words}"
                yield Cell("auditor", strategy, of.where(), lost - saved, lost / saved, "a larger jury of appeal")
