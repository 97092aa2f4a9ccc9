"""The results of claims as one page.

In which order to read: ``page``, ``section`` (one claim), ``cells`` (numbers as a reader sees them), ``figures``,
``prose`` (fixed texts).
"""
