"""Answers in a workload that is not exact: which of them its own metric calls the same.

Workloads of third parties come here, and jobs whose data stays at home. The states behind the answers are fetched,
which an exact workload never needs, and whoever is outvoted loses pay and reputation, never stake.
"""

import asyncio
import logging
from collections.abc import Mapping

from proofyard.artifacts import ArtifactError
from proofyard.protocol.cid import DAG_PB, RAW, make_cid
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.types import Address, Digest
from proofyard.verifier.case import Case
from proofyard.verifier.context import Context
from proofyard.verifier.delivery import MAX_STATE_BYTES, owed
from proofyard.workloads.errors import WorkloadError
from proofyard.workloads.workload import InexactWorkload

logger = logging.getLogger(__name__)


async def counted_answers(
    context: Context,
    workload: InexactWorkload,
    case: Case,
    answers: Mapping[Address, Digest],
    earlier: Mapping[Digest, Address],
) -> dict[Address, Digest]:
    """What each auditor's answer counts as: the worker's or an earlier one that it agrees with, else itself.

    `earlier` are the answers of this segment that count as themselves, each with an auditor that gave it. An auditor
    that does not deliver its state is left out. Raises `NotDelivered` for the worker's.
    """
    known = {case.claimed, CANNOT_EXECUTE, *earlier}
    if known.issuperset(answers.values()):
        return dict(answers)
    before = await _owed(context, case, case.segment)
    states = {case.claimed: await _owed(context, case, case.segment + 1)}
    holders = [(answer, auditor) for answer, auditor in earlier.items() if answer not in states]
    counted = {}
    for answer, auditor in [*holders, *((answer, auditor) for auditor, answer in sorted(answers.items()))]:
        if answer not in states and answer != CANNOT_EXECUTE:
            state = await _state_of(context, answer, auditor)
            if state is None:
                continue
            alike = await asyncio.to_thread(_alike, workload, case, before, state, states)
            if alike is None or answer in earlier:
                states[answer] = state
            else:
                counted[auditor] = alike
                continue
        if auditor in answers:
            counted[auditor] = answer
    return counted


def _alike(
    workload: InexactWorkload, case: Case, before: bytes, state: bytes, states: Mapping[Digest, bytes]
) -> Digest | None:
    """The first of `states` that `state` agrees with."""
    for answer, other in states.items():
        try:
            for each in (state, other):
                workload.check_state(case.manifest, case.spec, case.segment + 1, each)
            if workload.agrees(case.manifest, case.spec, case.segment, before, other, state):
                return answer
        except WorkloadError as error:
            logger.info("an answer to %s cannot be compared: %s", case.name, error)
    return None


async def _owed(context: Context, case: Case, number: int) -> bytes:
    cid = case.trace[number]
    await owed(context, case.worker, cid, f"state {number}", patience_s=context.settings.state_due_s)
    return await asyncio.to_thread(context.store.get_bytes, cid, max_bytes=MAX_STATE_BYTES)


async def _state_of(context: Context, answer: Digest, auditor: Address) -> bytes | None:
    """The state behind an auditor's answer. A digest alone does not say whether it is that of a file in several blocks
    (dag-pb) or in one, so both are asked for."""
    for codec in (RAW, DAG_PB):
        try:
            return await context.obtain(make_cid(answer, codec), auditor, max_bytes=MAX_STATE_BYTES)
        except ArtifactError as error:
            logger.info("%s does not show its state: %s", auditor, error)
    return None
