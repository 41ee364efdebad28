"""Who has how many tokens, and whether they all add up."""

from collections.abc import Iterable
from dataclasses import dataclass

from proofyard.chain import ChainClient, ChallengeId, Phase, Totals
from proofyard.protocol.types import Address, Wei

DECIDED = (Phase.UPHELD, Phase.REJECTED, Phase.DISMISSED)


@dataclass(frozen=True)
class Holding:
    """An owner's tokens: in its own hands, at stake, and on the way back from there."""

    tokens: Wei
    stake: Wei
    unbonding: Wei

    @property
    def total(self) -> Wei:
        return Wei(self.tokens + self.stake + self.unbonding)


@dataclass(frozen=True)
class Books:
    """Every token there is. `held`: the sum over all holders but the contracts; `registry`, `court`: the contracts'
    balances; `totals`: where the Registry says that its tokens are; `disputed`: bonds and fines of the challenges that
    the Court has not decided."""

    supply: Wei
    held: Wei
    registry: Wei
    court: Wei
    totals: Totals
    disputed: Wei

    @property
    def conserved(self) -> bool:
        """All holders together have the supply, the Registry's own account of its tokens is its balance, and the Court
        has no token of its own: what it disputes about is among the Registry's bonds."""
        everything = self.held + self.registry + self.court
        return (
            everything == self.supply
            and self.totals.sum == self.registry
            and self.court == 0
            and self.totals.bonds >= self.disputed
        )


def statement(chain: ChainClient, holders: Iterable[Address]) -> dict[Address, Wei]:
    """Whose every token is: each holder's with what it has at stake, and the Registry's rest, which is escrow,
    unclaimed pay, bonds and what was burned. The sum is the supply."""
    owned = {holder: holding_of(chain, holder).total for holder in dict.fromkeys(holders)}
    totals = chain.totals()
    return {**owned, chain.registry: Wei(totals.sum - totals.stakes - totals.unbonding)}


def holding_of(chain: ChainClient, owner: Address) -> Holding:
    account = chain.account(owner)
    return Holding(chain.token_balance(owner), account.stake, account.unbonding)


def books_of(chain: ChainClient, holders: Iterable[Address]) -> Books:
    """`holders` must be all that ever got tokens, beside the Registry."""
    return Books(
        supply=chain.token_supply(),
        held=Wei(sum(chain.token_balance(holder) for holder in dict.fromkeys(holders))),
        registry=chain.token_balance(chain.registry),
        court=chain.token_balance(chain.court),
        totals=chain.totals(),
        disputed=disputed(chain),
    )


def disputed(chain: ChainClient) -> Wei:
    """Bonds and fines of all challenges that are not decided."""
    numbers = range(1, chain.challenge_count() + 1)
    undecided = [c for c in (chain.challenge(ChallengeId(n)) for n in numbers) if c.phase not in DECIDED]
    return Wei(sum(challenge.bond + challenge.fines for challenge in undecided))
