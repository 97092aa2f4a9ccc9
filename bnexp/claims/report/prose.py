"""What the report of the claims says besides its numbers."""

from __future__ import annotations

LEAD = (
    "What is said about normalization in lectures, articles and papers, each as an experiment that is declared in one "
    "file: arms, budget, seeds, and the smallest effect that would matter. Most are true only under some "
    "conditions, so a verdict belongs to a test and a regime; a saying names beforehand which of them it stands on."
)

PROTOCOL = (
    "The unit of replication is the seed. It sets initial weights, order of batches, augmentation and noise; arms with "
    "equal seeds start alike in all layers that they share and see the same batches, and are compared seed by seed.",
    'The estimate is the mean of the differences with a t-interval of 95 % (of 90 % for equalities and "at least"). '
    "Under each effect stands which arm is compared with which: a - b is the first minus the second, a / b the first "
    "over the second. d_z is the effect size.",
    "Ratios (steps, learning rates, losses) are compared as logarithms and shown as geometric-mean ratios.",
    "Each test declares the smallest effect of interest, delta. The first verdict that fits is given. Contradicted "
    "(reversed): the interval lies below 0. Negligible: it lies below delta. Supported: it lies above delta. Supported "
    "(size open): it lies above 0, and the mean reaches delta. Inconclusive: everything else.",
    "A sentence with a number (twice the steps) is supported only if the interval lies above that number, and "
    "contradicted if it lies below. A claim that there is no difference is supported if the interval lies within plus "
    'and minus delta (two one-sided tests), contradicted if it lies outside. A claim of "at least as good" is '
    "supported above -delta, contradicted below -delta.",
    "p is that of the verdict's own null hypothesis: no effect for a size that is open, an effect of delta or more for "
    "negligible. It is the exact share of sign flips of the differences, taken from that null, that lie as far out; it "
    "needs no normal law, but symmetric differences (given by arms that can be exchanged, where the null is 0).",
    "A number that is known to a step only (a largest workable rate, a share of rates, a count, steps to a target) "
    "makes the interval wider by half a step of each arm at both ends. An interval never leaves the bounds of its "
    "metric.",
    "Beside the mean stands the Hodges-Lehmann estimate with the interval of the exact signed-rank test, which one "
    "seed can move little; a note says where its verdict is another one. A verdict hangs on one seed if leaving a seed "
    "out gives another word.",
    'Inconclusive, "n = 34 for a verdict on the effect seen": with so many seeds a verdict comes with a chance of '
    "80 %, if the true effect and standard deviation are those seen here.",
    "No verdict is given with fewer than six seeds: with five, the smallest possible sign-flip p is 0.0625.",
    "Regimes: equal hyperparameters for all arms, and each arm at its own best. Tuning uses other seeds, and images "
    "set apart from the training set (or the training loss where a test is about that); verdicts use fresh seeds.",
    "Tuning has five seeds and the rule of one standard error: of the values that are as good as the best, the middle. "
    "A grid of learning rates grows by itself, by one value at a time and at most four, while its best value is on an "
    "edge.",
    "A best value on the edge of its grid makes a verdict inconclusive (grid edge), as a better one may lie outside; "
    "so does a largest workable value at the end of its axis where a longer axis could turn the verdict.",
    "Inconclusive (censored): seeds without a value are missing in one arm only, and would have spoken against the "
    "verdict.",
    "A run diverges when its loss is not finite. It counts as chance for accuracies and as censored for steps to a "
    "target; how many did is printed, and compared by McNemar's exact test.",
    "Steps to a target are censored at the budget: the share that reached it is printed, and ratios are over the seeds "
    "where all arms did.",
    "A claim has one declared primary test, or several that must all hold; they alone answer its sentence. The "
    "answer's p is the largest of several where all hold, and the smallest times their number where one is "
    "contradicted. p (Holm) adjusts it over all claims of this report; an answer that does not survive says so. "
    "The p of all other tests are those of single tests.",
    "A check says whether an arm does what it is there for. Tests that need a check that fails have no verdict.",
    "The finite test set adds an error that arms with equal seeds partly share; its standard error is printed as the "
    "limit of what can be said beyond these test images.",
)

GLOSSARY = (
    ("arm", "one of the variants that are compared; what it sets stands under Arms"),
    (
        "Hodges-Lehmann",
        "the median of all averages of two differences, with the interval of the exact signed-rank test "
        "(Hodges & Lehmann 1963)",
    ),
    ("d_z", "mean over standard deviation of the differences of pairs (Cohen 1988)"),
    (
        "p",
        "share of all 2^n choices of signs of the differences (less the null's value) whose sum lies at least as far "
        "out",
    ),
    ("p (Holm)", "p made larger for the number of claims, so that all below 0.05 are right together (Holm 1979)"),
    ("pp", "percentage points: differences of accuracies in percent"),
    (
        "precise statistics",
        "means and variances of batch norm over the training data at the present weights, instead of running averages; "
        "metrics that end in _precise are evaluated with them",
    ),
    ("core time", "time of all runs added up, each on one core or device"),
)

ARTICLES = (
    "The source articles are numbered: 000, notes on a lecture of Dive into Deep Learning about batch norm; 001, a "
    "walk through the batch norm paper; 002, an overview; 003, course notes on tuning and batch norm; 004, "
    'initialization, batch norm and group norm. "Articles 000-7" under a claim is statement 7 of source article 000. '
    "Where they are wrong, the experiments use what is correct:"
)

ERRATA = (
    (
        "001",
        "the gain starts as the variance of the batch",
        "gain = sqrt(var + eps) and bias = mean restore the input; usual is gain 1, bias 0",
    ),
    ("003", "variance = (1/m) sum(z_i - mean^2)", "(1/m) sum (z_i - mean)^2"),
    ("003", "output = gain times z_norm, and sums over n divided by m", "gain * z_norm + bias, with one m throughout"),
    (
        "004",
        "Kaiming's standard deviation is 2/sqrt(n)",
        "sqrt(2/n); the other one multiplies the signal by sqrt(2) a layer",
    ),
    (
        "004",
        "Kaiming is PyTorch's default",
        "the default is U(-1/sqrt(n), 1/sqrt(n)), a standard deviation of 0.577/sqrt(n)",
    ),
    ("004", "whitening makes data Gaussian", "it takes out correlations and makes variances 1; the shape stays"),
    (
        "002",
        "recurrent nets need batch norm parameters of their own at each time step",
        "statistics of their own; gain and bias are shared",
    ),
    ("000", "weight decay divides the weights", "w <- (1 - lr * decay) w - lr * gradient"),
    ("000", "of two curves, the former and the latter", "the other way round"),
)
