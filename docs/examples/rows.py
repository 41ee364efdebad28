"""Clean rows that a generator yields: no file, no labels. Every kind of data that rows come from works like this."""

import sys
from collections.abc import Iterator

from proofyard.sdk import Client, MapJob, SettledEvent, credits


def rows() -> Iterator[dict[str, str]]:
    for number in range(200):
        yield {"text": f"  row {number} of some text, with spaces around it "}


with Client.from_env() as client:
    spec = MapJob(data=rows(), segment_rows=16, segments=2)
    job = client.submit(spec, reward=credits(5), audit_fee=credits(5))
    for event in job.progress(timeout=600):
        if isinstance(event, SettledEvent):
            print(f"{event.standing.fraction:.0%} after {event.standing.seconds:.0f} s: {event.text}")
    print("cleaned:", job.result(sys.argv[1]) / "data.jsonl")
