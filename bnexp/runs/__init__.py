"""A run's folder: written, verified, found, read back.

In which order to read: ``paths`` (where a run keeps its files), ``run_json`` (the small file by which a run is known),
``logbook`` (what a run leaves behind), ``metrics`` (its curves), ``events`` (the same for TensorBoard), ``checkpoint``,
``storage`` (files that exist whole or not at all), ``provenance``, ``collect`` (finished runs, found and read),
``arms`` (runs that are compared, grouped).
"""
