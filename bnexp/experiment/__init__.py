"""One run, or one stack of runs: from a config to a finished folder.

In which order to read: ``job`` (what is to be done), ``choices`` (the builders that a config names), ``check`` (what
can be wrong before anything is written), ``setup`` (everything the loop needs), ``run`` (train, keep the records),
``init_from`` (weights of another run), ``machine``, ``display``, ``worker`` (the same in a child process of a sweep),
``dry_run`` and ``bench`` (the loop at learning rate 0, for memory and for speed).
"""
