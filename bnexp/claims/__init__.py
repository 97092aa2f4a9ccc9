"""Claims about normalization: each is declared in a yaml, run as sweeps, judged by one protocol, and reported.

In which order to read: ``declaration`` (what a yaml may say; ``parse`` reads it), ``design`` (a declaration under a
profile: arms, points, words), ``sweeps`` (the runs), ``measures`` (a number from a run, or from an arm over its axis),
``verdicts`` (the protocol: plain numbers in, a verdict out), ``judging`` (from runs to verdicts), ``exact`` (statements
that hold without statistics), ``panels`` (the lines of the figure), ``result`` (everything the report needs), ``store``
(``result.json``), ``report`` (the page).
"""
