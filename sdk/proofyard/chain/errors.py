"""What can go wrong with wallets and the chain.

ProofyardError
├── WalletError              exit code 2
│   ├── UnknownWallet        no keystore of that name; lists the known ones
│   ├── WalletExists         a keystore of that name is there already
│   ├── WrongPassword
│   ├── BadKey               a number that is no private key
│   ├── BadPhrase            words that are no seed phrase
│   ├── UnsafeKeystore       others may read the file, or it is no keystore
│   │   └── FalseAddress     it is not the key of the account that it names
│   └── PasswordUnreadable   the file with a password cannot be read
└── ChainError               exit code 1
    ├── ChainUnreachable     exit code 3: no answer from the RPC endpoint
    │   └── ChainBehind      it answers, and is not so far yet
    ├── BadRpcUrl            exit code 2: the address of the chain is no URL
    ├── BadProxy             exit code 2: the environment names a proxy that cannot be used
    ├── WrongChain           exit code 2: an endpoint is of another chain than the others, or than is meant
    ├── BadRegistry          exit code 2: the Registry's address is none
    ├── NoRegistry           exit code 2: no Registry at the address
    ├── BlockAhead           exit code 2: events are to be read from a block that is not there yet
    ├── InsufficientBalance  not enough tokens, or not enough ether for gas
    ├── NotARecipient        exit code 2: nothing sent there would come back
    ├── NoFaucet             exit code 2: tokens are given away on a devnet alone
    ├── TransactionLost      not mined in time
    ├── FeeRefused           whatever it pays is called too low
    ├── WalletBusy           another program keeps sending from the wallet
    ├── NotDrawn             the block that seeds a batch's audits is not there yet
    ├── EventsMissing        the endpoint does not have the events that something follows from
    ├── ToolNotFound         anvil or forge is not installed
    ├── DevChainError        anvil does not start
    │   └── PortInUse
    └── Refused              the contract refuses; one subclass for each of its errors in `chain.refusals`
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from proofyard.chain.urls import shown, shown_all
from proofyard.protocol.amounts import format_amount
from proofyard.protocol.types import Address, ExitCode, ProofyardError
from proofyard.runtime.times import moment


class WalletError(ProofyardError):
    exit_code = 2


class UnknownWallet(WalletError):
    exit_code = ExitCode.UNKNOWN_WALLET

    def __init__(self, name: str, directory: Path, known: list[str]) -> None:
        self.name, self.directory, self.known = name, directory, known
        listed = (
            f"known are {', '.join(known)}" if known else "there are none yet; make one with `proofyard wallet new`"
        )
        super().__init__(f"no wallet {name!r} in {directory}: {listed}")


class WalletExists(WalletError):
    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"there is a wallet at {path} already; choose another name")


class WrongPassword(WalletError):
    exit_code = ExitCode.WRONG_PASSWORD

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"wrong password for the wallet {path}; try again, or name another --password-file")


class BadKey(WalletError):
    def __init__(self) -> None:
        super().__init__("that is no private key: the number is 0 or too large for one; export it again")


class BadPhrase(WalletError):
    """`reason` shows none of the words: they are a secret."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"that is no seed phrase: {reason}; copy it again from where it was written down")


class UnsafeKeystore(WalletError):
    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"the wallet {path} is not used: {reason}")


class FalseAddress(UnsafeKeystore):
    """A keystore says that it is of one account, and holds the key of another."""

    def __init__(self, path: Path, said: str, found: str) -> None:
        self.said, self.found = said, found
        super().__init__(
            path,
            f"it says that it is of {said!r} and holds the key of {found}; somebody changed it, or it was mixed up: "
            "restore it from a backup",
        )


class PasswordUnreadable(WalletError):
    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"the password file {path} cannot be read ({reason}); name another one")


class ChainError(ProofyardError):
    """Base of everything that goes wrong with the chain."""


class ChainUnreachable(ChainError):
    exit_code = 3

    def __init__(self, rpc_url: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"no answer from the chain at {shown_all(rpc_url)} ({reason}); check the address and that it is running"
        )


class ChainBehind(ChainUnreachable):
    """The endpoint does not have blocks that it, or another one, had before."""


class BadRpcUrl(ChainError):
    exit_code = 2

    """`what`: as much of it as may be shown."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"rpc_url: {what} is no address of a chain; write it like http://127.0.0.1:8545, several with commas"
        )


class BadProxy(ChainError):
    exit_code = 2

    def __init__(self, url: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the proxy that is set for {shown(url)} cannot be used ({reason}); correct HTTP_PROXY, HTTPS_PROXY or "
            "ALL_PROXY, or name the host in NO_PROXY"
        )


class WrongChain(ChainError):
    exit_code = 2

    def __init__(self, where: str, found: int, expected: int) -> None:
        self.found, self.expected = found, expected
        super().__init__(
            f"rpc_url: {where} is chain {found}, and chain {expected} is meant; name endpoints of one chain, or "
            "correct chain_id"
        )


class AnotherChain(ChainError):
    """What was read of a chain before is not of the one that its endpoint shows now."""

    exit_code = 2

    def __init__(self, rpc_url: str) -> None:
        super().__init__(
            f"rpc_url: what {shown_all(rpc_url)} shows begins with another block than the chain that was read so far; "
            "name an endpoint of that chain, or begin with an empty data_dir"
        )


class NoRegistry(ChainError):
    exit_code = 2

    def __init__(self, registry: str, rpc_url: str) -> None:
        self.registry = registry
        super().__init__(
            f"there is no Registry at {registry!r} on the chain at {shown_all(rpc_url)}; check both addresses"
        )


class BadRegistry(ChainError):
    """`reason`: what is wrong with the Registry's address, as it is written."""

    exit_code = 2

    def __init__(self, reason: str) -> None:
        super().__init__(f"registry: {reason}; correct it")


class BlockAhead(ChainError):
    exit_code = 2

    def __init__(self, first_block: int, last_block: int) -> None:
        self.first_block, self.last_block = first_block, last_block
        super().__init__(
            f"from_block: the chain ends with block {last_block}, nothing is to be read from {first_block} on; give "
            "the block that the Registry is in, or 0"
        )


class InsufficientBalance(ChainError):
    """`have` and `need` in base units of `currency`."""

    exit_code = ExitCode.BALANCE_TOO_SMALL

    def __init__(self, account: Address, have: int, need: int, currency: str) -> None:
        self.account, self.have, self.need, self.currency = account, have, need, currency
        super().__init__(
            f"{account} has {format_amount(have, currency)} and needs {format_amount(need, currency)}; "
            "send it the difference first"
        )


class NoWallet(ChainError):
    exit_code = 2

    def __init__(self) -> None:
        super().__init__("this needs a wallet to sign with; name one with --wallet")


class NotARecipient(ChainError):
    exit_code = 2

    def __init__(self, to: Address, reason: str) -> None:
        self.to = to
        super().__init__(f"nothing is sent to {to}: {reason}; give the address of a wallet")


class NoFaucet(ChainError):
    """Tokens are given away on a devnet alone."""

    exit_code = 2

    def __init__(self, chain_id: int) -> None:
        self.chain_id = chain_id
        super().__init__(
            f"chain {chain_id} has no faucet: only that of a `proofyard devnet` has one; have tokens and ether sent to "
            "the wallet's address"
        )


class TransactionLost(ChainError):
    def __init__(self, what: str, seconds: float, hashes: list[str]) -> None:
        self.what, self.hashes = what, hashes
        super().__init__(
            f"{what} was not mined in {seconds:.0f} s (sent as {', '.join(hashes)}); it may still be; "
            "look at its effect before trying again"
        )


class FeeRefused(ChainError):
    def __init__(self, what: str, rpc_url: str, times: float) -> None:
        self.what = what
        super().__init__(
            f"{what} was not sent: {shown_all(rpc_url)} suggests a fee, and calls {times:.0f} times as much too low; "
            "try again later, or name another rpc_url"
        )


class WalletBusy(ChainError):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__(
            f"another program has been sending with this wallet for {seconds:.0f} s ({path} is locked); wait for it, "
            "or end it"
        )


class NotDrawn(ChainError):
    def __init__(self, batch: int, draw_block: int) -> None:
        self.batch, self.draw_block = batch, draw_block
        super().__init__(f"batch {batch} is drawn from block {draw_block}, which is not there yet; wait for it")


class EventsMissing(ChainError):
    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"the events of {what} are not among those that were read; read from the Registry's first block, with an "
            "endpoint that keeps them all"
        )


class ToolNotFound(ChainError):
    exit_code = ExitCode.TOOL_MISSING

    def __init__(self, tool: str, package: str) -> None:
        self.tool = tool
        super().__init__(
            f"{tool} is neither on the PATH nor in node_modules ({package}); run `make setup`, or install Foundry"
        )


class DevChainError(ChainError):
    exit_code = 3


class PortInUse(DevChainError):
    exit_code = ExitCode.PORT_IN_USE

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(
            f"port {port} is in use by another program; stop it, or choose another port (0 takes a free one)"
        )


class _Amount(int):
    """Base units or a Unix time; `{stake:CREDIT}` and `{until:moment}` in a sentence show them so."""

    def __format__(self, unit: str) -> str:
        if unit == "moment":
            return moment(self)
        return format_amount(self, unit) if unit.isupper() else super().__format__(unit)


class Refused(ChainError):
    """The contract refuses, with the error `name` and its `operands` as declared there."""

    sentence: ClassVar[str] = ""

    def __init__(self, name: str, operands: Mapping[str, Any]) -> None:
        self.name, self.operands = name, dict(operands)
        text = (
            self.sentence.format(
                **{name: _Amount(value) if type(value) is int else value for name, value in operands.items()}
            )
            if self.sentence
            else f"the contract refuses: {name} {self.operands}"
        )
        super().__init__(text)
