"""Rounds that nodes close among themselves (docs/federated.md, Nobody in charge): who proposes, who votes, what makes a
certificate. `machine` decides and neither reads, writes nor sends; the others are what surrounds it.
"""
