"""Workloads: tasks as chains of segments, their states, how results are compared, and the process that runs them.

Importing this package or a workload's own module never loads torch; only the child process of an `Executor` does.
"""
