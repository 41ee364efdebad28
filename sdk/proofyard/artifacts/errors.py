"""What can go wrong with artifacts.

ArtifactError
├── BlockMissing          a block is not in this store
├── ArtifactUnavailable   no provider that was asked has it
├── CorruptArtifact       bytes that do not match their CID, or a DAG that is no file or directory
│   └── UnsupportedArtifact   well formed, and not something that is read, or written, here
│       └── PartlySupported       some entries are that, and all others were written
├── ArtifactTooLarge      more than the caller allows
├── BadMultiaddress       an address of an IPFS daemon that is none
├── IpfsUnavailable       the daemon does not answer, or refuses
├── StoreUnusable         the store's folder cannot be written: disk full, no permission
│   └── TargetUnusable    the same of the place that an artifact is written to
├── SourceUnusable        a file or folder that should become an artifact cannot
└── UnusableCar           a file is no CAR file that can be read
"""

from collections.abc import Sequence
from typing import ClassVar

from proofyard.protocol.types import Cid, ProofyardError


class ArtifactError(ProofyardError):
    """Base of everything that `proofyard.artifacts` raises."""


class BlockMissing(ArtifactError):
    """The store does not have a block, or no longer: what failed its check is deleted and counts as missing."""

    def __init__(self, cid: Cid) -> None:
        self.cid = cid
        super().__init__(f"block {cid} is not in the store; fetch its artifact from a peer that has it")


class ArtifactUnavailable(ArtifactError):
    """Nobody who was asked could deliver. `reasons` holds one line for each provider."""

    exit_code = 3

    def __init__(self, cid: Cid, missing: int, reasons: Sequence[str]) -> None:
        self.cid, self.missing, self.reasons = cid, missing, tuple(reasons)
        tried = "; ".join(reasons) or "no provider is known"
        super().__init__(f"artifact {cid} is not to be had, {missing} blocks are missing ({tried}); try again later")


class CorruptArtifact(ArtifactError):
    """Bytes do not match the CID they came under, or what they encode is no valid file or directory."""

    exit_code = 4

    def __init__(self, cid: str, reason: str) -> None:
        self.cid, self.reason = cid, reason
        super().__init__(f"artifact {cid} is corrupt: {reason}")


class UnsupportedArtifact(CorruptArtifact):
    """`cid` is well formed, and of a kind that is not read here: `reason`. As a part of something that is owed, such as
    a state, it is as good as corrupt."""

    exit_code = 2

    def __init__(self, cid: str, reason: str) -> None:
        self.cid, self.reason = cid, reason
        ArtifactError.__init__(self, f"artifact {str(cid)[:80]} is not supported: {reason}")


class PartlySupported(UnsupportedArtifact):
    """All of `cid` was written to `path` but for the entries in `left_out`, each with the reason."""

    def __init__(self, cid: str, path: object, left_out: Sequence[tuple[str, str]]) -> None:
        shown = "; ".join(f"{name!r}: {why}" for name, why in left_out[:5])
        more = f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        super().__init__(cid, f"left out of {path}, where all else is: {shown}{more}")
        self.path, self.left_out = path, tuple(left_out)


class ArtifactTooLarge(ArtifactError):
    """`cid` has `size` bytes (or entries), at least; the caller allows `limit`."""

    def __init__(self, cid: Cid, size: int, limit: int, unit: str = "bytes") -> None:
        self.cid, self.size, self.limit = cid, size, limit
        super().__init__(f"artifact {cid} has {size} {unit} or more, over the limit of {limit}")


class StoreUnusable(ArtifactError):
    """The operating system refuses to read or write the store."""

    what: ClassVar[str] = "the artifact store at {} cannot be used"

    def __init__(self, path: object, reason: str) -> None:
        self.path = path
        super().__init__(f"{self.what.format(path)}: {reason}; free some space or choose another folder")


class TargetUnusable(StoreUnusable):
    what = "{} cannot be written"


class SourceUnusable(ArtifactError):
    """`path` cannot be made an artifact, and so nothing around it is."""

    exit_code = 2

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"PATH: {path} {reason}")


class UnusableCar(ArtifactError):
    """A file is no CAR file, or one that ends early."""

    exit_code = 2

    def __init__(self, reason: str) -> None:
        super().__init__(f"PATH: the CAR file cannot be read: {reason}")


class BadMultiaddress(ArtifactError, ValueError):
    """What should say where a daemon's RPC is says nothing."""

    exit_code = 2

    def __init__(self, api: str) -> None:
        self.api = api
        super().__init__(f"ipfs: {api!r} is no multiaddress of an RPC; write it like /ip4/127.0.0.1/tcp/5001/http")


class IpfsUnavailable(ArtifactError):
    """The daemon does not answer, or refuses."""

    exit_code = 3

    def __init__(self, api: str, reason: str) -> None:
        self.api = api
        super().__init__(f"the IPFS daemon at {api} failed: {reason}; start it, or leave out the IPFS address")
