"""What a case before the Court is worth to whoever brings it or has to bear it, and the cells of challengers and
jurors.

Bonds come from stakes. Honest parties that lose a first verdict appeal where the least stake suffices for bond and
appeal (their software does it); strategists where it pays.
"""

from collections.abc import Iterator
from itertools import product

from bench_economics_odds import JuryOdds, juries, pool
from bench_economics_setup import (
    AUDIT_FEE,
    COLLUDING,
    COURT,
    FETCH,
    GAS,
    OWNERS,
    PARAMS,
    RECORD,
    SEATS,
    SEGMENTS,
    STAKES,
    VERIFIER_FEE,
    WORK,
    Bench,
    Cell,
    K,
    Where,
    share,
    tokens,
)

NODE_STAKE, VERIFIER_STAKE = tokens(PARAMS.node_stake), tokens(PARAMS.verifier_stake)
BOND, APPEAL_BOND, FINE = tokens(COURT.bond), tokens(COURT.appeal_bond), tokens(COURT.juror_fine)
APPEALS = NODE_STAKE >= BOND + APPEAL_BOND
"""Whether an honest owner with the least stake can afford to appeal."""
TASKS = (0.01, 1.0, 10.0, 85.0)
"""Rewards of a task."""
RIGHT_CHALLENGES = (0.5, 0.9, 0.99)
"""Shares of the challenges that are right, as a juror expects."""


LEAST_JURY = 3
"""Jurors that are enough where a bench has no more (`Jury.LEAST`)."""
VOIDINGS = 127
"""How often a batch can be voided and taken again: its attempts are 8 bits, and each voiding and taking is one."""


def returned(taken: float, *, winner: bool = False, requester: bool = False, jury: bool = False) -> float:
    """What comes back to a strategist that is the winner, the requester or the jury's majority of a case: the Court
    shares out of a node's stake at most, and burns the rest."""
    parts = share(COURT.winner_bps) * winner + share(COURT.requester_bps) * requester + share(COURT.jury_bps) * jury
    return min(taken, NODE_STAKE) * parts


def prize(taken: float) -> float:
    """The same for whoever is all three."""
    return returned(taken, winner=True, requester=True, jury=True)


def accuse(odds: JuryOdds, gain: float) -> float:
    """What a strategist expects of bringing a false case that gains it `gain` where a jury upholds it.

    It loses its bonds otherwise, but for the requester's share, and appeals against a first verdict if that pays."""
    lost, lost_both = (bond - returned(bond, requester=True) for bond in (BOND, BOND + APPEAL_BOND))
    upheld = odds.last if APPEALS else 1.0
    first = odds.first * (upheld * gain - (1 - upheld) * lost)
    return first + (1 - odds.first) * max(-lost, odds.last * gain - (1 - odds.last) * lost_both)


def defend(odds: JuryOdds, stake: float) -> float:
    """What a strategist expects to lose of `stake` (all that a conviction costs it) in a true case against it."""
    appeal = APPEAL_BOND - returned(APPEAL_BOND, requester=True)
    upheld = odds.last if APPEALS else 1.0
    first = odds.first * ((1 - upheld) * stake - upheld * prize(BOND))
    appealing = (1 - odds.last) * (stake + appeal) - odds.last * prize(BOND)
    return first + (1 - odds.first) * min(stake, appealing)


def cells(bench: Bench) -> Iterator[Cell]:
    yield from _challengers(bench)
    yield from _jurors(bench)


def _challengers(bench: Bench) -> Iterator[Cell]:
    signers = -(-2 * SEATS // 3)
    for owners, fraction in product(bench.corners(OWNERS), bench.corners(COLLUDING)):
        odds = juries(pool(owners, max(fraction, 1 / owners)).without(honest=1, colluding=1))
        where: Where = {"owners": owners, "colluding": fraction}
        for stake in bench.corners(STAKES):
            value = accuse(odds, prize(stake))
            yield _challenge("challenges a right segment", {**where, "stake": stake}, value)
            yield _challenge(
                "floods the Court with 255 false challenges", {**where, "stake": stake}, 255 * (value - GAS)
            )
        yield _challenge(
            "challenges a right record", {**where, "signers": signers}, accuse(odds, prize(signers * VERIFIER_STAKE))
        )
        yield _challenge("challenges a right fault", where, accuse(odds, prize((K + 1) * NODE_STAKE)))
        yield Cell(
            "juror",
            "votes with colluders for a false challenge",
            where,
            -accuse(odds, prize(NODE_STAKE)) + (1 - odds.last) * FINE,
        )
    # Where no jury can be drawn the batch is voided for a bond, and settled again by whoever takes it. Its budget comes
    # back only once no attempts are left.
    for owners, reward in product((LEAST_JURY - 1, LEAST_JURY), (1.0, 100.0, 1_000.0)):
        saved = reward * (1 + AUDIT_FEE + VERIFIER_FEE) if owners < LEAST_JURY else 0.0
        where = {"owners on the bench": owners, "reward": reward}
        takes = f"{LEAST_JURY} owners besides the parties that offer the workload"
        lost = VOIDINGS * (BOND + GAS) if owners < LEAST_JURY else BOND
        yield Cell("challenger", "voids its own job's batches for want of a jury", where, lost - saved, takes=takes)
    # A copy has no seal that is older than the challenge: the transaction reverts, and the gas is gone.
    yield Cell("challenger", "copies an open challenge", {}, GAS)
    bounty = returned(NODE_STAKE, winner=True)
    for reward in TASKS:
        cost = WORK * reward / SEGMENTS + RECORD + 3 * GAS
        yield Cell("challenger", "keeps quiet about a faked segment", {"reward": reward}, bounty - cost, bounty / cost)


def _challenge(strategy: str, where: Where, value: float) -> Cell:
    return Cell("challenger", strategy, where, -value, takes="a larger jury of appeal, or a larger bond")


def juror_trust() -> float:
    """The share of right challenges from which on it pays to say what the accused says, for the dearest tasks."""
    executing = WORK * max(TASKS) / SEGMENTS + FETCH
    return 1 - executing / (returned(BOND, jury=True) / COURT.jury_size + NODE_STAKE)


def _jurors(bench: Bench) -> Iterator[Cell]:
    """A juror is paid with the majority that it is in, at least its share of a jury of appeal, if it found what most of
    them found. Whoever voted against the decision pays the fine, and a node's stake where it said what executing would
    have given and the others found something else. Jurors that guess must expect others to execute."""
    pay = returned(NODE_STAKE, jury=True) / COURT.appeal_jury_size
    rejected = returned(BOND, jury=True) / COURT.jury_size
    for reward, right in product(bench.corners(TASKS), RIGHT_CHALLENGES):
        executing = WORK * reward / SEGMENTS + FETCH
        where: Where = {"reward": reward, "challenges right": right}
        earned = right * pay + (1 - right) * rejected - executing
        # Evidence that nobody else has is not paid, and a wrong verdict is fined.
        guess = (1 - right) * -NODE_STAKE
        yield Cell("juror", "says wrong with made-up evidence", where, earned - guess)
        guess = (1 - right) * rejected - right * NODE_STAKE
        yield Cell("juror", "repeats the worker's digest", where, earned - guess)
        yield Cell("juror", "is silent", where, earned + FINE)
        guess = (1 - right) * -FINE
        yield Cell("juror", "says that a fault is false, without evidence", where, earned - guess)
        # What the accused claims is in the record, and true where the challenge is right.
        guess = right * pay - (1 - right) * NODE_STAKE
        takes = f"fewer than {juror_trust():.2%} of all challenges right"
        yield Cell("juror", "repeats what the accused of a fault claims", where, earned - guess, takes=takes)
        guess = right * pay - (1 - right) * FINE
        earned = right * pay + (1 - right) * rejected - RECORD
        yield Cell("juror", "says wrong about a record without looking", where, earned - guess)
