"""What voters of a round say to each other. Each names its round by `Round.digest`; its sender is whom the transport
has proved."""

from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.protocol.certificate import MAX_VIEW, Certificate, Deltas, Phase, View
from proofyard.protocol.codec import Bytes32
from proofyard.protocol.roster import MAX_VOTERS, Signed, Signers

EarlierView = Annotated[int, Meta(ge=0, le=MAX_VIEW)]
"""The view of a prepared certificate, 0 where there is none."""


class NewViews(msgspec.Struct, frozen=True):
    """Voters that all entered one view with a prepared certificate of view `high` as their latest."""

    high: EarlierView
    signers: Signers
    signature: Signed


class Proposal(msgspec.Struct, frozen=True, tag="round-proposal"):
    """The leader of a view proposes what is prepared already (`high`) or, where nothing is, `deltas`. `entered` shows
    that a quorum entered the view, and that none of them has seen a later prepared certificate; empty in view 1."""

    round: Bytes32
    view: View
    deltas: Deltas = ()
    high: Certificate | None = None
    entered: Annotated[tuple[NewViews, ...], Meta(max_length=MAX_VOTERS)] = ()

    @property
    def proposed(self) -> Deltas:
        return self.high.deltas if self.high else self.deltas


class Vote(msgspec.Struct, frozen=True, tag="round-vote"):
    """A voter to the leader of a view, of its proposal or of the certificate that prepared it."""

    round: Bytes32
    phase: Phase
    view: View
    subject: Bytes32
    signature: Signed


class NewView(msgspec.Struct, frozen=True, tag="round-new-view"):
    """A voter leaves all views before this one: to everybody. `high` is the latest prepared certificate it knows."""

    round: Bytes32
    view: View
    high: Certificate | None
    signature: Signed


class Certified(msgspec.Struct, frozen=True, tag="round-certified"):
    """A set is prepared in the current view, or decided. Answers whatever is said in a round that is decided."""

    round: Bytes32
    certificate: Certificate


Message = Proposal | Vote | NewView | Certified
