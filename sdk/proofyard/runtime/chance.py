"""Choices of a running program: from the system, so that no peer foresees them and no seeded sequence is used up."""

from random import SystemRandom

chance = SystemRandom()
