"""One run, or one stack of runs: from a config to a finished folder.

Read the files in this order: ``job`` (the config, name and folder of a run), ``choices`` (the builders that a config
names), ``imports`` (modules of the user's, which register more of them), ``check`` (finds errors before anything is
written) with ``own_layers`` (what layers of the user's do) and ``remarks`` (settings without effect), ``setup`` (builds
everything the loop needs), ``folder`` (where a run writes), ``restore`` (back to a checkpoint) with ``older``
(checkpoints of older versions), ``run`` (trains and writes the records) with ``clock`` (how long and how fast) and
``writers`` (threads that write), ``longer`` (a run whose length has changed), ``init_from`` (weights of another run)
with ``pixel_scale`` (what they were trained on), ``machine``, ``display``, ``worker`` (trains in a child process of a
sweep), ``check_sweep`` (checks all jobs of one), ``trained`` and ``weights`` (a finished run's model, for other
programs), ``dry_run`` and ``bench`` (the loop at learning rate 0, to measure memory and speed).
"""
