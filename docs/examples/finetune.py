"""Fine-tune a model, see it go, fetch the checked adapter."""

import sys

from proofyard.sdk import Client, LoraJob, Offer, credits

model, data, dest = sys.argv[1:4]

with Client.from_env() as client:
    spec = LoraJob(model=model, data=data, rounds=2, workers=2, seed=1)
    offer = Offer(reward=credits(50), audit_fee=credits(10))
    estimate = client.estimate(spec, offer)
    print(f"{estimate.tasks} tasks, at most {estimate.bytes_up} bytes to send; {estimate.basis}")
    job = client.submit(spec, reward=offer.reward, audit_fee=offer.audit_fee)
    job.watch(timeout=600)
    print(job.metrics().tail(4).to_string())
    print("adapter:", job.result(dest))
