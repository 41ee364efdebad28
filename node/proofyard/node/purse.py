"""How much of an owner's stake a node may put into bonds by itself."""

from collections.abc import Sequence

from proofyard.chain import ChainClient, ChallengeRecord
from proofyard.protocol.types import Address, ProofyardError, Wei

CREDIT = 10**18


class OverBudget(ProofyardError):
    """A bond would be more than the operator allows, or than the owner's stake leaves."""


class Purse:
    """The budget of one owner, over everything that it has in bonds now, by whichever of its nodes or by hand."""

    def __init__(self, chain: ChainClient, owner: Address, budget: Wei) -> None:
        self._chain = chain
        self._owner = owner
        self._budget = budget
        self._bonded = 0

    def note(self, records: Sequence[ChallengeRecord]) -> None:
        """Learn from all open challenges what is bonded."""
        appeal_bond = self._chain.params().court.appeal_bond
        challenges = sum(record.bond for record in records if record.challenger == self._owner)
        self._bonded = challenges + sum(appeal_bond for record in records if record.appellant == self._owner)

    def afford(self, bond: Wei, *, keep_backing: bool) -> None:
        """Raise `OverBudget` unless a bond is within the budget and, with `keep_backing`, beyond what the owner's
        operators need: a node without backing is given no work."""
        left = self._budget - self._bonded
        if bond > left:
            raise OverBudget(f"a bond of {_credits(bond)} is over what is left of bond_budget, {_credits(left)}")
        account, params = self._chain.account(self._owner), self._chain.params()
        backing: int = params.bound(account, self._chain.now())
        backing += account.nodes * params.node_stake if keep_backing else 0
        free = max(0, account.stake - backing)
        if bond > free:
            raise OverBudget(f"a bond of {_credits(bond)} is over the stake that backs nothing, {_credits(free)}")
        self._bonded += bond


def _credits(amount: int) -> str:
    return f"{amount // CREDIT} CREDIT"
