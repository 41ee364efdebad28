"""The names of all cheats, for people: what each does. No torch here; `adversary` and the node's own part do them.

`COMPUTING` ones are done wherever a task is computed, `BEHAVING` ones by the node around it.
"""

COMPUTING = {
    "bf16": "computes in bf16 instead of fp32",
    "copied-result": "hands in another worker's trace as its own",
    "crashing": "ends its process in the middle of every task",
    "everything-at-once": "fakes every task that it holds, averages included",
    "fake-all": "computes nothing and makes up every state",
    "half-batch": "trains on half of every batch",
    "learning-rate": "has a learning rate that is 10% off",
    "noise": "adds noise of 1% to each update",
    "short-sequences": "trains on half of every sequence",
    "skip-half": "leaves out half of the steps",
    "skip-tenth": "leaves out one step in ten",
    "stale-adapter": "starts from the adapter of an earlier round",
    "tiny-noise": "adds noise of 0.05% to each update, less than the tolerance: nobody sees it, and it saves nothing",
    "wrong-result": "hands in another result than its last state gives",
    "wrong-shard": "trains on another worker's data",
}

BEHAVING = {
    "colluding-pair": "two nodes of two owners: each skips half of its steps, and covers for the other in audits",
    "copying-auditor": "executes one audit and hands in its answer at all others",
    "false-accuser": "as an auditor contradicts every worker",
    "garbage-then-honest": "commits to garbage, and computes honestly only afterwards",
    "late": "begins when its lease is over",
    "lazy-auditor": "as an auditor executes nothing",
    "silent": "accepts work and is not heard of again",
    "silent-when-audited": "withholds its states after committing to them",
}

ZOO = dict(sorted((COMPUTING | BEHAVING).items()))

KEEPING_STAKE = {"crashing", "late", "silent"}
"""Those whose faults come before any commitment: they cost the task's pay and never stake."""
