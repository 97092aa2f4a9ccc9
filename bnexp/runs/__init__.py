"""A run's folder: how it is written, verified, found and read back.

Read the files in this order: ``paths`` (names of a run's files), ``run_json`` (the small file that identifies a run),
``logbook`` (writes a run's records), ``metrics`` (the curves), ``events`` (the curves for TensorBoard), ``checkpoint``,
``storage`` (atomic files and locked folders), ``longer`` (runs whose length changes), ``provenance``, ``collect``
(finds and reads runs), ``arms`` (groups runs for comparison), ``tags`` and ``prune`` (what a user changes afterwards).
"""
