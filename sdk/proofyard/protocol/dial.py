"""The audit dial: how likely a task is audited, from the worker's record and from what it has at stake.

`max(p_floor, p_trust)`. The floor is the condition of proof of sampling (arXiv 2405.00295) for everything that an
owner has in flight at once; the trust part is BOINC's adaptive replication. The arithmetic is decimal, so every
platform gets the same float; the Registry's fixed-point results are within 1e-9 (`Dial.sol`).
"""

from decimal import Context, Decimal

from proofyard.protocol.types import Wei

TRUST_FROM = 10
"""A node with fewer consecutive valid audits is always audited."""

_CONTEXT = Context(prec=40)


def p_trust(consecutive_valid: int) -> float:
    """1 for a node with fewer than `TRUST_FROM` consecutive valid audits, then 1 / `consecutive_valid`."""
    return 1.0 if consecutive_valid < TRUST_FROM else 1 / consecutive_valid


def p_floor(stake: Wei, tasks_in_flight: int, reward_in_flight: Wei, collusion: float = 0.0) -> float:
    """The probability per task at which cheating on all `tasks_in_flight` loses on average.

    One audit that hits costs the stake and all unsettled pay, so with r = `collusion`, the share of auditors assumed to
    collude, at least one must hit with probability q = R / ((1 - r)(S + R)); p = 1 - (1 - q)^(1/T). 1 where q
    reaches 1 (too much work for the stake), 0 where nothing is in flight.
    """
    if tasks_in_flight <= 0 or reward_in_flight <= 0:
        return 0.0
    ctx = _CONTEXT
    honest = ctx.subtract(Decimal(1), Decimal(str(collusion)))
    q = ctx.divide(Decimal(reward_in_flight), ctx.multiply(honest, Decimal(stake + reward_in_flight)))
    if q >= 1:
        return 1.0
    log_escape = ctx.divide(ctx.ln(ctx.subtract(Decimal(1), q)), Decimal(tasks_in_flight))
    return float(ctx.subtract(Decimal(1), ctx.exp(log_escape)))


def audit_probability(
    consecutive_valid: int, stake: Wei, tasks_in_flight: int, reward_in_flight: Wei, collusion: float = 0.0
) -> float:
    """The probability that a task of this node is audited: max(p_floor, p_trust)."""
    return max(p_trust(consecutive_valid), p_floor(stake, tasks_in_flight, reward_in_flight, collusion))
