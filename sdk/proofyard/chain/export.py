"""A deployment for programs in other languages: its addresses and the contracts' ABIs, as JSON files in a folder."""

import json
from pathlib import Path
from typing import Any

from proofyard.chain.abi import contract
from proofyard.chain.client import ChainClient

DEPLOYMENT = "deployment.json"
CONTRACTS = ("Registry", "Court", "Credit")
"""Those that have an address. `Credit` stands for whatever ERC-20 token with permit the Registry names."""


def deployment_of(chain: ChainClient) -> dict[str, Any]:
    """Where a network is: the chain, the block that the Registry's events begin at, and its contracts."""
    return {
        "chainId": chain.chain_id,
        "block": chain.first_block,
        "registry": chain.registry,
        "court": chain.court,
        "token": chain.token,
    }


def write_deployment(folder: Path, chain: ChainClient) -> dict[str, Any]:
    """Write `deployment.json`, and `NAME.json` with the ABI of each contract. Returns what the first one says."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = deployment_of(chain)
    for name in CONTRACTS:
        _write(folder / f"{name}.json", contract(name).abi)
    _write(folder / DEPLOYMENT, facts)
    return facts


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
