"""The names of all cheats, for people: what each does. No torch here; `adversary` and the node's own part do them.

`COMPUTING` ones are done wherever a task is computed, `BEHAVING` ones by the node around it.
"""

COMPUTING = {
    "bf16": "rounds weights and activations to bf16",
    "blown-adapter": "plants weights so large that no gradient is left, and computes nothing more",
    "copied-result": "hands in another worker's trace, or the lines after, as its own",
    "crashing": "ends its process in the middle of every task",
    "dead-adapter": "plants an adapter of zeros, which no gradient reaches, and computes nothing more",
    "everything-at-once": "fakes every task that it holds, scores included",
    "faint-adapter": "plants an adapter too small for any gradient, and lets the moments decay without computing",
    "fake-all": "computes nothing and makes up every state",
    "flipped-answer": "lets the choices of one question trade their losses",
    "fp16": "rounds weights and activations to fp16",
    "half-batch": "trains on half of every batch",
    "learning-rate": "has a learning rate that is 10% off",
    "low-bits": "computes with weights of 12 bits",
    "moments-nudged": "makes second moments larger by 2^-20 of themselves",
    "noise": "adds noise of 1% to each update or row",
    "planted-moments": "plants second moments of 2e9, which no gradient changes, and computes nothing more",
    "pruned": "drops the smallest 1% of the model's weights",
    "rows-nudged": "changes one bit of one number of each table",
    "short-sequences": "trains on half of every sequence",
    "skip-half": "leaves out half of the steps or rows",
    "skip-once": "leaves out half of the steps in a job's first round, and is honest afterwards",
    "skip-tenth": "leaves out one step or row in ten",
    "stale-adapter": "starts from the adapter of an earlier round",
    "tf32": "rounds weights and activations to the 10 bits of TF32",
    "tiny-noise": "adds noise of 0.05% to each update or row",
    "trap": "plants a negative second moment, from which nobody can go on, and computes nothing more",
    "wrong-result": "hands in another result than its states give",
    "wrong-shard": "trains on another worker's data, or computes other lines",
    "wrong-step": "plants a state of another step, from which nobody can go on, and computes nothing more",
}

BEHAVING = {
    "colluding-pair": "two nodes of two owners: each skips half of its steps, and covers for the other in audits",
    "copying-auditor": "as an auditor seals what the worker hands it, and executes nothing that it is handed",
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
