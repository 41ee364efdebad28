"""The node: takes tasks and audits from verifiers, executes them, commits, seals, and serves what it made."""
