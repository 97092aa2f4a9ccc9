"""Many runs under one supervisor, each in its own process.

Read the files in this order: ``plan`` (the file that lists the jobs and their states), ``supervisor`` (starts jobs, and
decides what follows when one ends), ``fork_server`` (the process that forks jobs), ``preflight`` (checks before any job
starts), ``options``, ``display``. The code of the child processes is in ``experiment/worker``.

This room imports no torch, so the supervisor is a small process that starts at once.
"""
