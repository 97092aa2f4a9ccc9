"""Finished runs in; intervals, differences, tables, figures and pages out.

In which order to read: ``comparison`` (what is compared), ``effects`` (levels, differences, best values),
``statistics``, ``lookup`` (settings that the user names), ``notes`` (what has to be said beside the numbers),
``tables``, ``figures``, ``bands``, ``page`` and ``blocks`` (how it is shown).
"""
