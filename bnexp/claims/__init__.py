"""Claims about normalization: declared in one yaml each, run as sweeps, judged by one protocol, reported.

In which order to read: ``declaration`` (what a yaml may say, and its checks), ``design`` (a declaration under a
profile: arms, points, words), ``sweeps`` (the runs), ``measures`` (one number of a run, or of an arm over its axis),
``verdicts`` (the protocol; plain numbers in, a verdict out), ``judging`` (from runs to verdicts), ``exact`` (what holds
without statistics), ``result`` (all of it as one file), ``report`` (the page).
"""
