"""How the results of a round become one update: robust rules, and what products leave beside the averaged adapter.

Pure functions in binary64 whose every sum has a fixed order, so that all workers and verifiers have the same bits:
docs/federated.md.
"""
