"""Every kind of bad input ends a command with a code of its own."""

from proofyard.artifacts import CorruptArtifact
from proofyard.chain.errors import (
    ChainUnreachable,
    InsufficientBalance,
    PortInUse,
    ToolNotFound,
    UnknownWallet,
    WrongPassword,
)
from proofyard.protocol.types import ExitCode, ProofyardError
from proofyard.sdk import JobOver
from proofyard.transport import EndpointUnavailable, ProtocolViolation
from proofyard.verifier.api.serving import ApiUnavailable

KINDS: tuple[type[ProofyardError], ...] = (
    WrongPassword,
    UnknownWallet,
    ChainUnreachable,
    ToolNotFound,
    PortInUse,
    InsufficientBalance,
    CorruptArtifact,
    ProtocolViolation,
    JobOver,
)


def test_each_kind_of_bad_input_has_its_own_exit_code() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert not {0, ExitCode.FAILED, ExitCode.USAGE} & set(codes)


def test_all_ports_in_use_are_the_same_kind() -> None:
    assert {kind.exit_code for kind in (PortInUse, EndpointUnavailable, ApiUnavailable)} == {ExitCode.PORT_IN_USE}
