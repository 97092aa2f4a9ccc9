"""Many runs under one supervisor, each in its own process.

Read the files in this order: ``plan`` (the file that lists the jobs and their states), ``draws`` (random values of
settings), ``carry_out`` (a sweep from its folder to its summary), ``preflight`` (checks before any job starts) with
``stacking`` (which jobs train as one population), ``supervisor`` (decides what follows when a task ends), ``engine``
(what carries tasks: ``local``, ``slurm``, ``ray``), ``node`` (starts a task's process on a node of an engine),
``fork_server`` (forks the processes of this machine), ``options``, ``display``. The code of the processes that train is
in ``experiment/worker``.

This room imports no torch, so the supervisor is a small process that starts at once.
"""
