"""What a demo run came to: the claims it makes, checked; the summary for programs; the table for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proofyard.chain import SlashRecord
from proofyard.devnet.members import Member
from proofyard.devnet.report import Audit, Balance, RunReport, Slash
from proofyard.devnet.report.history import answers_of, losses_of, marks_of, spans_of
from proofyard.protocol.manifest import Manifest, TaskSpec
from proofyard.protocol.messages import LogLine
from proofyard.protocol.record import AuditedSegment, claimed_answer
from proofyard.protocol.types import Address, Cid, Digest, TaskIndex, Wei
from proofyard.runtime.fitting import fitted
from proofyard.sdk import SettledBatch

LEAST_IMPROVEMENT = 0.05
WIDE = 80
"""Columns; less has no room for all of the table's."""


@dataclass(frozen=True)
class Evaluation:
    """Held-out loss in nats a token, and what the model writes."""

    loss: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that was measured. `before`, `after`: whose every token was, by owner. `slashes`: as the chain has
    them. `refundable`: what the requester gets back once nothing can be disputed any more. `gas`: of the commits and
    settlements of the job's batches. `sent`: bytes of the results of its last tasks. `seconds`: the whole run."""

    model: str
    prompt: str
    started: str
    seconds: float
    peak_rss_bytes: int
    manifest: Manifest
    tasks: Mapping[TaskIndex, TaskSpec]
    log: Sequence[LogLine]
    batches: Sequence[SettledBatch]
    slashes: Sequence[tuple[Member, SlashRecord]]
    members: Sequence[Member]
    registry: Address
    treasury: Address
    supply: Wei
    refundable: Wei
    gas: int
    evaluated: tuple[Evaluation, Evaluation]
    before: Mapping[Address, Wei]
    after: Mapping[Address, Wei]
    conserved: bool
    adapter_cid: Cid
    adapter_dir: str
    sent: Sequence[int]

    @property
    def nodes(self) -> list[Member]:
        return [member for member in self.members if member.role == "node"]

    @property
    def verifiers(self) -> list[Member]:
        return [member for member in self.members if member.role == "verifier"]

    @property
    def names(self) -> dict[Address, str]:
        return {address: m.name for m in self.members for address in (m.key.address, m.owner.address)}

    @property
    def result_bytes(self) -> int:
        return sum(self.sent) // len(self.sent)

    @property
    def gas_per_task(self) -> float:
        return self.gas / len(self.tasks)

    @property
    def verifiers_earned(self) -> Wei:
        """What the verifiers' owners have now beyond what they began with; it can be below nothing."""
        owners = [verifier.owner.address for verifier in self.verifiers]
        return Wei(sum(self.after[owner] - self.before[owner] for owner in owners))

    def broken_claims(self) -> list[str]:
        """What the demo promises and this run did not keep, each in one sentence."""
        first, last = (evaluation.loss for evaluation in self.evaluated)
        slashed = {member.name for member, _ in self.slashes}
        broken = []
        if last > (1 - LEAST_IMPROVEMENT) * first:
            broken.append(f"the held-out loss went from {first:.4f} to {last:.4f}, not down by 5%")
        for node in self.nodes:
            gained = self.after[node.owner.address] - self.before[node.owner.address]
            if node.adversary and node.name not in slashed:
                broken.append(f"{node.name} cheated ({node.adversary}) and was not slashed")
            if node.adversary and self._paid_for_faulty(node):
                broken.append(f"{node.name} cheated ({node.adversary}) and was paid for it")
            if not node.adversary and node.name in slashed:
                broken.append(f"{node.name} was honest and was slashed")
            if not node.adversary and gained <= 0:
                broken.append(f"{node.name} was honest and was not paid")
        for verifier in self.verifiers:
            if self.after[verifier.owner.address] <= self.before[verifier.owner.address]:
                broken.append(f"{verifier.name} settled and was not paid")
        if not self.conserved:
            broken.append("the token balances do not add up to the supply")
        return broken

    def _paid_for_faulty(self, node: Member) -> bool:
        """Whether a batch that found a node at fault pays it all the same."""
        key = node.key.address
        return any(
            key in {fault.node for fault in batch.record.faults} & {paid.node for paid in batch.record.payouts}
            for batch in self.batches
        )

    def summary(self) -> dict[str, Any]:
        """For programs; amounts in base units as strings, addresses are those of owners."""
        return {
            "loss_before": self.evaluated[0].loss,
            "loss_after": self.evaluated[1].loss,
            "seconds": round(self.seconds, 1),
            "peak_rss_bytes": self.peak_rss_bytes,
            "adapter_cid": self.adapter_cid,
            "adapter_dir": self.adapter_dir,
            "audits": [
                {
                    "batch": str(batch.event.batch),
                    "job": str(audit.job),
                    "task": audit.task,
                    "segment": audit.segment,
                    "worker": worker_of(batch, audit),
                    "claimed": answer_claimed(batch, audit).hex(),
                    "auditors": {vote.auditor: vote.after.hex() for vote in audit.votes},
                    "verdict": found(batch, audit),
                }
                for batch in self.batches
                for audit in batch.record.audits
            ],
            "slashed": self.slashed(),
            "balances": {
                owner: {"before": str(amount), "after": str(self.after[owner])} for owner, amount in self.before.items()
            },
            "refundable": str(self.refundable),
            "verifiers_earned": str(self.verifiers_earned),
            "batches": len(self.batches),
            "gas_per_task": round(self.gas_per_task),
            "result_bytes": self.result_bytes,
            "conserved": self.conserved,
        }

    def slashed(self) -> dict[Address, str]:
        """What each owner lost. A second fault is found in a batch of its own, and takes nothing where the first one
        has taken it."""
        owners = {member.owner.address for member, _ in self.slashes}
        return {
            owner: str(sum(slash.amount for member, slash in self.slashes if member.owner.address == owner))
            for owner in owners
        }

    def report(self) -> RunReport:
        names, opened = self.names, self.log[0].at
        return RunReport(
            title="Proofyard: one fine-tuning job, checked and paid",
            started=self.started,
            model=self.model,
            seed=self.manifest.seed,
            seconds=self.seconds,
            peak_rss_bytes=self.peak_rss_bytes,
            loss_before=self.evaluated[0].loss,
            loss_after=self.evaluated[1].loss,
            sample_prompt=self.prompt,
            sample_before=self.evaluated[0].text,
            sample_after=self.evaluated[1].text,
            adapter_cid=self.adapter_cid,
            adapter_dir=self.adapter_dir,
            conserved=self.conserved,
            supply=self.supply,
            verifiers_earned=self.verifiers_earned,
            batches=len(self.batches),
            gas_per_task=round(self.gas_per_task),
            result_bytes=self.result_bytes,
            refundable=self.refundable,
            nodes=tuple(member.name for member in self.nodes),
            losses=losses_of(self.log, self.tasks, names, since=opened),
            spans=spans_of(self.log, self.tasks, names, since=opened),
            marks=marks_of(self.log, since=opened),
            audits=self._audits(),
            balances=self._balances(),
            slashes=tuple(
                Slash(member.name, member.owner.address, slash.amount, self._fault_of(member))
                for member, slash in self.slashes
            ),
        )

    def _audits(self) -> tuple[Audit, ...]:
        return tuple(
            Audit(
                task=self.tasks[audit.task].label,
                segment=audit.segment,
                worker=self.names[worker_of(batch, audit)],
                answers=answers_of(audit, answer_claimed(batch, audit), self.names),
                verdict=found(batch, audit),
                reason=audit.reason,
            )
            for batch in self.batches
            for audit in batch.record.audits
        )

    def _balances(self) -> tuple[Balance, ...]:
        rows = [
            Balance(
                name=member.name,
                role=member.role,
                address=member.owner.address,
                before=self.before[member.owner.address],
                after=self.after[member.owner.address],
                note=member.adversary or "",
            )
            for member in self.members
        ]
        for name, role, address in (
            ("registry", "escrow, surplus, bonds, burned", self.registry),
            ("treasury", "deployer", self.treasury),
        ):
            rows.append(Balance(name, role, address, self.before[address], self.after[address], ""))
        return tuple(rows)

    def _fault_of(self, member: Member) -> str:
        return next(
            f"{self.tasks[fault.task].label}: {fault.reason}"
            for batch in self.batches
            for fault in batch.record.faults
            if fault.node == member.key.address
        )

    def print(self, console: Console) -> None:
        """The table that a run ends with."""
        run = self.report()
        console.print(_nodes_table(self, run, console.width))
        console.print(_audits_table(run, console.width))
        for slash in run.slashes:
            console.print(f"[bold red]slashed[/] {slash.node} lost {_credit(slash.amount)} CREDIT: {slash.reason}")
        change = 100 * (run.loss_after / run.loss_before - 1)
        earned = f"earned {_credit(run.verifiers_earned)} CREDIT with {run.batches} batches"
        for name, value in (
            ("held-out loss", f"{run.loss_before:.4f} -> {run.loss_after:.4f} ({change:+.1f}%)"),
            ("books", "every token accounted for" if run.conserved else "NOT CONSERVED"),
            ("verifiers", f"{earned}, {run.gas_per_task:,} gas a task"),
            ("refund", f"{_credit(run.refundable)} CREDIT go back to the requester once nothing can be disputed"),
            ("results", f"{run.result_bytes:,} bytes a task"),
            ("adapter", f"{run.adapter_dir}  {run.adapter_cid}"),
            ("took", f"{run.seconds:.0f} s, {run.peak_rss_bytes / 1e9:.1f} GB at the peak"),
            ("prompt", run.sample_prompt),
            ("before", run.sample_before.strip()),
            ("after", run.sample_after.strip()),
        ):
            lines = fitted(f"{name:<14} {' '.join(value.split())}", console.width)
            console.print(Text.assemble((lines[: len(name)], "bold"), lines[len(name) :]), soft_wrap=True)


def answer_claimed(batch: SettledBatch, audit: AuditedSegment) -> Digest:
    """The worker's own answer to an audited segment."""
    return claimed_answer(batch.record.by_key, audit)


def found(batch: SettledBatch, audit: AuditedSegment) -> str:
    """What an audit came to: what its auditors found of a decoy is no fault of anybody's."""
    return "decoy" if audit.task_key in batch.record.decoys else audit.verdict


def worker_of(batch: SettledBatch, audit: AuditedSegment) -> Address:
    """Who committed to the task of an audited segment."""
    return batch.record.by_key[audit.task_key].commitment.node


def _nodes_table(outcome: Outcome, run: RunReport, width: int) -> Table:
    table = Table(title="Who did what, and what it came to", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    columns = ("who", "tasks", "audits", "faults", "CREDIT before", "after", "change")
    left_out = ("tasks", "audits", "CREDIT before") if width < WIDE else ()
    for column in columns:
        if column not in left_out:
            table.add_column(column, justify="left" if column == "who" else "right")
    for row in run.balances:
        if row.address == outcome.treasury:
            continue
        own = [span for span in run.spans if span.node == row.name]
        faults = sum(span.outcome == "fault" for span in own)
        audits = sum(span.kind == "audit" and span.outcome == "ok" for span in own)
        tasks = sum(span.kind != "audit" and span.outcome == "ok" for span in own)
        counts = [str(n) for n in (tasks, audits, faults)] if row.role == "node" else [""] * 3
        change = row.after - row.before
        style = "red" if faults else "green" if change > 0 and row.role in ("node", "verifier") else ""
        who = f"{row.name} ({row.note})" if row.note else row.name
        cells = (who, *counts, _credit(row.before), _credit(row.after), f"{change / 1e18:+,.2f}")
        table.add_row(
            *(cell for column, cell in zip(columns, cells, strict=True) if column not in left_out), style=style
        )
    return table


def _audits_table(run: RunReport, width: int) -> Table:
    table = Table(title="Audits", title_justify="left")
    columns = ("task", "segment", "worker", "verdict", "auditors")[: 4 if width < WIDE else 5]
    for column in columns:
        table.add_column(column)
    for audit in run.audits:
        votes = ", ".join(f"{name}: {answer}" for name, answer in audit.answers.items())
        style = "red" if audit.verdict == "fault" else ""
        cells = (audit.task, str(audit.segment), audit.worker, audit.verdict, votes)
        table.add_row(*cells[: len(columns)], style=style)
    return table


def _credit(amount: int) -> str:
    return f"{amount / 1e18:,.2f}"
