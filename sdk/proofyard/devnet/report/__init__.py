"""One self-contained HTML page about a run: no script, no request to anywhere, readable in the dark and on paper."""

from proofyard.devnet.report.data import Audit, Balance, LossPoint, Mark, RunReport, Slash, Span
from proofyard.devnet.report.page import render_page

__all__ = ["Audit", "Balance", "LossPoint", "Mark", "RunReport", "Slash", "Span", "render_page"]
