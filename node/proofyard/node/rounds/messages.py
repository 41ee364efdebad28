"""What voters of a round say to each other. Each names its round by `Round.digest`; its sender is whom the transport
has proved. Who asks about a round that it does not vote in is told nothing."""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from proofyard.protocol.certificate import MAX_VIEW, Certificate, Delta, Deltas, Phase, View
from proofyard.protocol.codec import Bytes32, CidText
from proofyard.protocol.commitment import Commitment
from proofyard.protocol.roster import MAX_VOTERS, Signed, Signers
from proofyard.protocol.types import Signature

MAX_TRACE = 4097
"""States that one task commits to; a node's `max_segments` is one less unless its operator says otherwise."""

EarlierView = Annotated[int, Meta(ge=0, le=MAX_VIEW)]
"""The view of a prepared certificate, 0 where there is none."""


class NewViews(msgspec.Struct, frozen=True):
    """Voters that all entered one view with a prepared certificate of view `high` as their latest."""

    high: EarlierView
    signers: Signers
    signature: Signed


class Proposal(msgspec.Struct, frozen=True, tag="round-proposal"):
    """The leader of a view proposes what is prepared already (`high`) or, where nothing is, `deltas`. `entered` shows
    that a quorum entered the view, and that none of them has seen a later prepared certificate; empty in view 1.
    Replied to with `Heard`."""

    round: Bytes32
    view: View
    deltas: Deltas = ()
    high: Certificate | None = None
    entered: Annotated[tuple[NewViews, ...], Meta(max_length=MAX_VOTERS)] = ()

    @property
    def proposed(self) -> Deltas:
        return self.high.deltas if self.high else self.deltas


class Vote(msgspec.Struct, frozen=True, tag="round-vote"):
    """A voter to the leader of a view, of its proposal or of the certificate that prepared it. Replied to with
    `Heard`."""

    round: Bytes32
    phase: Phase
    view: View
    subject: Bytes32
    signature: Signed


class NewView(msgspec.Struct, frozen=True, tag="round-new-view"):
    """A voter leaves all views before this one: to everybody. `high` is the latest prepared certificate it knows.
    Replied to with `Heard`."""

    round: Bytes32
    view: View
    high: Certificate | None
    signature: Signed


class Certified(msgspec.Struct, frozen=True, tag="round-certified"):
    """A set is prepared in the current view, or decided. Replied to with `Heard`."""

    round: Bytes32
    certificate: Certificate


Message = Proposal | Vote | NewView | Certified


class AskRound(msgspec.Struct, frozen=True, tag="ask-round"):
    """A voter asks whether a round is decided: it may have been away. Replied to with `Heard`."""

    idempotent: ClassVar[bool] = True
    round: Bytes32


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """What was said is taken note of. `decided`: the round's certificate, once the answering voter has it on disk."""

    decided: Certificate | None = None


class ShownDelta(msgspec.Struct, frozen=True, tag="shown-delta"):
    """A voter shows its own result to the others, which fetch it from the voter; or answers `ShowDelta`. `trace` as in
    `SubmitCommitment`. Replied to with `Ack`, which proceeds once the result is there and found right."""

    round: Bytes32
    commitment: Commitment
    signature: Annotated[Signature, Meta(min_length=65, max_length=65)]
    trace: Annotated[tuple[CidText, ...], Meta(max_length=MAX_TRACE)]


class ShowDelta(msgspec.Struct, frozen=True, tag="show-delta"):
    """A voter asks who proposed a result for the commitment to it. Replied to with `ShownDelta`, refused with
    `no-delta`."""

    idempotent: ClassVar[bool] = True
    round: Bytes32
    delta: Delta
