"""`make demo`: fine-tune a real model on a network of processes on this machine; checked, slashed, paid.

Starts anvil, the contracts, a verifier, four honest nodes and one that skips half of its work, submits a job as any
requester would, and ends with a table, `summary.json` and `report.html`. Exits with 1 where a claim of the demo
does not hold.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from demo_outcome import Evaluation, Outcome
from demo_patience import Patience
from proofyard.cli import guard
from proofyard.cli.output import note
from proofyard.devnet import DevNetwork, Interrupts, Plan, terminated_like_interrupted
from proofyard.devnet.memory import PeakMemory
from proofyard.devnet.report import render_page
from proofyard.protocol.manifest import MAX_MANIFEST_BYTES, decode_manifest
from proofyard.protocol.messages import LogLine
from proofyard.protocol.types import ProofyardError, Wei
from proofyard.runtime.fitting import width_of
from proofyard.runtime.times import span
from proofyard.sdk import (
    Client,
    JobHandle,
    LoraJob,
    SettledBatch,
    claim_all,
    credits,
    settled_batches,
    submit_job,
    unclaimed,
)
from proofyard.sdk.following import Look
from proofyard.sdk.live import JobView
from proofyard.sdk.results import manifest_of
from proofyard.workloads.corpus import write_bible_corpus
from proofyard.workloads.tiny import write_tiny_corpus, write_tiny_model
from proofyard.workloads.workload import load_workload

SCRIPTS = Path(__file__).resolve().parent
REWARD, AUDIT_FEE = credits(100), credits(100)
"""Of a reward that is large beside the nodes' stake, more segments are drawn than four auditors can look at."""
PATIENCE_S = 900.0
"""The network is ended once its job has not come further for so long."""
EVALUATION_TIMEOUT_S = 900.0


class DemoFailed(ProofyardError):
    """A step of the demo could not be done, or one of its claims does not hold."""


@dataclass(frozen=True)
class Scenario:
    """What is trained. `prompt` is what the model continues before and after; `sequences` of held-out text, each as
    long as `tokens`, are what its loss is measured on."""

    name: str
    job: LoraJob
    prompt: str
    sequences: int
    tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="the same seed gives the same adapter")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where everything goes")
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        default=PATIENCE_S,
        help="end the network after so long without progress; while the job comes further it may take any time",
    )
    parser.add_argument("--tiny", action="store_true", help="a small random model instead of SmolLM2-135M")
    args = parser.parse_args()
    with terminated_like_interrupted() as interrupts:
        run(args.out, args.seed, interrupts, tiny=args.tiny, patience=args.patience)


def run(out: Path, seed: int, interrupts: Interrupts, *, tiny: bool, patience: float) -> None:
    """The whole demo. Raises `DemoFailed` for a claim that does not hold, once everything has been written."""
    start = time.time()
    prepare(out)
    scenario = tiny_scenario(out, seed) if tiny else bible_scenario(out, seed)
    note(f"fine-tuning {scenario.name} on 4 honest nodes, 1 cheat and 1 verifier; logs in {out / 'network' / 'logs'}")
    plan = Plan(nodes=4, adversaries=("skip-half",), model_dirs=(Path(scenario.job.model),))
    with PeakMemory() as memory:
        with evaluation(scenario, None) as before, DevNetwork(out / "network", plan, note, interrupts) as network:
            note(f"the network is up after {time.time() - start:.0f} s")
            outcome = fine_tune(network, scenario, out, start, before, Patience(patience, note))
        outcome = replace(outcome, seconds=time.time() - start, peak_rss_bytes=memory.peak_bytes)
    (out / "summary.json").write_text(json.dumps(outcome.summary(), indent=2) + "\n")
    (out / "report.html").write_text(render_page(outcome.report()), encoding="utf-8")
    outcome.print(Console(width=width_of(sys.stdout) or 110))
    note(f"report: {out / 'report.html'}, for programs: {out / 'summary.json'}")
    if broken := outcome.broken_claims():
        raise DemoFailed("; ".join(broken) + f"; the logs are in {out / 'network' / 'logs'}")


def fine_tune(
    network: DevNetwork,
    scenario: Scenario,
    out: Path,
    start: float,
    before: Callable[[], Evaluation],
    patience: Patience,
) -> Outcome:
    """Submit the job as a requester, follow it, fetch the result, claim everybody's pay, and look at the books."""
    holdings, block = network.statement(), network.chain().block_number()
    log: list[LogLine] = []
    with (
        Client(network.rpc_url, network.deployment.registry, network.requester.key) as client,
        JobView({node.key.address: node.name for node in network.nodes}, title=f"fine-tuning {scenario.name}") as view,
    ):
        job = submit_job(scenario.job, reward=REWARD, audit_fee=AUDIT_FEE, client=client)
        for look in client.follow(job.job_id):
            log += look.fresh
            view.show(look)
            if patience.is_over(look):
                raise DemoFailed(_stuck(look, patience, out))
        report = job.wait()
        assert report.result is not None, "a job that is done has a result"
        gas = network.gas_of_batches(block)
        adapter = job.result(out / "adapter")
        with evaluation(scenario, adapter) as after:
            batches = settled_batches(client, job.job_id)
            settle_up(client, job, batches)
            evaluated = before(), after()
        manifest = decode_manifest(client.read(manifest_of(client.chain, job.job_id), MAX_MANIFEST_BYTES))
        books, left = network.books(), client.chain.job(job.job_id)
        return Outcome(
            model=scenario.name,
            prompt=scenario.prompt,
            started=datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M UTC"),
            seconds=0.0,
            peak_rss_bytes=0,
            manifest=manifest,
            tasks={task.index: task for task in load_workload(manifest.workload).graph(manifest)},
            log=log,
            batches=batches,
            slashes=network.slashes([batch.event.batch for batch in batches]),
            members=list(network.members.values()),
            registry=network.deployment.registry,
            treasury=network.treasury.address,
            supply=books.supply,
            refundable=Wei(left.escrow + left.surplus),
            evaluated=evaluated,
            before=holdings,
            after=network.statement(),
            conserved=books.conserved,
            gas=gas,
            adapter_cid=report.result,
            adapter_dir=str(adapter),
            sent=job.sent_bytes(),
        )


def _stuck(look: Look, patience: Patience, out: Path) -> str:
    report = look.report
    return (
        f"the job has not come further for {span(patience.seconds)}, with {report.tasks_valid} of {report.tasks} tasks "
        f"accepted ({report.reason or report.state}), so the network is ended; see why in {out / 'network' / 'logs'}, "
        f"try --tiny, or give it longer with --patience {2 * patience.seconds:.0f}"
    )


def settle_up(client: Client, job: JobHandle, batches: Sequence[SettledBatch]) -> None:
    """Wait until the last challenge window has closed, then claim for everybody, pay the verifiers and refund the rest.

    What the batches had left over stays with the Registry until nothing can be disputed any more.
    """
    last = max(batch.event.claimable_at for batch in batches)
    note(f"claiming for everybody in {max(0, last - client.chain.now())} s, when the challenge windows have closed")
    while client.chain.now() < last:
        time.sleep(0.5)
    claim_all(client, unclaimed(client, batches))
    for batch in batches:
        if client.chain.batch(batch.event.batch).unfinal:
            client.chain.finalize(batch.event.batch)
    job.close()


def prepare(out: Path) -> None:
    """Remove what an earlier run left; the network's own directory looks after itself."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "adapter", ignore_errors=True)
    for name in ("summary.json", "report.html"):
        (out / name).unlink(missing_ok=True)


def bible_scenario(out: Path, seed: int) -> Scenario:
    """SmolLM2-135M-Instruct learns to write like the King James Bible, each worker from books of its own."""
    model = SCRIPTS.parent / ".cache" / "models" / "smollm2-135m-instruct"
    command = [sys.executable, str(SCRIPTS / "prepare_model.py"), "--cache", str(SCRIPTS.parent / ".cache")]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        raise DemoFailed("the model could not be prepared (see above)")
    job = LoraJob(
        model=model,
        data=write_bible_corpus(out / "inputs" / "kjv.jsonl"),
        lr=6e-3,
        aggregation="fedit",
        rounds=5,
        workers=4,
        segments=3,
        segment_steps=2,
        batch=2,
        seq_len=64,
        look_ahead=4,
        seed=seed,
    )
    return Scenario("SmolLM2-135M-Instruct", job, "Once upon a time there was a farmer who", 16, 128)


def tiny_scenario(out: Path, seed: int) -> Scenario:
    """A random model of two layers learns a pattern: the same network and protocol, in seconds."""
    inputs = out / "inputs"
    model = write_tiny_model(inputs / "model")
    job = LoraJob(
        model=model,
        data=write_tiny_corpus(inputs / "text.jsonl"),
        lr=1e-2,
        rounds=5,
        workers=4,
        segments=3,
        segment_steps=2,
        look_ahead=4,
        batch=4,
        seq_len=32,
        seed=seed,
        options={"holdout_percent": 10},
    )
    return Scenario("A tiny random model", job, "a1 a2 a3", 8, 32)


@contextmanager
def evaluation(scenario: Scenario, adapter: Path | None) -> Iterator[Callable[[], Evaluation]]:
    """Evaluate in a process of its own, side by side with the rest; the yielded function waits for what came out."""
    options = {
        "--model": scenario.job.model,
        "--data": scenario.job.data,
        "--seq-len": scenario.tokens,
        "--holdout-percent": scenario.job.options.get("holdout_percent", 2),
        "--sequences": scenario.sequences,
        "--prompt": scenario.prompt,
    } | ({"--adapter": adapter} if adapter else {})
    command = [sys.executable, str(SCRIPTS / "evaluate.py"), *(str(part) for pair in options.items() for part in pair)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:

        def result() -> Evaluation:
            try:
                output, errors = process.communicate(timeout=EVALUATION_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise DemoFailed(
                    f"the evaluation takes more than {span(EVALUATION_TIMEOUT_S)}; try --tiny, or a machine that "
                    "computes nothing else meanwhile"
                ) from None
            if process.returncode != 0:
                raise DemoFailed(f"the evaluation failed: {errors.strip().splitlines()[-1:] or 'no output'}")
            return Evaluation(**json.loads(output))

        try:
            yield result
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(guard(main))
