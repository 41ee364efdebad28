"""Search learning rates from an event loop, and come back to the job later by its number alone."""

import asyncio
import json
import sys
from pathlib import Path

from proofyard.sdk import AsyncClient, JobFailed, SweepJob, credits


async def submit(model: str, data: str) -> int:
    async with AsyncClient.from_env() as client:
        vary = {"lr": [0.001, 0.01]}
        spec = SweepJob(model=model, data=data, vary=vary, base={"seq_len": 32, "holdout_percent": 20})
        job = await client.submit(spec, reward=credits(40), audit_fee=credits(10))
        return job.job_id


async def fetch(number: int, dest: str) -> Path:
    async with AsyncClient.from_env() as client:
        job = client.job(number)
        try:
            await job.wait(timeout=600)
        except JobFailed as error:
            raise SystemExit(str(error)) from None
        (await job.plot()).savefig(f"{dest}.png")
        return await job.result(dest)


number = asyncio.run(submit(sys.argv[1], sys.argv[2]))
print("job", number)
ranking = json.loads((asyncio.run(fetch(number, sys.argv[3])) / "ranking.json").read_text())
print("best:", ranking[0]["params"], "loss", round(ranking[0]["loss"], 3))
