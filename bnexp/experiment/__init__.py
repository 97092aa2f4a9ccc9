"""One run, or one stack of runs: from a config to a finished folder.

Read the files in this order: ``job`` (the config, name and folder of a run), ``choices`` (the builders that a config
names), ``check`` (finds errors before anything is written), ``setup`` (builds everything the loop needs), ``folder``
(where a run writes), ``restore`` (back to a checkpoint), ``run`` (trains and writes the records), ``longer`` (a run
whose length has changed), ``init_from`` (weights of another run), ``machine``, ``display``, ``worker`` (trains in a
child process of a sweep), ``trained`` and ``weights`` (a finished run's model, for other programs), ``dry_run`` and
``bench`` (the loop at learning rate 0, to measure memory and speed).
"""
