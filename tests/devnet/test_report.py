import re
from html.parser import HTMLParser

import pytest

from proofyard.devnet.report import Audit, Balance, LossPoint, RunReport, Slash, render_page
from proofyard.devnet.report.charts import rolling_mean, ticks
from proofyard.devnet.report.history import answers_of, losses_of, marks_of, spans_of
from proofyard.protocol.audit import Verdict
from proofyard.protocol.manifest import TaskSpec
from proofyard.protocol.messages import LogLine
from proofyard.protocol.record import AuditedSegment, AuditVote
from proofyard.protocol.seal import CANNOT_EXECUTE
from proofyard.protocol.types import Address, Cid, Digest, JobId, SegmentIndex, Signature, TaskIndex, Wei

A, B, C = Address("0x" + "a" * 40), Address("0x" + "b" * 40), Address("0x" + "c" * 40)
NAMES = {A: "node-1", B: "node-2"}
TASKS = {
    TaskIndex(0): TaskSpec(index=TaskIndex(0), kind="train", label="round 0, worker 0"),
    TaskIndex(1): TaskSpec(index=TaskIndex(1), kind="train", label="round 0, worker 1"),
}


def line(at: float, kind: str, task: int | None = None, node: Address | None = None, **more: float) -> LogLine:
    return LogLine(0, 100 + at, kind, f"{kind} it", None if task is None else TaskIndex(task), node, **more)


LOG = (
    line(1, "assigned", 0, A),
    line(2, "progress", 0, A, loss=3.5, step=1),
    line(4, "lost", 0, A),
    line(5, "assigned", 0, B),
    line(9, "committed", 0, B),
    line(10, "batch"),
    line(11, "audit-assigned", 0, A),
    line(13, "sealed", 0, A),
    line(14, "fault", 0, B),
    line(15, "settled"),
    line(16, "slashed", None, B),
)


def test_the_log_becomes_spans_with_their_outcome() -> None:
    spans = spans_of(LOG, TASKS, NAMES, since=100)
    assert [(s.node, s.kind, s.start, s.end, s.outcome) for s in spans] == [
        ("node-1", "train", 1, 4, "lost"),
        ("node-2", "train", 5, 9, "fault"),
        ("node-1", "audit", 11, 13, "ok"),
    ]


def test_the_log_becomes_losses_and_chain_events() -> None:
    assert [(p.node, p.at, p.loss) for p in losses_of(LOG, TASKS, NAMES, since=100)] == [("node-1", 2, 3.5)]
    assert [(m.at, m.kind) for m in marks_of(LOG, since=100)] == [(10, "batch"), (15, "settled"), (16, "slashed")]


def test_answers_are_told_in_words() -> None:
    claimed, other = Digest(b"c" * 32), Digest(b"o" * 32)
    votes = tuple(
        AuditVote(node, bytes(32), Signature(bytes(65)), answer, bytes(32), reason, bytes(32))
        for node, answer, reason in ((A, claimed, ""), (B, other, ""), (C, CANNOT_EXECUTE, "a trap"))
    )
    place = (JobId(1), TaskIndex(0), SegmentIndex(0))
    audit = AuditedSegment(*place, votes, (), Verdict.UNDECIDED)
    assert answers_of(audit, claimed, NAMES | {C: "node-3"}) == {
        "node-1": "the same",
        "node-2": f"another state, {other.hex()[:8]}",
        "node-3": "cannot be executed, a trap",
    }
    alike = AuditedSegment(*place, votes[:2], (), Verdict.VALID, alike=((other, claimed),))
    assert set(answers_of(alike, claimed, NAMES).values()) == {"the same"}


@pytest.mark.parametrize(("low", "high"), [(0, 100), (2.87, 3.41), (0, 0), (0.001, 0.0012)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert len(found) <= 11
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def test_the_mean_runs_over_the_steps_of_all_nodes_in_the_order_of_time() -> None:
    losses = [LossPoint("node-1", "a", float(i), 2.0) for i in range(8)]
    losses += [LossPoint("node-2", "b", i + 0.5, 4.0) for i in range(8)]
    assert rolling_mean(losses) == [(7.5, 3.0)]
    assert rolling_mean(losses[:15]) == []


def sample_run() -> RunReport:
    return RunReport(
        title="A run",
        started="2026-01-01",
        model="tiny",
        seed=7,
        seconds=61,
        peak_rss_bytes=10**9,
        loss_before=3.2,
        loss_after=2.9,
        sample_prompt="In the",
        sample_before="<script>alert(1)</script>",
        sample_after="beginning & end",
        adapter_cid=Cid("bafkadapter"),
        adapter_dir="out/demo/adapter",
        conserved=True,
        supply=Wei(10**27),
        refundable=Wei(53 * 10**18),
        verifiers_earned=Wei(5 * 10**18),
        batches=2,
        gas_per_task=51_000,
        result_bytes=61_380,
        nodes=("node-1", "node-2"),
        losses=losses_of(LOG, TASKS, NAMES, since=100),
        spans=spans_of(LOG, TASKS, NAMES, since=100),
        marks=marks_of(LOG, since=100),
        audits=(Audit("round 0, worker 0", 2, "node-2", {"node-1": "another state, 0f0f0f0f"}, "fault", "it differs"),),
        balances=(Balance("node-2", "node", B, Wei(10**21), Wei(0), "slashed"),),
        slashes=(Slash("node-2", B, Wei(10**21), "it differs"),),
    )


class Tags(HTMLParser):
    """Checks that every element is closed, and collects what could reach outside."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_reaches_nowhere() -> None:
    page = render_page(sample_run())
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.scripts == 0
    assert not re.search(r"https?://|url\(|src=|href=|@import", page)


def test_text_from_a_model_is_shown_and_not_run() -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in render_page(sample_run())


def test_the_page_names_every_slash_and_broken_books() -> None:
    run = sample_run()
    assert "1,000.00" in render_page(run)
    assert '<b class="good">5.00</b><span>CREDIT earned by verifiers' in render_page(run)
    assert "Of what the Registry holds 53.00 go back" in render_page(run)
    broken = RunReport(**{**{name: getattr(run, name) for name in run.__dataclass_fields__}, "conserved": False})
    assert "BROKEN" in render_page(broken)
