"""Names for the values that cross function boundaries.

A number without a unit in its name or its type does not cross one: amounts are `Wei` (base units of the
network's ERC-20, 18 decimals), identities are `Address`, `JobId`, `BatchId`, contents are `Cid` or `Digest`.
"""

from enum import IntEnum
from typing import NewType

Wei = NewType("Wei", int)
"""An amount in base units of the network's token (1 CREDIT = 10**18)."""

Address = NewType("Address", str)
"""An EIP-55 checksummed EVM address, `0x` and 40 hex digits."""

JobId = NewType("JobId", int)
BatchId = NewType("BatchId", int)

TaskIndex = NewType("TaskIndex", int)
"""Position of a task in its job's task graph, 0-based."""

SegmentIndex = NewType("SegmentIndex", int)
"""Position of a segment in its task, 0-based; segment i leads from state i to state i + 1."""

Digest = NewType("Digest", bytes)
"""32 bytes: a keccak-256 or sha2-256 digest; the field's name says which."""

Signature = NewType("Signature", bytes)
"""65 bytes r || s || v of an ECDSA signature over secp256k1, low s."""

Cid = NewType("Cid", str)
"""A CIDv1 in lower-case base32: sha2-256, codec raw (`bafk...`) or dag-pb (`bafy...`). See `protocol.cid`."""


class ExitCode(IntEnum):
    """How a command ended. Scripts may rely on these; docs/cli.md lists what raises which."""

    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    """The chain or the network does not answer."""
    PROOF_MISMATCH = 4
    """A proof, digest or signature does not match: an artifact is corrupt, or somebody lies."""
    WRONG_PASSWORD = 5
    UNKNOWN_WALLET = 6
    TOOL_MISSING = 7
    """A program that is needed, such as anvil, is not installed."""
    PORT_IN_USE = 8
    BALANCE_TOO_SMALL = 9
    PROTOCOL_VIOLATION = 10
    """A peer sent what is no valid protocol."""
    JOB_OVER = 11
    """A job will not be done any more: it was closed, or its time ran out."""


class ProofyardError(Exception):
    """Base of every error that Proofyard raises on purpose.

    The message is one sentence with the cause and the next step; the command line prints it without a traceback and
    ends with `exit_code`.
    """

    exit_code: int = ExitCode.FAILED

    def __init__(self, message: str = "") -> None:
        # Names from JSON may hold half characters, which no log, message or terminal takes.
        super().__init__(message.encode(errors="backslashreplace").decode())
