"""Submit work to the network and get checked results.

from proofyard.sdk import LoraJob, credits, submit_job

handle = submit_job(LoraJob(model="model/", data="text.jsonl"), reward=credits(100), audit_fee=credits(10))
handle.wait()
adapter = handle.result("adapter/")
"""

from proofyard.sdk.claims import Due, SettledBatch, claim_all, settled_batches, unclaimed
from proofyard.sdk.client import Client, JobHandle, credits, submit_job
from proofyard.sdk.errors import JobFailed, JobRefused, JobTimeout, NotFinished, NoVerifier, RecordMismatch, SdkError
from proofyard.sdk.specs import JobSpec, LoraJob

__all__ = [
    "Client",
    "Due",
    "JobFailed",
    "JobHandle",
    "JobRefused",
    "JobSpec",
    "JobTimeout",
    "LoraJob",
    "NoVerifier",
    "NotFinished",
    "RecordMismatch",
    "SdkError",
    "SettledBatch",
    "claim_all",
    "credits",
    "settled_batches",
    "submit_job",
    "unclaimed",
]
