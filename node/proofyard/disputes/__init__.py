"""What happens after a settlement: replaying it, finding what is wrong with it, judging a challenge, voting on it.

Jurors, challengers and co-signing verifiers all use this; it needs the chain, artifacts and, to execute, an executor.
"""
