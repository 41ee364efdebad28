"""The verifier over HTTP: what it does, why, and how it is, for dashboards, scripts and people. Read only, without a
signature, on loopback unless told otherwise; docs/operate.md describes it, `/openapi.json` in full.

It is a process of its own. On the verifier's side `serving` starts it and keeps it, `telling` says what only the
verifier knows; `wire` is what both say to each other. In the process (`process`) `told` is what it was told, `app` the
routes (a module for each subject), `bounds` what is refused and how errors look. `answering` is what routes answer
from: pages (`queries`, read by `reading`), explanations (`explainer`, whose statements are in `statements`), live
events (`streams`).
"""
