"""What peers ask each other about other peers, and about who has what.

A record comes unasked only from the peer that it is about: others are told as the answer to a question, so nobody can
pour records over somebody else.
"""

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from proofyard.protocol.cid import CID_BYTES
from proofyard.protocol.codec import Key
from proofyard.protocol.peer_record import MAX_RECORD_BYTES

MOST_TOLD = 48
"""Records in one answer."""
MOST_PROVIDERS = 8
MOST_PROVIDED = 64
"""Artifacts in one `Provide`."""

Record = Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)]


class ExchangePeers(msgspec.Struct, frozen=True, tag="exchange-peers"):
    """A peer says how it is reached, and asks for `wanted` others. `record`: its own, signed (`PeerRecord`), empty
    where it publishes none. Replied to with `KnownPeers`, or refused with `busy` where it asks too often."""

    record: Record
    wanted: Annotated[int, Meta(ge=0, le=MOST_TOLD)]


class KnownPeers(msgspec.Struct, frozen=True, tag="known-peers"):
    """Records of peers that the answering one has met itself, in no order, and its own, `record`."""

    record: Record
    records: Annotated[tuple[Record, ...], Meta(max_length=MOST_TOLD)]


class FindPeers(msgspec.Struct, frozen=True, tag="find-peers"):
    """Asks how these peers are reached. Replied to with `KnownPeers` of those among them that the answering one has
    met, or refused with `busy` where it is asked too often."""

    idempotent: ClassVar[bool] = True
    nodes: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=MOST_TOLD)]


class Provide(msgspec.Struct, frozen=True, tag="provide"):
    """A peer says that it has these artifacts whole, and how it is reached; `cids` are the CIDs' 36 bytes, joined. It
    holds for `seconds`, as the reply says. Replied to with `Provided`."""

    record: Record
    cids: Annotated[bytes, Meta(min_length=CID_BYTES, max_length=MOST_PROVIDED * CID_BYTES)]


class Provided(msgspec.Struct, frozen=True, tag="provided"):
    """For how long it is remembered."""

    seconds: Annotated[int, Meta(ge=0, lt=1 << 31)]


class FindProviders(msgspec.Struct, frozen=True, tag="find-providers"):
    """Asks who said that it has an artifact; `cid` are its CID's 36 bytes. Replied to with `Providers`."""

    idempotent: ClassVar[bool] = True
    cid: Annotated[bytes, Meta(min_length=CID_BYTES, max_length=CID_BYTES)]


class Providers(msgspec.Struct, frozen=True, tag="providers"):
    """Their records, in no order."""

    records: Annotated[tuple[Record, ...], Meta(max_length=MOST_PROVIDERS)]


REQUESTS: tuple[type[msgspec.Struct], ...] = (ExchangePeers, FindPeers, Provide, FindProviders)
