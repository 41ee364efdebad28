"""The peers of a table on disk, so that a peer finds others again while Registry and verifiers are away."""

import contextlib
import logging
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from proofyard.discovery.messages import Record
from proofyard.discovery.table import Known, PeerTable, Teller
from proofyard.protocol.codec import CodecError, decode, encode
from proofyard.protocol.commitment import Domain
from proofyard.protocol.peer_record import read_record

logger = logging.getLogger("proofyard.discovery")

MOST_SAVED = 512
MAX_BYTES = 1 << 20


class SavedPeer(msgspec.Struct, frozen=True):
    """One that was met; `tried_at`: Unix seconds, 0 for never dialled."""

    record: Record
    tried_at: float


class SavedPeers(msgspec.Struct, frozen=True, tag="saved-peers-1"):
    """What the file holds. `sequence`: of this peer's own last record, so that the next one is later."""

    sequence: int
    peers: Annotated[tuple[SavedPeer, ...], Meta(max_length=MOST_SAVED)]


def save(file: Path, table: PeerTable, sequence: int) -> None:
    """Those that were met, the ones that answered first. Raises `OSError`."""
    met = sorted((each for each in table if each.met), key=lambda each: -each.tried_at)[:MOST_SAVED]
    data = encode(SavedPeers(sequence, tuple(SavedPeer(each.data, each.tried_at) for each in met)))
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_bytes(data)
    temporary.replace(file)


def restore(file: Path, table: PeerTable, domain: Domain, now: float, *, here: bool = False) -> int:
    """Put into the table what a file holds, as far as it is signed; the sequence number of this peer's own last record.
    A file that cannot be read is left out: it is written anew."""
    try:
        saved = decode(file.read_bytes(), SavedPeers, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        return 0
    except (OSError, CodecError) as error:
        logger.warning("%s is left out, and written anew: %s", file, error)
        return 0
    for each in saved.peers:
        with contextlib.suppress(CodecError):
            record = read_record(each.record, domain, now, here=here, expired=True)
            known = Known(record, each.record, teller=Teller("", trusted=True), met=True, tried_at=each.tried_at)
            table.restore(known)
    return saved.sequence
