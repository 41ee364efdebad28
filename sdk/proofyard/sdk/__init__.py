"""Submit work to the network and get checked results.

from proofyard.sdk import LoraJob, credits, submit_job

handle = submit_job(LoraJob(model="model/", data="text.jsonl"), reward=credits(100), audit_fee=credits(10))
handle.wait()
adapter = handle.result("adapter/")

What is submitted is not encrypted: whoever has an artifact's CID can read it, and the manifest names the inputs' CIDs.
"""

from proofyard.protocol.fees import propose_verifier_fee
from proofyard.sdk.artifacts import Artifacts, Kept, PeerAddress, Swarm, Verified
from proofyard.sdk.claims import Due, SettledBatch, claim_all, settled_batches, unclaimed
from proofyard.sdk.client import Client, JobHandle, Prepared, credits, submit_job
from proofyard.sdk.errors import (
    BadAmount,
    BadPeer,
    ClientClosed,
    DestinationTaken,
    JobFailed,
    JobNotPublished,
    JobRefused,
    JobTimeout,
    NotFinished,
    NoVerifier,
    RecordMismatch,
    ResultIncomplete,
    ResultUnproven,
    SdkError,
    SubmitUncertain,
)
from proofyard.sdk.jobs import JOBS, EmbedJob, EvaluateJob, MapJob, SweepJob, make_job
from proofyard.sdk.results import Proven
from proofyard.sdk.specs import JobSpec, LoraJob
from proofyard.sdk.terms import Offer

__all__ = [
    "JOBS",
    "Artifacts",
    "BadAmount",
    "BadPeer",
    "Client",
    "ClientClosed",
    "DestinationTaken",
    "Due",
    "EmbedJob",
    "EvaluateJob",
    "JobFailed",
    "JobHandle",
    "JobNotPublished",
    "JobRefused",
    "JobSpec",
    "JobTimeout",
    "Kept",
    "LoraJob",
    "MapJob",
    "NoVerifier",
    "NotFinished",
    "Offer",
    "PeerAddress",
    "Prepared",
    "Proven",
    "RecordMismatch",
    "ResultIncomplete",
    "ResultUnproven",
    "SdkError",
    "SettledBatch",
    "SubmitUncertain",
    "Swarm",
    "SweepJob",
    "Verified",
    "claim_all",
    "credits",
    "make_job",
    "propose_verifier_fee",
    "settled_batches",
    "submit_job",
    "unclaimed",
]
