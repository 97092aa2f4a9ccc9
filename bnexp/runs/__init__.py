"""A run's folder: how it is written, verified, found and read back.

Read the files in this order: ``paths`` (names of a run's files), ``run_json`` and ``sweep_json`` (the small files that
identify runs and sweeps) with ``json_file`` (how they are read) and ``digest`` (of files that grow), ``logbook``
(writes a run's records), ``metrics`` (the curves), ``events`` (the curves for TensorBoard), ``checkpoint``, ``storage``
(atomic files and locked folders), ``longer`` (runs whose length changes), ``next_command`` (what goes on with a run),
``provenance``, ``collect`` (finds and reads runs), ``arms`` (groups runs for comparison), ``tags`` and ``prune`` (what
a user changes afterwards).
"""
