"""The page around the drawings: facts, tables, text samples."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from proofyard.devnet.report.charts import MEAN_OF, colour_of, loss_chart, timeline
from proofyard.devnet.report.data import RunReport


def render_page(run: RunReport) -> str:
    """A complete HTML document. Everything from outside (model text, reasons) is escaped."""
    style = files("proofyard.devnet.report").joinpath("style.css").read_text(encoding="utf-8")
    body = "\n".join(
        (
            _head(run),
            _facts(run),
            _loss(run),
            _timeline(run),
            _audits(run),
            _slashes(run),
            _balances(run),
            _samples(run),
            _foot(run),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(run.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def _head(run: RunReport) -> str:
    honest = len(run.nodes) - len({slash.node for slash in run.slashes})
    return (
        f"<h1>{escape(run.title)}</h1>\n"
        f'<p class="lead">{escape(run.model)} fine-tuned by {len(run.nodes)} nodes on one machine, every result '
        f"checked by audits and paid on a local chain. {honest} worked honestly, {len(run.nodes) - honest} cheated. "
        f"Started {escape(run.started)}, seed {run.seed}.</p>"
    )


def _facts(run: RunReport) -> str:
    change = 100 * (run.loss_after / run.loss_before - 1)
    caught = sum(audit.verdict == "fault" for audit in run.audits)
    facts = (
        (f"{change:+.1f}%", f"held-out loss, {run.loss_before:.3f} &rarr; {run.loss_after:.3f}", ""),
        (f"{len(run.audits)}", f"segments audited, {caught} found false", ""),
        (_credit(sum(slash.amount for slash in run.slashes)), "CREDIT slashed", "bad" if run.slashes else ""),
        (
            "exact" if run.conserved else "BROKEN",
            "token balances add up",
            "good" if run.conserved else "bad",
        ),
        (_credit(run.verifiers_earned), "CREDIT earned by verifiers", "good" if run.verifiers_earned > 0 else "bad"),
        (f"{run.gas_per_task:,}", f"gas a task, in {run.batches} batches", ""),
        (f"{run.result_bytes:,}", "bytes in a task's result", ""),
        (f"{int(run.seconds) // 60}:{int(run.seconds) % 60:02d} min", "from start to end", ""),
        (f"{run.peak_rss_bytes / 1e9:.1f} GB", "peak memory, all processes", ""),
    )
    cells = "".join(
        f'<div class="fact"><b class="{kind}">{big}</b><span>{small}</span></div>' for big, small, kind in facts
    )
    return f'<div class="facts">{cells}</div>'


def _loss(run: RunReport) -> str:
    keys = [(colour_of(node, run.nodes), node) for node in run.nodes if any(p.node == node for p in run.losses)]
    legend = "".join(f'<span class="{colour}"><i></i>{escape(node)}</span>' for colour, node in keys)
    legend += f'<span style="--c: var(--ink)"><i></i>mean of {MEAN_OF} steps</span>'
    chart = loss_chart(run.losses, run.nodes, before=run.loss_before, after=run.loss_after, seconds=_last_moment(run))
    return _section(
        "Loss",
        "Training loss as each node reported it, step by step, since the job was opened; the dashed line joins the "
        "held-out loss of the base model with that of the result.",
        f'<div class="legend">{legend}</div>{chart}',
    )


def _timeline(run: RunReport) -> str:
    names = (("train", "training"), ("audit", "auditing"), ("bad", "faulty work"))
    legend = "".join(f'<span style="--c: var(--{name})"><i></i>{text}</span>' for name, text in names)
    legend += '<span style="--c: var(--accent)"><i></i>chain event</span>'
    chart = timeline(run.spans, run.marks, run.nodes, seconds=_last_moment(run))
    return _section(
        "Timeline",
        "Who was busy with what, in seconds since the job was opened.",
        f'<div class="legend">{legend}</div>{chart}',
    )


def _audits(run: RunReport) -> str:
    rows = [
        (
            escape(audit.task),
            str(audit.segment),
            escape(audit.worker),
            ", ".join(f"{escape(name)}: {escape(answer)}" for name, answer in audit.answers.items()) or "&ndash;",
            _verdict(audit.verdict, audit.reason),
        )
        for audit in run.audits
    ]
    return _section(
        "Audits",
        "Each audited segment was computed again by nodes of other owners, drawn after the worker had committed. "
        "Everybody's arithmetic gives the same bits, so an answer is the state's digest, and equal or not.",
        _table(("Task", "Segment", "Worker", "Auditors and answers", "Verdict"), rows),
    )


def _slashes(run: RunReport) -> str:
    rows = [
        (escape(slash.node), _mono(slash.owner), _credit(slash.amount), escape(slash.reason)) for slash in run.slashes
    ]
    told = "What a false result cost its owner." if rows else "Nobody was slashed."
    return _section("Slashed", told, _table(("Node", "Owner", "CREDIT", "Reason"), rows, numeric={2}) if rows else "")


def _balances(run: RunReport) -> str:
    rows = [
        (
            escape(row.name),
            escape(row.role),
            _mono(row.address),
            _credit(row.before),
            _credit(row.after),
            _signed(row.after - row.before),
            escape(row.note and f"cheats: {row.note}"),
        )
        for row in run.balances
    ]
    sums = "adds up to the supply exactly" if run.conserved else "DOES NOT ADD UP to the supply"
    return _section(
        "Balances",
        f"Tokens held plus tokens staked, in CREDIT; everything together {sums} ({_credit(run.supply)}). Verifiers are "
        f"paid into their stake. Of what the Registry holds {_credit(run.refundable)} go back to the requester once "
        "nothing can be disputed any more.",
        _table(("Who", "Role", "Address", "Before", "After", "Change", ""), rows, numeric={3, 4, 5}),
    )


def _samples(run: RunReport) -> str:
    return _section(
        "In its own words",
        f"Greedy continuation of &ldquo;{escape(run.sample_prompt)}&rdquo;.",
        '<div class="samples">'
        f'<div><p class="dim">before</p><blockquote>{escape(run.sample_before)}</blockquote></div>'
        f'<div><p class="dim">after</p><blockquote class="after">{escape(run.sample_after)}</blockquote></div></div>',
    )


def _foot(run: RunReport) -> str:
    return (
        f"<footer><p>Adapter <code>{escape(run.adapter_cid)}</code> in <code>{escape(run.adapter_dir)}</code>. "
        "Every figure on this page was measured in this run.</p></footer>"
    )


def _section(title: str, lead: str, content: str) -> str:
    return f'<section><h2>{title}</h2><p class="dim">{lead}</p>{content}</section>'


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numeric: frozenset[int] | set[int] = frozenset()
) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="num">{cell}</{tag}>' if i in numeric else f"<{tag}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", header)}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _verdict(verdict: str, reason: str) -> str:
    kind = {"valid": "good", "fault": "bad"}.get(verdict, "dim")
    return f'<span class="{kind}">{escape(verdict)}</span>' + (f" {escape(reason)}" if reason else "")


def _mono(text: str) -> str:
    return f'<span class="mono" title="{escape(text)}">{escape(text[:8])}&hellip;{escape(text[-4:])}</span>'


def _credit(amount: int) -> str:
    return f"{amount / 10**18:,.2f}"


def _signed(amount: int) -> str:
    kind = "good" if amount > 0 else "bad" if amount < 0 else "dim"
    return f'<span class="{kind}">{amount / 10**18:+,.2f}</span>'


def _last_moment(run: RunReport) -> float:
    """The right edge of both drawings: when the last thing in them happened."""
    moments = [span.end for span in run.spans] + [mark.at for mark in run.marks] + [p.at for p in run.losses]
    return max(moments, default=1.0)
