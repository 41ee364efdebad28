"""Data that stays at home: files that nobody publishes, which a job names by the CIDs that they would have.

A job's parameters list one CID for each shard, so whoever signs a commitment to a task of it, which names the manifest,
commits to the file as well. What is computed can be executed again by whoever has a copy of that very file, and by
nobody else.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proofyard.protocol.addresses import read_address
from proofyard.protocol.cid import CidError, cid_bytes
from proofyard.protocol.codec import CidText, Key
from proofyard.protocol.types import Address, Cid
from proofyard.workloads.errors import ManifestRefused

PREFIX = "local:"
LACKS = "lacks"
"""How a node's answer begins to an offer of work on data that it does not have: no fault of it, and others may."""
NAME = r"\A[a-z0-9][a-z0-9._-]{0,63}\Z"

Schema = Literal["text", "chat", "pairs"]
"""What each line of a data set is: a text, a rendered conversation (with `trained`), or two rendered answers."""

LINES: dict[Schema, str] = {
    "text": '{"text": ...}',
    "chat": '{"text": ..., "trained": [[first, end], ...]}',
    "pairs": '{"text": ..., "trained": ..., "rejected_answer": ...}',
}


class LocalData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set that each worker has itself. `name`: what people call it; `digests`: of each shard, the CID that its
    file would have; `schema`: what its lines are. `auditors`: the owners that were given all of it, from whom alone
    auditors are drawn, or `unaudited`: nobody was, and what is computed from it is audited by nobody."""

    name: Annotated[str, Meta(pattern=NAME)]
    digests: Annotated[tuple[CidText, ...], Meta(min_length=1, max_length=10_000)]
    schema: Schema = "text"
    auditors: Annotated[tuple[Key, ...], Meta(max_length=256)] = ()
    unaudited: bool = False

    @property
    def owners(self) -> frozenset[Address]:
        """Who may audit; nobody where it is `unaudited`."""
        return frozenset(map(read_address, self.auditors))


class LocalFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of such a data set."""

    name: str
    cid: Cid
    schema: Schema

    def __str__(self) -> str:
        return f"the data set {self.name} ({self.cid})"

    @property
    def lacking(self) -> str:
        """What a node without a copy says."""
        return f"{LACKS} {self}, which nobody publishes; with a copy: proofyard node data add {self.name} FILE"


def local_name(data: object) -> str:
    """The name in `local:NAME`; empty for a path, or whatever else holds rows."""
    said = str(data) if isinstance(data, str | Path) else ""
    return said.removeprefix(PREFIX) if said.startswith(PREFIX) else ""


def check_local(local: LocalData, workers: int, objective: str) -> None:
    """Raise `ManifestRefused` where a data set does not fit the job that names it."""
    if len(local.digests) != workers:
        raise ManifestRefused(
            "params.local", f"has {len(local.digests)} digests for {workers} workers; give one for each"
        )
    for digest in local.digests:
        try:
            cid_bytes(digest)
        except CidError as error:
            raise ManifestRefused("params.local", f"has a digest that is no CID: {error}") from None
    try:
        owners = local.owners
    except ValueError as error:
        raise ManifestRefused("params.local", f"has an auditor that is no address: {error}") from None
    if len(owners) != len(local.auditors):
        raise ManifestRefused("params.local", "names an auditor twice; an owner has one vote")
    if bool(owners) == local.unaudited:
        raise ManifestRefused(
            "params.local",
            "names auditors and is unaudited; say one"
            if owners
            else "says neither which owners were given the data "
            "(auditors, their addresses) nor that nobody audits what is computed from it (unaudited = true)",
        )
    if (local.schema == "pairs") != (objective == "dpo"):
        raise ManifestRefused(
            "params.local", f"has the schema {local.schema!r}; objective {objective!r} learns from others"
        )
