"""What the report of the claims says besides its numbers."""

LEAD = (
    "What is said about normalization in lectures, articles and papers, each as an experiment that was declared "
    "before it was run: arms, budget, seeds, the test that decides, and the smallest effect that would matter. "
    "Most are true under some conditions only, so each answer names its own."
)

READ = (
    "Holds: the effect is shown to be larger than the smallest that matters. Holds, size open: there is an "
    "effect, which may be smaller or larger than that. Less than matters: if there is an effect in the "
    "direction that is claimed, it is too small to matter. Does not hold: the opposite was seen, or less than the "
    "number that is claimed, or a difference where none is claimed. Not decided: the interval leaves both open, or "
    "something speaks against the runs; the reason stands beside it.",
    "Points are percentage points of accuracy. \u201cBetween 3 and 5\u201d is the interval of 95 % over seeds (of 90 % "
    "for equalities and \u201cat least\u201d). Arms with equal seeds start alike and see the same batches, and are "
    "compared seed by seed.",
    "p is the share of sign patterns of the differences that lie as far from the verdict's own null hypothesis; "
    "p (Holm) is adjusted for all claims of this page, so that all answers below 0.05 are right together in 95 "
    "of 100 such pages, if differences are symmetric; where they are not, more are wrong, as the protocol measures. "
    "An answer that does not survive that says so, and so does one that hangs on a single "
    "seed. The p of further tests are those of single tests.",
    "Regimes: equal settings for all arms, or each arm at its own best, which was found with other seeds and "
    "with images set apart from the training set. The answer stands on the tests that were declared for it; a "
    "claim's page says what the other regime says.",
    "Precise statistics: means and variances of batch norm over the training data at the present weights, "
    "instead of running averages.",
    "A run that diverges counts as chance for accuracies, and as missing for steps to a target.",
    "An answer is one of small networks at one budget. A claim's page says what was tried, and what would change it.",
)
