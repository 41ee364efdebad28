"""Artifacts by content: CIDs as IPFS has them, a block store on disk, and fetching from several peers at once."""

from proofyard.artifacts.builder import cid_of_bytes
from proofyard.artifacts.errors import (
    ArtifactError,
    ArtifactTooLarge,
    ArtifactUnavailable,
    BlockMissing,
    CorruptArtifact,
    StoreUnusable,
)
from proofyard.artifacts.exchange import Blocks, GetBlocks, serve_blocks
from proofyard.artifacts.fetcher import ForgedBlock, fetch
from proofyard.artifacts.store import BlockStore

__all__ = [
    "ArtifactError",
    "ArtifactTooLarge",
    "ArtifactUnavailable",
    "BlockMissing",
    "BlockStore",
    "Blocks",
    "CorruptArtifact",
    "ForgedBlock",
    "GetBlocks",
    "StoreUnusable",
    "cid_of_bytes",
    "fetch",
    "serve_blocks",
]
