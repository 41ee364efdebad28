"""What a chain of one's own leaves behind."""

from pathlib import Path

import pytest
from web3.exceptions import Web3RPCError

from proofyard.chain import Anvil, Params, deploy_network
from proofyard.chain.binding import Binding


def test_anvil_writes_nothing_and_forgets_old_states_as_a_node_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with Anvil() as anvil:
        deployment = deploy_network(anvil.rpc_url, anvil.wallet(0), Params())
        anvil.mine(1200)
        chain = Binding(anvil.rpc_url, deployment.registry)
        head = chain.block_number()
        assert chain._read("seats", block=head - 300) == 0
        with pytest.raises(Web3RPCError, match="BlockOutOfRange"):
            chain._w3.eth.get_code(chain.registry, deployment.block)  # type: ignore[arg-type]
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
