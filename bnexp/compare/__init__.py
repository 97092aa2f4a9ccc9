"""Finished runs in; intervals, differences, tables, figures and pages out.

In which order to read: ``comparison`` (what is compared), ``effects`` (levels, differences, best values),
``working`` (what a rate that works is), ``statistics``, ``lookup`` (settings that the user names), ``notes`` (what has
to be said beside the numbers), ``tables`` (the comparison as a document), ``bands``, ``styles`` (the colour, dash and
marker of every arm), ``drawing`` (how figures look), ``figures``, ``depth`` (quantities over the layers), ``page``.
``overview`` has the documents of single runs and lists of runs, ``export`` their results as files.

A document is a list of ``blocks``. Each way to write it has a file: ``terminal``, ``markdown``, ``latex``, ``html``,
``data`` (CSV and JSON); ``formats`` names them for ``--format``, ``cells`` shortens numbers for people.
"""
