"""Every event of Registry and Court: followed by the state machine, by what is known of nodes, or of no consequence
for a reason that is written down."""

from proofyard.chain import Event
from proofyard.chain.abi import contract
from proofyard.verifier.engine.chain import FOLLOWED, NOT_FOLLOWED
from proofyard.verifier.standing import CONCERNING


def test_every_event_of_the_chain_has_a_consequence_or_a_reason_for_none() -> None:
    named = {
        entry["name"] for name in ("Registry", "Court") for entry in contract(name).abi if entry["type"] == "event"
    }
    kinds = set(Event.__subclasses__())
    assert {kind.__name__ for kind in kinds} == named
    answered = set(FOLLOWED) | set(CONCERNING) | set(NOT_FOLLOWED)
    assert answered == kinds, "a new event of the contracts takes a handler, or a line that says why not"
    assert not set(FOLLOWED) & set(NOT_FOLLOWED)
    assert all(NOT_FOLLOWED.values())
