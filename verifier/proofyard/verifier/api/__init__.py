"""The verifier over HTTP: what it does, why, and how it is, for dashboards, scripts and people. Read only, without a
signature, on loopback unless told otherwise; docs/operate.md describes it, `/openapi.json` in full.

`serving` is the thread and the sockets, `app` the routes (a module for each subject), `bounds` what is refused and how
errors look. `answering` is what routes answer from: pages (`queries`, read by `reading`), explanations (`explainer`,
whose statements are in `statements`), and what the engine knows.
"""
