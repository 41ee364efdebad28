"""What a verifier does once a batch is settled: it hands on its workers' states to whoever replays the batch."""

import asyncio
import logging

from proofyard.artifacts import ArtifactError
from proofyard.protocol.messages import Ack, ObtainState
from proofyard.protocol.record import MAX_RECORD_BYTES, decode_record
from proofyard.protocol.types import Address, Cid, ProofyardError
from proofyard.transport import Body, Connection
from proofyard.verifier.auditing import MAX_STATE_BYTES
from proofyard.verifier.context import Context

logger = logging.getLogger(__name__)


class StateDesk:
    """Serves `ObtainState`: jurors and challengers cannot dial a worker at home, its verifiers can reach it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.endpoint.on(ObtainState, self.obtain)

    async def obtain(self, connection: Connection, message: ObtainState, _body: Body) -> Ack:
        """Fetch a state that some record in this verifier's store names, so that it can be had from here."""
        try:
            holder, cid = await asyncio.to_thread(self._find, message)
            await self._context.obtain(cid, holder, max_bytes=MAX_STATE_BYTES)
        except ProofyardError as error:
            logger.info("%s asks for state %s of task %s: %s", connection.peer, message.number, message.task, error)
            return Ack(False, str(error)[:500])
        return Ack()

    def _find(self, message: ObtainState) -> tuple[Address, Cid]:
        """The worker and the CID of a state. Raises `ArtifactError` for a record that is not here."""
        record = decode_record(self._context.store.get_bytes(message.record, max_bytes=MAX_RECORD_BYTES))
        for task in record.tasks:
            if task.commitment.task == message.task and 0 <= message.number < len(task.trace):
                return task.commitment.node, task.trace[message.number]
        raise ArtifactError(f"the record {message.record} has no task {message.task} with a state {message.number}")
