"""Claims about normalization: each is declared in a yaml, run as sweeps, judged by one protocol, and reported.

In which order to read: ``declaration`` (what a yaml may say; ``parse`` reads it), ``design`` (a declaration under a
profile: arms, points, words), ``declared`` (what is written down before the first run), ``sweeps`` (the runs),
``tuning`` (which value of a grid), ``measures`` (a number from a run, or from an arm over its axis), ``resolution``
(how finely it can be told), ``verdicts`` (the protocol: numbers in, a verdict out), ``judging`` (from runs to
verdicts), ``answers`` (one answer a claim), ``exact`` (statements that hold without statistics), ``panels`` (the lines
of the figure), ``result`` (everything the report needs), ``store`` (``result.json``), ``trial`` (one claim from first
to last), ``lanes`` (several at once), ``cost`` (what they cost), ``power`` (a pilot), ``draft`` (a new yaml),
``report`` (the page).
"""
