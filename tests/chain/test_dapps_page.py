"""docs/dapps.md is true: every block of code in it is run against a real deployment."""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from world import CREDIT, UNITS, Network, World

from proofyard.chain import claim_of
from proofyard.chain.export import CONTRACTS, write_deployment
from proofyard.chain.foundry import find_tool
from proofyard.cli.claim import proofs_of
from proofyard.protocol.types import Address, BatchId, JobId
from proofyard.protocol.workload_bits import WORKLOADS, workload_bits
from proofyard.sdk import Due

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dapps.md").read_text(encoding="utf-8")
TOOLS = Path(__file__).parent / "dapps"
REGISTERED = "node.example.org:4433"
LIE = 1
"""The claim that somebody has changed."""
SPELT: dict[str, Callable[[int], str]] = {
    "viem": "{}".format,
    "ethers": "{}.0".format,
    "cast": "{}.000000000000000000".format,
}
"""How each writes an amount of whole tokens."""


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder where viem, ethers and cast are installed, of the versions that its package.json says."""
    lock = TOOLS / "package-lock.json"
    installed = TOOLS / "node_modules" / ".package-lock.json"
    with (TOOLS / "package.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            subprocess.run(["npm", "install", "--no-save", "--silent", "--no-progress"], cwd=TOOLS, check=True)
            installed.touch()
    return TOOLS


@dataclass
class Scene:
    """A job whose only batch is settled, and can be claimed."""

    network: Network
    world: World
    job: JobId
    batch: BatchId
    claims: list[dict[str, str]]


@pytest.fixture
def scene(network: Network) -> Scene:
    world = World.build(network, verifiers=1, nodes=3)
    requester = network.owner(2000)
    job = world.open_job(requester, tasks=4)
    ref = world.commit(job, world.commitments(job))
    settlement = world.settlement(job)
    world.settle(ref, settlement, [0])
    at = world.chain.batch(ref.batch).claimable_at
    dues = [
        Due(claim_of(ref.batch, settlement.payouts, index), node.address, owner.wallet.address, at)  # type: ignore[union-attr]
        for index, (node, owner) in enumerate(zip(world.nodes, world.owners, strict=True))
    ]
    network.anvil.warp(world.chain.params().challenge_window)
    return Scene(network, world, job, ref.batch, proofs_of(world.chain, dues))


def blocks(section: str) -> tuple[str, str]:
    """The language of a section's blocks of code, and all of them, one after the other."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (language,) = {language for language, _ in found}
    return language, "\n".join(code for _, code in found)


def run(section: str, scene: Scene, tools: Path, folder: Path) -> tuple[list[str], Address, Address]:
    """The lines that a section's code prints, and the owner and hot key of the node that it registers."""
    owner, hot = scene.network.owner(500).wallet, scene.network.key()
    assert owner is not None
    write_deployment(folder / "contracts", scene.world.chain)
    (folder / "claims.json").write_text(json.dumps(scene.claims))
    language, code = blocks(section)
    script = tools / f"{section}-{os.getpid()}.mjs" if language == "js" else folder / "cast.sh"
    script.write_text(code if language == "js" else f"set -euo pipefail\n{code}", encoding="utf-8")
    command = ["node", str(script)] if language == "js" else ["bash", str(script)]
    variables = {
        "PATH": f"{find_tool('cast').parent if language == 'sh' else ''}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RPC_URL": scene.network.anvil.rpc_url,
        "CONTRACTS": str(folder / "contracts"),
        "OWNER_KEY": "0x" + bytes(owner.account.key).hex(),
        "NODE_KEY": "0x" + bytes(hot.account.key).hex(),
        "JOB": str(scene.job),
        "NODE": scene.world.nodes[1].address,
        "CLAIMS": str(folder / "claims.json"),
    }
    try:
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)
    finally:
        if language == "js":
            script.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), owner.address, hot.address


@pytest.mark.parametrize("section", ["viem", "ethers", "cast"])
def test_every_block_of_a_section_does_what_the_page_says(
    section: str, scene: Scene, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tools)  # where npm put cast
    chain, world = scene.world.chain, scene.world
    job, node = chain.job(scene.job), chain.operator(world.ids[1])
    scene.claims[LIE]["amount"] = str(101 * CREDIT)
    printed, owner, hot = run(section, scene, tools, tmp_path)
    registered = chain.operator_of(hot)
    assert registered is not None
    made = chain.operator(registered)
    assert (made.owner, made.endpoint, made.active) == (owner, REGISTERED, True)
    assert made.workloads == workload_bits(["lora", "map"])
    tokens = SPELT[section]
    facts = [
        f"job {scene.job} of {job.requester}: {3 * UNITS} of {4 * UNITS} units are paid",
        f"reward {tokens(1200)}, escrow {tokens(job.escrow // CREDIT)}, closed false",
        f"operator {node.id} of {node.owner}: listed true, 0 audits passed",
        f"at 127.0.0.1:4001, with {tokens(100)} at stake",
        f"registered operator {registered} of {owner} for workloads 17",
    ]
    fewer = [
        f"job {scene.job} of {job.requester}",
        f"reward {tokens(1200)}",
        f'operator {node.id} of {node.owner} at "127.0.0.1:4001"',
        f"registered operator {registered} of {owner}",
    ]
    claims = [
        f"payout {index} of batch {scene.batch}: {tokens(100 + (index == LIE))} for {each['owner']}, "
        + ("false" if index == LIE else "true")
        for index, each in enumerate(scene.claims)
    ]
    assert printed == [*(fewer if section == "cast" else facts), *claims, "claimed 2"]
    assert [chain.is_claimed(scene.batch, index) for index in range(3)] == [True, False, True]


def test_the_page_names_the_versions_that_it_is_run_with_and_the_files_there_are(
    network: Network, tmp_path: Path
) -> None:
    pinned = json.loads((TOOLS / "package.json").read_text())["devDependencies"]
    for name, version in pinned.items():
        assert f"{name.rpartition('/')[2]} {version}" in PAGE
    facts = write_deployment(tmp_path / "new" / "folder", network.deployer)
    assert facts == {
        "chainId": network.deployment.chain_id,
        "block": facts["block"],
        "registry": network.deployment.registry,
        "court": network.deployment.court,
        "token": network.deployment.credit,
    }
    assert 0 <= facts["block"] <= network.deployment.block
    written = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert written == sorted(["deployment.json", *(f"{name}.json" for name in CONTRACTS)])
    assert all(f"`{name}`" in PAGE for name in (*written, *facts))
    assert all(f"{name} {1 << bit}" in PAGE for bit, name in enumerate(WORKLOADS))
