"""What is looked at: the settings that were found, and what follows from them once."""

import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from proofyard.chain import ChainClient, NodeRecord
from proofyard.chain.errors import ChainError
from proofyard.chain.wallet import Wallet, list_wallets
from proofyard.doctor.checking import Once, Skipped
from proofyard.protocol.types import Address

if TYPE_CHECKING:
    from proofyard.node.settings import NodeSettings
    from proofyard.verifier.settings import VerifierSettings


@dataclass(frozen=True)
class WalletUse:
    """A keystore and whose it is: `requester`, `node` or `verifier`."""

    role: str
    keystore: Path
    password_file: Path | None = None

    @cached_property
    def key(self) -> Once[Wallet]:
        """The unlocked wallet, where a file holds its password."""
        return Once(lambda: Wallet.unlock(self.keystore, password_file=self.password_file))

    @property
    def is_private(self) -> bool:
        return not stat.S_IMODE(self.keystore.stat().st_mode) & 0o077

    def address(self) -> Address:
        """The account, unlocked only where the file does not say it. Raises `Skipped`."""
        said = dict(list_wallets(self.keystore.parent)).get(self.keystore.name.removesuffix(".json"))
        if said is not None:
            return said
        try:
            return self.key().address
        except Exception:
            raise Skipped("the wallet's address is not known") from None


@dataclass(frozen=True)
class Setup:
    """Settings as far as there are any. `wrong`: what is wrong with those of a section, by its name. `registry` is ""
    where no network is set."""

    rpc_url: str
    registry: str = ""
    from_block: int = 0
    chain_id: int = 0
    wallets: tuple[WalletUse, ...] = ()
    node: "NodeSettings | None" = None
    verifier: "VerifierSettings | None" = None
    api: str = ""
    wrong: dict[str, str] = field(default_factory=dict)

    @cached_property
    def chain(self) -> Once[ChainClient]:
        return Once(self._connect)

    def _connect(self) -> ChainClient:
        if not self.registry:
            raise Skipped("no Registry is set")
        try:
            return ChainClient(
                self.rpc_url,
                Address(self.registry),
                chain_id=self.chain_id or None,
            )
        except ChainError:
            raise Skipped("the Registry cannot be read, see chain") from None

    def operator(self, use: WalletUse) -> NodeRecord | None:
        """Whom the Registry has with this hot key."""
        chain = self.chain()
        found = chain.operator_of(use.address())
        return None if found is None else chain.operator(found)
