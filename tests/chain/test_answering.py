"""A verifier whose receipt is challenged shows the batch that honours it, and has nothing to show for a dropped one."""

import asyncio
from pathlib import Path
from typing import Any

from world import CREDIT, UNITS, World, states

from proofyard.chain import ChallengeId, CourtParams, Params, Phase, Wallet
from proofyard.cli import main
from proofyard.node.receipts import KeptReceipt, write_receipt
from proofyard.protocol.commitment import receipt_struct_hash
from proofyard.protocol.members import Member, encode_members
from proofyard.verifier.context import Context
from proofyard.verifier.disputes import answer_receipt
from proofyard.verifier.engine.rows import Batch, BatchState
from proofyard.verifier.engine.world import Step
from proofyard.verifier.store.database import Database


async def test_a_challenged_receipt_is_answered_with_its_batch_and_a_dropped_one_is_not(deploy, tmp_path) -> None:
    network = deploy(Params(exposure_bps=40_000, challenge_window=900, court=CourtParams(answer_time=900)))
    world = World.build(network, verifiers=1, nodes=3)
    chain, key = world.chain, world.verifiers[0]
    job = world.open_job(network.owner(1300), tasks=3)
    commitments = world.commitments(job)
    ref = world.commit(job, commitments[:2])
    deadline = chain.now() + 30
    network.anvil.warp(40)
    outsider = network.owner(100).wallet
    challenges = []
    for commitment in commitments[1:]:
        leaf = commitment.struct_hash()
        signature = key.sign_digest(chain.domain.typed_digest(receipt_struct_hash(leaf, job, deadline)))
        facts = KeptReceipt(key.address, job, commitment.task, leaf, deadline, signature)
        kept = write_receipt(tmp_path / "receipts", facts)
        challenges.append(await asyncio.to_thread(open_challenge, network, outsider, kept, tmp_path))

    context = verifiers_context(world, tmp_path)
    members = encode_members([Member(c, world.sign(c), tuple(states(c.task))) for c in commitments[:2]])
    batch = Batch(id=1, root=chain.header(ref.batch).root, members=members, lines=((job, 2 * UNITS),))
    batch.state, batch.chain_id = BatchState.COMMITTED, ref.batch
    await context.database.write(Step((batch,), (), ()))
    for challenge in challenges:
        await answer_receipt(context, chain.challenge(challenge))
    assert [chain.challenge(challenge).phase for challenge in challenges] == [Phase.REJECTED, Phase.ANSWER]
    assert world.stake(world.verifier_owners[0]) > 1000 * CREDIT
    context.database.close()


def open_challenge(network: Any, wallet: Wallet, receipt: Path, folder: Path) -> ChallengeId:
    """Challenge a receipt with the command line."""
    keystore, password = folder / f"{receipt.stem}.json", folder / "password"
    password.write_text("pw\n")
    wallet.save(keystore, "pw", scrypt_rounds=2)
    place = ["--rpc-url", network.anvil.rpc_url, "--registry", network.deployment.registry]
    signer = ["--wallet", str(keystore), "--password-file", str(password)]
    assert main(["verifier", "dispute", "open", "--receipt", str(receipt), *place, *signer]) == 0
    return ChallengeId(network.deployer.challenge_count())


def verifiers_context(world: World, folder: Path) -> Context:
    key = world.verifiers[0]
    client, database = world.network.client(key), Database(f"sqlite:///{folder / 'verifier.db'}")
    unused: Any = None
    return Context(unused, key, client.domain, client, database, unused, unused)
