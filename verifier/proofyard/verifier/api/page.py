"""`/`, for people: whether the verifier is well, its newest jobs and batches, who is connected, and where the rest is.

One page of HTML without scripts and without anything from elsewhere. Much of what it shows was written by strangers:
everything is escaped, and the browser is told to load and run nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from proofyard.verifier.api import queries, wire
from proofyard.verifier.api import types as out
from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.declaring import html

SHOWN = 20
"""Of each kind; the routes behind the headings have all."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
STYLE = """
:root { color-scheme: light dark }
body { font: 14px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.1rem; margin: 1.6rem 0 .3rem }
p { margin: .3rem 0 } .quiet { opacity: .7 } .good { color: #1a7f37 } .bad { color: #cf222e }
table { border-collapse: collapse; width: 100% } div { overflow-x: auto }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; vertical-align: top }
th { font-weight: 600 } td.number, th.number { text-align: right }
code { font-size: .9em } td code, td:last-child { white-space: nowrap }
"""

Cells = Sequence[str]


@dataclass(frozen=True)
class Shown:
    """What the page tells of."""

    status: out.Status
    health: out.Health
    ready: out.Ready
    jobs: out.Page[out.Job]
    batches: out.Page[out.Batch]
    nodes: out.Page[out.Node]


def add_page(app: FastAPI, api: Api) -> None:
    @app.get("/", responses=html(), response_class=HTMLResponse)
    async def page() -> Response:
        """Status, jobs, batches and nodes at a glance, for a browser."""
        engine = api.engine
        shown = Shown(
            status=api.told.status(),
            health=api.told.health(),
            ready=api.told.ready(),
            jobs=await api.in_thread(partial(queries.JOBS.page, engine, None, SHOWN)),
            batches=await api.in_thread(partial(queries.BATCHES_HERE.page, engine, None, SHOWN)),
            nodes=await api.ask(wire.Nodes(None, SHOWN), out.Page[out.Node]),
        )
        return HTMLResponse(page_of(shown), headers=HEADERS)


def page_of(shown: Shown) -> str:
    parts = [
        *_head(shown),
        *_table("Jobs", "/v1/jobs", JOB, [_job(job) for job in shown.jobs.items], shown.jobs.next),
        *_table("Batches", "/v1/batches", BATCH, [_batch(each) for each in shown.batches.items], shown.batches.next),
        *_table("Nodes", "/v1/nodes", NODE, [_node(node) for node in shown.nodes.items], shown.nodes.next),
        "<h2>More</h2><p>"
        + " &middot; ".join(link(path, path) for path in ("/v1/status", "/v1/faults", "/v1/disputes", "/v1/events"))
        + " &middot; "
        + " &middot; ".join(link(path, path) for path in ("/health", "/ready", "/metrics", "/openapi.json"))
        + "</p>",
    ]
    title = "<title>Proofyard verifier</title>"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8">{title}<style>{STYLE}</style>'
    return head + '<meta name="viewport" content="width=device-width">' + "\n".join(parts) + "</html>\n"


def link(path: str, text: str) -> str:
    return f'<a href="{escape(path)}">{escape(text)}</a>'


def _head(shown: Shown) -> list[str]:
    status, wrong = shown.status, [check for check in shown.ready.checks if not check.holds]
    said = [f'<p class="bad">not alive: {escape(reason)}</p>' for reason in shown.health.reasons]
    said += [f'<p class="bad">not ready: {escape(check.name)}: {escape(check.reason)}</p>' for check in wrong]
    if not said:
        said = ['<p class="good">alive and ready</p>']
    own = f", operator {escape(status.operator)}" if status.operator else ""
    return [
        "<h1>Proofyard verifier</h1>",
        f"<p><code>{escape(status.verifier)}</code>{own}</p>",
        *said,
        f"<p>{status.nodes} nodes connected &middot; block {status.block} of chain {escape(status.chain_id)}"
        f" &middot; version {escape(status.version) or 'unknown'}</p>",
        f'<p class="quiet">Registry <code>{escape(status.registry)}</code>, Court'
        f" <code>{escape(status.court)}</code>. This page shows how things are now; reload it for later.</p>",
    ]


def _table(title: str, path: str, names: Cells, rows: Sequence[Cells], more: str | None) -> list[str]:
    """A table whose cells are HTML already. A name that begins with # is that of a column of numbers."""
    heading = f"<h2>{link(path, title)}</h2>"
    if not rows:
        return [heading, f'<p class="quiet">No {escape(title.lower())} yet.</p>']
    kinds = [' class="number"' if name.startswith("#") else "" for name in names]
    first = "".join(f"<th{kind}>{escape(name.lstrip('#'))}</th>" for kind, name in zip(kinds, names, strict=True))
    body = [
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    ]
    rest = [f'<p class="quiet">The first {len(rows)}; {link(path, "all of them")}.</p>'] if more else []
    return [heading, f"<div><table><tr>{first}</tr>", *body, "</table></div>", *rest]


JOB = ("job", "state", "workload", "#tasks", "#work units paid", "requester", "")


def _job(job: out.Job) -> Cells:
    path = f"/v1/jobs/{job.id}"
    reason = f'<br><span class="quiet">{escape(job.reason)}</span>' if job.reason else ""
    parts = (("tasks", "tasks"), ("audits", "audits"), ("log", "log"), ("explain", "why"))
    return (
        *(link(path, job.id), escape(job.state) + reason, escape(job.workload), str(job.tasks)),
        *(f"{escape(job.units_paid)} of {escape(job.units)}", _short(job.requester)),
        " ".join(link(f"{path}/{part}", text) for part, text in parts),
    )


BATCH = ("batch", "state", "jobs", "#settled in block", "")


def _batch(batch: out.Batch) -> Cells:
    jobs = ", ".join(link(f"/v1/jobs/{line.job}", line.job) for line in batch.lines[:SHOWN])
    more = f" and {len(batch.lines) - SHOWN} more" if len(batch.lines) > SHOWN else ""
    path = f"/v1/batches/{batch.batch}"
    reason = f'<br><span class="quiet">{escape(batch.reason)}</span>' if batch.reason else ""
    return (
        link(path, batch.batch) if batch.batch is not None else "not on chain yet",
        *(escape(batch.state) + reason, jobs + more, str(batch.settled_block or "")),
        link(f"{path}/audits", "audits") if batch.batch is not None else "",
    )


NODE = ("node", "owner", "workloads", "#holds", "#takes", "#valid audits in a row", "#faults", "software")


def _node(node: out.Node) -> Cells:
    return (
        f'<a href="{escape(f"/v1/nodes/{node.address}")}">{_short(node.address)}</a>',
        *(_short(node.owner), escape(", ".join(node.workloads)), str(len(node.holds)), str(node.room)),
        *(str(node.consecutive_valid), str(node.faults), escape(node.software)),
    )


def _short(address: str) -> str:
    return f'<code title="{escape(address)}">{escape(address[:8])}&hellip;{escape(address[-4:])}</code>'
