"""Artifacts by content: CIDs as IPFS has them, a block store on disk, and fetching from several peers at once."""

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.artifacts.errors import (
    ArtifactError,
    ArtifactTooLarge,
    ArtifactUnavailable,
    BlockMissing,
    CorruptArtifact,
    IpfsUnavailable,
    PartlySupported,
    SourceUnusable,
    StoreUnusable,
    UnsupportedArtifact,
    UnusableCar,
)
from proofyard.artifacts.exchange import BlockProvider, Blocks, GetBlocks, serve_blocks
from proofyard.artifacts.fetcher import ForgedBlock, fetch
from proofyard.artifacts.keeper import Collected, Keeper, Pin
from proofyard.artifacts.store import BlockStore

__all__ = [
    "ArtifactError",
    "ArtifactTooLarge",
    "ArtifactUnavailable",
    "BlockMissing",
    "BlockProvider",
    "BlockStore",
    "Blocks",
    "Collected",
    "CorruptArtifact",
    "ForgedBlock",
    "GetBlocks",
    "IpfsUnavailable",
    "Keeper",
    "PartlySupported",
    "Pin",
    "SourceUnusable",
    "StoreUnusable",
    "UnsupportedArtifact",
    "UnusableCar",
    "cid_of_bytes",
    "fetch",
    "serve_blocks",
]
