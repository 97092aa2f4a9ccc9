"""Sweeps: many runs under one supervisor, each in a process of its own.

In which order to read: ``plan`` (the file that says what there is to do and how it stands), ``supervisor`` (what runs
when, and what a job's end means), ``nursery`` and ``worker`` (the processes), ``checking`` (all that can be known to be
wrong before anything starts), ``stacks`` (jobs that can share a process).

This side of the fork imports no torch: the supervisor is a small process that starts at once.
"""
