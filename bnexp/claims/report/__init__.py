"""The results of claims as pages.

In which order to read: ``page`` (all files), ``reading`` (a result with its declaration), ``front`` (the first page),
``section`` (the page of a claim), ``words`` (verdicts, effects and arms in words), ``figures``, ``tables``, ``seeds``
(the numbers of all seeds), ``place`` (addresses), ``prose``.
"""
