"""Artifacts by content: CIDs as IPFS has them, a block store on disk, and fetching from several peers at once."""

from proofyard.artifacts.errors import (
    ArtifactError,
    ArtifactTooLarge,
    ArtifactUnavailable,
    BlockMissing,
    CorruptArtifact,
    StoreUnusable,
)
from proofyard.artifacts.exchange import Blocks, GetBlocks, serve_blocks
from proofyard.artifacts.fetcher import Fetcher, ForgedBlock, Provider
from proofyard.artifacts.store import BlockStore

__all__ = [
    "ArtifactError",
    "ArtifactTooLarge",
    "ArtifactUnavailable",
    "BlockMissing",
    "BlockStore",
    "Blocks",
    "CorruptArtifact",
    "Fetcher",
    "ForgedBlock",
    "GetBlocks",
    "Provider",
    "StoreUnusable",
    "serve_blocks",
]
