"""The results of claims as one page.

In which order to read: ``page``, ``section`` (one claim), ``cells`` (effects, verdicts and intervals as table cells),
``figures``, ``prose`` (fixed texts).
"""
