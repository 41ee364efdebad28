"""Rounds that nodes close among themselves: who proposes, who votes, what makes a certificate. No part of it reads,
writes or sends; nothing runs it yet (docs/federated.md, Nobody in charge).
"""
