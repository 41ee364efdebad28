"""Signing settlements together: a verifier shows its record to the others, who sign what they can follow.

The leader of a batch collects signatures of at least two thirds of the active verifiers. A co-signer fetches the
record, replays it (`protocol.replay`), compares it with the chain, and signs the digest that the Registry checks.
"""

import asyncio
import logging
from functools import partial

from proofyard.artifacts import fetch
from proofyard.chain import VerifierRecord
from proofyard.disputes.refusals import check_refusals
from proofyard.disputes.settled import compare_with_chain
from proofyard.protocol import bls
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES
from proofyard.protocol.messages import CoSign, CoSigned
from proofyard.protocol.record import MAX_RECORD_BYTES, BatchRecord, decode_record, settlement_of
from proofyard.protocol.replay import check_record
from proofyard.protocol.settlement import BatchRef, settlement_digest
from proofyard.protocol.types import Cid, Digest, ProofyardError
from proofyard.transport import Body, Connection, TransportError
from proofyard.verifier.context import Context

logger = logging.getLogger(__name__)

COSIGN_TIMEOUT_S = 60.0


class NoQuorum(ProofyardError):
    """Too few verifiers signed; the batch is tried again."""

    def __init__(self, batch: int, signed: int, active: int, reasons: list[str]) -> None:
        super().__init__(
            f"batch {batch}: {signed} of {active} verifiers signed, two thirds are needed ({'; '.join(reasons)})"
        )


async def digest_of(context: Context, record: BatchRecord, cid: Cid) -> Digest:
    """What every verifier signs for this record."""
    attempt = (await context.on_chain(lambda: context.chain.batch(record.batch))).attempt
    ref = BatchRef(record.batch, record.root, record.seed, attempt)
    return settlement_digest(context.domain, ref, settlement_of(record, cid))


async def collect(context: Context, record: BatchRecord, cid: Cid) -> tuple[int, bls.BlsSignature]:
    """Bitmap and aggregate signature of a quorum. Raises `NoQuorum` with every reason given."""
    digest = await digest_of(context, record, cid)
    verifiers = await context.on_chain(context.chain.active_verifiers)
    answers = await asyncio.gather(*(_signature(context, verifier, cid, digest) for verifier in verifiers))
    given = [(v, a) for v, a in zip(verifiers, answers, strict=True) if not isinstance(a, str)]
    if 3 * len(given) < 2 * len(verifiers) or not given:
        raise NoQuorum(record.batch, len(given), len(verifiers), [a for a in answers if isinstance(a, str)])
    return sum(1 << verifier.slot for verifier, _ in given), bls.aggregate([signature for _, signature in given])


async def _signature(context: Context, verifier: VerifierRecord, cid: Cid, digest: Digest) -> bls.BlsSignature | str:
    """One verifier's checked signature, or why there is none."""
    if verifier.node == context.wallet.address:
        return await asyncio.to_thread(bls.sign, context.wallet.bls_secret(), digest)
    host, _, port = verifier.endpoint.rpartition(":")
    try:
        connection = await context.endpoint.connect(host.strip("[]"), int(port or 0), expect=verifier.node)
        answer = await connection.request(CoSign(cid), reply=CoSigned, timeout=COSIGN_TIMEOUT_S)
    except (TransportError, ValueError) as error:
        return f"{verifier.node}: {error}"
    signature = bls.BlsSignature(answer.signature)
    if not await asyncio.to_thread(bls.verify, verifier.public_key, digest, signature):
        return f"{verifier.node} signed something else"
    return signature


class CoSigner:
    """Serves `CoSign` requests of other verifiers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.endpoint.on(CoSign, self.cosign)

    async def cosign(self, connection: Connection, message: CoSign, _body: Body) -> CoSigned:
        """Sign a record that holds and that the chain agrees with; raise `RecordInvalid` for any other."""
        store = self._context.store
        await fetch(store, message.record, [connection], max_bytes=MAX_RECORD_BYTES)
        record = decode_record(await asyncio.to_thread(store.get_bytes, message.record, max_bytes=MAX_RECORD_BYTES))
        if not self._context.settings.blind:
            await self._check(record, connection)
        digest = await digest_of(self._context, record, message.record)
        return CoSigned(await asyncio.to_thread(bls.sign, self._context.wallet.bls_secret(), digest))

    async def _check(self, record: BatchRecord, connection: Connection) -> None:
        """The whole record, against the chain and with the states and results that its leader says it refused."""

        async def read(cid: Cid, max_bytes: int) -> bytes:
            store = self._context.store
            await fetch(store, cid, [connection], max_bytes=max_bytes)
            return await asyncio.to_thread(store.get_bytes, cid, max_bytes=max_bytes)

        await self._context.on_chain(lambda: compare_with_chain(self._context.chain, record))
        await read(record.manifest, MAX_MANIFEST_BYTES)
        manifest = self._context.manifest(record.manifest)
        workload = self._context.workload(manifest)
        specs = workload.graph(manifest)
        await asyncio.to_thread(partial(check_record, record, specs, exact=workload.exact))
        await check_refusals(record, manifest, specs, read)
