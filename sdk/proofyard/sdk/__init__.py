"""Submit work to the network and get checked results.

from proofyard.sdk import LoraJob, credits, submit_job

handle = submit_job(LoraJob(model="model/", data="text.jsonl"), reward=credits(100), audit_fee=credits(10))
handle.wait()
adapter = handle.result("adapter/")

What is submitted is not encrypted: whoever has an artifact's CID can read it, and the manifest names the inputs' CIDs.

The names here are the SDK; the modules below are its inside. Each name is loaded when it is first used, so that
`import proofyard.sdk` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proofyard.protocol.fees import propose_verifier_fee
    from proofyard.sdk.ancestry import lineage, verify_lineage, verify_result
    from proofyard.sdk.artifacts import Artifacts, Kept, PeerAddress, Swarm, Verified
    from proofyard.sdk.bounds import Limits, Timeout
    from proofyard.sdk.claims import Due, SettledBatch, claim_all, settled_batches, unclaimed
    from proofyard.sdk.client import Client, submit_job
    from proofyard.sdk.continuing import ContinuedJob, go_on
    from proofyard.sdk.core import AsyncClient
    from proofyard.sdk.delivery import deliver
    from proofyard.sdk.errors import (
        BadAmount,
        BadPeer,
        BadSetting,
        ClientClosed,
        DestinationTaken,
        JobFailed,
        JobNotPublished,
        JobOver,
        JobRefused,
        JobTimeout,
        LibraryFailed,
        LineageFalse,
        MachineRefused,
        NotFinished,
        NotPushed,
        NoVerifier,
        PackageMissing,
        RecordMismatch,
        ResultIncomplete,
        ResultUnproven,
        SdkError,
        SubmitUncertain,
    )
    from proofyard.sdk.estimates import Estimate, Spread
    from proofyard.sdk.events import (
        AuditEvent,
        EndEvent,
        FaultEvent,
        JobEvent,
        SettledEvent,
        Standing,
        StepDone,
        TaskEvent,
    )
    from proofyard.sdk.handles import AsyncJobHandle, JobHandle
    from proofyard.sdk.jobs import JOBS, EmbedJob, EvaluateJob, MapJob, RowsJob, SweepJob, make_job
    from proofyard.sdk.money import credits
    from proofyard.sdk.peers import Quic, Transport
    from proofyard.sdk.preparing import Prepared
    from proofyard.sdk.races import Place, Ranking, race, ranking
    from proofyard.sdk.results import Proven
    from proofyard.sdk.specs import JobSpec, LoraJob
    from proofyard.sdk.terms import Offer

_PLACES = {
    "proofyard.protocol.fees": "propose_verifier_fee",
    "artifacts": "Artifacts Kept PeerAddress Swarm Verified",
    "ancestry": "lineage verify_lineage verify_result",
    "continuing": "ContinuedJob go_on",
    "claims": "Due SettledBatch claim_all settled_batches unclaimed",
    "bounds": "Limits Timeout",
    "client": "Client submit_job",
    "core": "AsyncClient",
    "delivery": "deliver",
    "errors": "BadAmount BadPeer BadSetting ClientClosed DestinationTaken JobFailed JobNotPublished JobOver JobRefused "
    "JobTimeout LibraryFailed LineageFalse MachineRefused NotFinished NotPushed NoVerifier PackageMissing "
    "RecordMismatch ResultIncomplete ResultUnproven SdkError SubmitUncertain",
    "estimates": "Estimate Spread",
    "events": "AuditEvent EndEvent FaultEvent JobEvent SettledEvent Standing StepDone TaskEvent",
    "handles": "AsyncJobHandle JobHandle",
    "jobs": "JOBS EmbedJob EvaluateJob MapJob RowsJob SweepJob make_job",
    "money": "credits",
    "peers": "Quic Transport",
    "preparing": "Prepared",
    "races": "Place Ranking race ranking",
    "results": "Proven",
    "specs": "JobSpec LoraJob",
    "terms": "Offer",
}
_WHERE = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = [
    "JOBS",
    "Artifacts",
    "AsyncClient",
    "AsyncJobHandle",
    "AuditEvent",
    "BadAmount",
    "BadPeer",
    "BadSetting",
    "Client",
    "ClientClosed",
    "ContinuedJob",
    "DestinationTaken",
    "Due",
    "EmbedJob",
    "EndEvent",
    "Estimate",
    "EvaluateJob",
    "FaultEvent",
    "JobEvent",
    "JobFailed",
    "JobHandle",
    "JobNotPublished",
    "JobOver",
    "JobRefused",
    "JobSpec",
    "JobTimeout",
    "Kept",
    "LibraryFailed",
    "Limits",
    "LineageFalse",
    "LoraJob",
    "MachineRefused",
    "MapJob",
    "NoVerifier",
    "NotFinished",
    "NotPushed",
    "Offer",
    "PackageMissing",
    "PeerAddress",
    "Place",
    "Prepared",
    "Proven",
    "Quic",
    "Ranking",
    "RecordMismatch",
    "ResultIncomplete",
    "ResultUnproven",
    "RowsJob",
    "SdkError",
    "SettledBatch",
    "SettledEvent",
    "Spread",
    "Standing",
    "StepDone",
    "SubmitUncertain",
    "Swarm",
    "SweepJob",
    "TaskEvent",
    "Timeout",
    "Transport",
    "Verified",
    "claim_all",
    "credits",
    "deliver",
    "go_on",
    "lineage",
    "make_job",
    "propose_verifier_fee",
    "race",
    "ranking",
    "settled_batches",
    "submit_job",
    "unclaimed",
    "verify_lineage",
    "verify_result",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _WHERE[name]
    found = globals()[name] = getattr(import_module(place if "." in place else f"{__name__}.{place}"), name)
    return found


def __dir__() -> list[str]:
    return __all__
