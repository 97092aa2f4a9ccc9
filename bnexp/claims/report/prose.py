"""What the report of the claims says besides its numbers."""

from __future__ import annotations

LEAD = (
    "What is said about normalization in lectures, articles and papers, each as an experiment that is declared in one "
    "file: arms, budget, seeds, and the smallest effect that would matter. Most are true only under some "
    "conditions, so a verdict belongs to a test and a regime, never to a saying as a whole."
)

PROTOCOL = (
    "The unit of replication is the seed. It sets initial weights, order of batches, augmentation and noise; arms with "
    "equal seeds start alike in all layers that they share and see the same batches, and are compared seed by seed.",
    "The estimate is the mean of the differences with a 95 % t-interval; beside it stand a BCa bootstrap interval as a "
    "check, the exact two-sided sign-flip p and the effect size d_z. Under each effect stands which arm is compared "
    "with which: a - b is the first minus the second, a / b the first over the second.",
    "Ratios (steps, learning rates, losses) are compared as logarithms and shown as geometric-mean ratios.",
    "Each test declares the smallest effect of interest, delta. Supported: the interval excludes 0 and the mean "
    "reaches delta. Contradicted: the whole interval stays below delta, reversed if it also excludes 0 on the other "
    'side, else negligible. Inconclusive: everything else; "n = 17 to tell delta from 0" is the number of seeds that '
    "finds an effect of delta with 80 % power, given the standard deviation seen here.",
    "A claim that there is no difference is supported if the interval lies within plus and minus delta (two one-sided "
    'tests), contradicted if it lies outside. A claim of "at least as good" is supported if the interval lies above '
    "-delta, contradicted if it lies below -delta. Their p, marked (=) and (≥), are those of the one-sided tests.",
    "No verdict is given with fewer than six seeds: with five, the smallest possible sign-flip p is 0.0625.",
    "Regimes: equal hyperparameters for all arms, and each arm at its own best. Tuning uses other seeds, and images "
    "set apart from the training set (or the training loss where a test is about that); verdicts use fresh seeds.",
    "A best value on the edge of its grid makes a verdict inconclusive (grid edge), as a better one may lie outside; "
    "so does a largest workable value at the end of its axis where a longer axis could turn the verdict.",
    "Inconclusive (grid step): a largest working value is known to one step of its axis only, and the effect is not "
    "larger than delta and one step together.",
    "Inconclusive (censored): seeds without a value are missing in one arm only, and would have spoken against the "
    "verdict.",
    "A run diverges when its loss is not finite. It counts as chance for accuracies and as censored for steps to a "
    "target; how many did is printed, and compared by McNemar's exact test.",
    "Steps to a target are censored at the budget: the share that reached it is printed, and ratios are over the seeds "
    "where all arms did.",
    "Verdicts are those of single tests at 95 %. The column p (Holm) adjusts the p of the paired t-test (for equality "
    "and at-least tests that of the one-sided tests) over all tests of this report, since a sign-flip p cannot fall "
    "below 2/2^n.",
    "The finite test set adds an error that arms with equal seeds partly share; its standard error is printed as the "
    "limit of what can be said beyond these test images.",
)

GLOSSARY = (
    ("arm", "one of the variants that are compared; what it sets stands under Arms"),
    ("BCa", "bias-corrected and accelerated bootstrap interval of the mean difference (Efron 1987)"),
    ("d_z", "mean over standard deviation of the differences of pairs (Cohen 1988)"),
    ("sign-flip p", "share of all 2^n choices of signs of the differences whose mean is at least as far from 0"),
    ("(=), (≥)", 'p of the one-sided t-tests, against delta, of an equality or of an "at least"'),
    (
        "p (Holm)",
        "p of the t-test made larger for the number of tests: all rejections below 0.05 are right together with a "
        "chance of at least 95 % (Holm 1979)",
    ),
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
