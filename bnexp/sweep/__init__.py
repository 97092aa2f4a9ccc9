"""Many runs under one supervisor, each in a process of its own.

In which order to read: ``plan`` (the file that says what there is to do and how it stands), ``supervisor`` (what runs
when, and what a job's end means), ``fork_server`` (the process that forks jobs), ``preflight`` (checks before anything
starts), ``options``, ``display``. What the child processes do is in ``experiment/worker``.

This room imports no torch: the supervisor is a small process that starts at once.
"""
